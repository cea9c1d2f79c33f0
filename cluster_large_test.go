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

// A large value takes longer to cross a slow link than any bound on silence. It is
// written all the same, with a deadline that suffices and without one, wherever it
// is asked for, and neither sent twice nor copied to a member that does not own it.
func TestLargeSetOverSlowLinks(t *testing.T) {
	for _, link := range []struct {
		rate  int
		size  int
		delay time.Duration
	}{{32 * mbit, 12 << 20, 0}, {32 * mbit, 12 << 20, 50 * time.Millisecond}, {2 * mbit, 9 << 20, 20 * time.Millisecond}} {
		for _, from := range []int{0, 1, 2} {
			for _, bounded := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d bytes/s, %v, node %d, deadline %v", link.rate, link.delay, from, bounded), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c := peercachetest.NewCluster(t, 3)
						all := caches(t, c, peercache.Options[string]{})
						key := keysOf(c, 1, 0, 1)[0]
						time.Sleep(2 * time.Second) // former owners get writes for a moment
						c.Network.RateAll(link.rate)
						c.Network.DelayAll(link.delay)
						value := largeValue(link.size, 1)
						once := time.Duration(float64(link.size) / float64(link.rate) * float64(time.Second))
						ctx := t.Context()
						if bounded {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, 3*once)
							defer cancel()
						}
						before := sentBy(c)
						began := time.Now()
						require.NoError(t, all[from].Set(ctx, key, value))
						hops := 1.0
						if from != 0 {
							hops = 2
						}
						require.InDelta(t, hops*once.Seconds(), time.Since(began).Seconds(), 0.3*once.Seconds()+1)
						require.Less(t, sentBy(c)-before, int64((hops+0.3)*float64(link.size)), "it crosses each link once")
						for i := range all {
							v, err := all[i].Get(t.Context(), key)
							require.NoError(t, err)
							require.True(t, v == value)
						}
					})
				})
			}
		}
	}
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
			v, err := all[2].Get(t.Context(), key)
			require.NoError(t, err)
			require.True(t, v == largeValue(size, uint64(i)))
		}
	})
}
