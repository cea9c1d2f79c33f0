package peercache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

const mbit = 1_000_000 / 8 // bytes a second

// largeValue is a value that does not shrink.
func largeValue(size int, seed uint64) string {
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

// slowLinks starts a cluster, waits until former owners get writes no more, and
// makes its links slow.
func slowLinks(t *testing.T, n, rate int, delay time.Duration, mutate ...func(i int, cfg *peercache.Config)) *peercachetest.Cluster {
	c := peercachetest.NewCluster(t, n, mutate...)
	time.Sleep(2 * time.Second)
	c.Network.RateAll(rate)
	c.Network.DelayAll(delay)
	return c
}

// A large value takes longer to cross a slow link than any bound on silence. It is
// written all the same, with a deadline that suffices and without one, wherever it
// is asked for, and neither sent twice nor copied to a member that does not own it.
func TestLargeSetOverSlowLinks(t *testing.T) {
	for _, link := range []struct {
		rate, size, from int
		delay            time.Duration
		bounded          bool
	}{
		{32 * mbit, 12 << 20, 0, 0, true},
		{32 * mbit, 12 << 20, 0, 50 * time.Millisecond, false},
		{32 * mbit, 12 << 20, 1, 0, false},
		{32 * mbit, 12 << 20, 2, 50 * time.Millisecond, true},
		{32 * mbit, 12 << 20, 2, 0, false},
		{8 * mbit, 12 << 20, 2, 20 * time.Millisecond, true},
		{8 * mbit, 12 << 20, 1, 20 * time.Millisecond, false},
	} {
		t.Run(fmt.Sprintf("%+v", link), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := slowLinks(t, 3, link.rate, link.delay)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				value := largeValue(link.size, 1)
				once := time.Duration(float64(link.size) / float64(link.rate) * float64(time.Second))
				ctx := t.Context()
				if link.bounded {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 3*once)
					defer cancel()
				}
				before := sentBy(c)
				began := time.Now()
				require.NoError(t, all[link.from].Set(ctx, key, value))
				hops := 1.0
				if link.from != 0 {
					hops = 2
				}
				require.InDelta(t, hops*once.Seconds(), time.Since(began).Seconds(), 0.3*once.Seconds()+1)
				if link.rate >= 32*mbit {
					require.Less(t, sentBy(c)-before, int64((hops+0.3)*float64(link.size)), "it crosses each link once")
				}
				for i := range all {
					requireLarge(t, all[i], key, value)
				}
			})
		})
	}
}

// requireLarge gets a value, and does not print it.
func requireLarge(t *testing.T, cache *peercache.Cache[string], key, value string) {
	t.Helper()
	v, err := cache.Get(t.Context(), key)
	require.NoError(t, err)
	require.True(t, v == value, "%d bytes, and not the %d that were written", len(v), len(value))
}

// sentBy is how many bytes the nodes of a cluster have sent each other.
func sentBy(c *peercachetest.Cluster) (bytes int64) {
	for _, n := range c.Running() {
		for _, p := range n.Stats().Peers {
			bytes += p.BytesOut
		}
	}
	return bytes
}

// Many large values at once share a link: those that wait for their turn are not
// taken for silent.
func TestManyLargeSetsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxBytes = 1 << 30 })
		all := caches(t, c, peercache.Options[string]{})
		c.Network.RateAll(200 * mbit)
		const size, count = 9 << 20, 12
		var wait sync.WaitGroup
		before := sentBy(c)
		keys := keysOf(c, count, 0, 1)
		for i, key := range keys {
			wait.Go(func() {
				require.NoError(t, all[1+i%2].Set(t.Context(), key, largeValue(size, uint64(i))))
			})
		}
		wait.Wait()
		require.Less(t, sentBy(c)-before, int64(22*size*count/10))
		for i, key := range keys {
			requireLarge(t, all[2], key, largeValue(size, uint64(i)))
		}
	})
}

// A large value that is read over a slow link is an answer from its first byte on:
// nobody else is asked for it meanwhile, nothing is loaded again, and those that
// wait behind others are not given up.
func TestLargeGetsOverSlowLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, count = 6 << 20, 5
		var mu sync.Mutex
		loads := make(map[string]int) // guarded by mu
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{Load: func(_ context.Context, key string) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			loads[key]++
			return largeValue(size, uint64(len(key))) + key, nil
		}})
		time.Sleep(2 * time.Second)
		keys := keysOf(c, count, 0, 1)
		read := func(from int) {
			var wait sync.WaitGroup
			for _, key := range keys {
				wait.Go(func() { requireLarge(t, all[from], key, largeValue(size, uint64(len(key)))+key) })
			}
			wait.Wait()
		}
		c.Network.RateAll(32 * mbit)
		read(2) // loaded there, and copied to the replica meanwhile
		time.Sleep(time.Minute)
		before, hedges := sentBy(c), c.Nodes[3].Stats().Hedges
		began := time.Now()
		read(3)
		require.InDelta(t, float64(count*size)/(32*mbit), time.Since(began).Seconds(), 1)
		for _, key := range keys {
			mu.Lock()
			require.Equal(t, 1, loads[key])
			mu.Unlock()
		}
		require.Equal(t, hedges, c.Nodes[3].Stats().Hedges)
		require.Less(t, receivedBy(c.Nodes[3]), int64(count*size*11/10))
		require.Less(t, sentBy(c)-before, int64(1<<20))

		// With an owner that stops in the middle of it the next one answers.
		c.Network.RateAll(0)
		for _, key := range keys {
			require.NoError(t, all[0].Set(t.Context(), key, largeValue(size, 9)))
		}
		time.Sleep(2 * time.Second)
		c.Network.RateAll(32 * mbit)
		time.AfterFunc(time.Second, func() { c.Pause(0) })
		began = time.Now()
		requireLarge(t, all[2], keys[0], largeValue(size, 9))
		require.Less(t, time.Since(began), 4*time.Second)
		c.Resume(0)
	})
}

// receivedBy is how many bytes a node has got from others over connections that it
// made.
func receivedBy(n *peercache.Node) (bytes int64) {
	for _, p := range n.Stats().Peers {
		bytes += p.BytesIn
	}
	return bytes
}

// A member that joins over a slow link is filled for as long as something comes, and
// one that leaves waits for as long as others copy from it.
func TestLargeHandoverOverSlowLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, count = 10 << 20, 12
		c := peercachetest.NewCluster(t, 2)
		all := caches(t, c, peercache.Options[string]{})
		for i := range count {
			require.NoError(t, all[0].Set(t.Context(), fmt.Sprint(i), largeValue(size, uint64(i))))
		}
		c.Network.RateAll(6 * mbit)
		c.Start(2)
		began := time.Now()
		c.WaitFor("the joiner is active", 5*time.Minute, func() bool {
			return c.Nodes[2].Self().State == peercache.MemberActive
		})
		require.Greater(t, time.Since(began), 45*time.Second, "or this test asks for nothing")
		require.True(t, c.Nodes[2].Filled())
		all = append(all, newCache(t, c.Nodes[2], peercache.Options[string]{}))
		c.WaitAgree()
		time.Sleep(2 * time.Second)
		began = time.Now()
		c.Shutdown(0)
		require.Greater(t, time.Since(began), 35*time.Second, "or this test asks for nothing")
		c.Kill(1)
		c.WaitAgree()
		c.Network.RateAll(0)
		for i := range count {
			requireLarge(t, all[2], fmt.Sprint(i), largeValue(size, uint64(i)))
		}
	})
}

// A large write that its sender gave up, because nothing of it moved any more, is
// not stamped when the rest of it arrives after all: another owner has taken it, and
// a later one since.
func TestLargeWriteThatWasGivenUp(t *testing.T) {
	for cut := 2960 * time.Millisecond; cut <= 3200*time.Millisecond; cut += 40 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			c := slowLinks(t, 3, 32*mbit, 20*time.Millisecond)
			all := caches(t, c, peercache.Options[string]{})
			key := keyOf(c, 0, 1)
			time.AfterFunc(cut, func() { c.Network.Cut(c.Host(2), c.Host(0)) })
			require.NoError(t, all[2].Set(t.Context(), key, largeValue(12<<20, 1)))
			require.NoError(t, all[1].Set(t.Context(), key, "later"))
			c.Network.HealAll()
			time.Sleep(10 * time.Second)
			requireAll(t, key, "later", all...)
		})
	}
}
