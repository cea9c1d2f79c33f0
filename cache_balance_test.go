package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// clientHost is where a cluster's StartClient lives.
const clientHost = "10.255.0.1"

// link delays all between node i and another host, in both directions.
func link(c *peercachetest.Cluster, i int, host string, d time.Duration) {
	c.Network.Delay(c.Host(i), host, d)
	c.Network.Delay(host, c.Host(i), d)
}

// A peer that is always as slow as this is not a slow one: it is not hedged
// against for long, and never for more than its share.
func TestHedgesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		keys := keysOf(c, 100, 0, 1)
		for _, key := range keys {
			require.NoError(t, all[0].Set(t.Context(), key, "value"))
		}
		link(c, 0, c.Host(2), 40*time.Millisecond)
		const reads = 5000
		var last time.Duration
		for i := range reads {
			began := time.Now()
			requireAll(t, keys[i%len(keys)], "value", all[2])
			last = time.Since(began)
			time.Sleep(time.Millisecond)
		}
		stats := c.Nodes[2].Stats()
		t.Log(stats.Hedges, "hedges for", reads, "reads")
		require.LessOrEqual(t, stats.Hedges, int64(reads/50+1))
		require.Equal(t, 80*time.Millisecond, last, "by now it is known that this is usual")
		for _, p := range stats.Peers {
			if p.Name == c.Nodes[0].Self().Name {
				require.Equal(t, 80*time.Millisecond, p.Latency)
				require.Greater(t, p.Patience, 80*time.Millisecond)
				require.False(t, p.Silent)
			}
		}
	})
}

// Reads that begin while an owner is silent cost little, however many they
// are, and none of them is more than its share of hedges.
func TestManyReadsWhileThePrimaryIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		keys := keysOf(c, 500, 0, 1)
		for _, key := range keys {
			require.NoError(t, all[0].Set(t.Context(), key, "value"))
			requireAll(t, key, "value", all[2])
		}
		c.Pause(0)
		var wg sync.WaitGroup
		longest := make([]time.Duration, 4*len(keys))
		for i := range longest {
			wg.Go(func() {
				began := time.Now()
				v, err := all[2].Get(t.Context(), keys[i%len(keys)])
				longest[i] = time.Since(began)
				if err != nil || v != "value" {
					t.Error(v, err)
				}
			})
			time.Sleep(time.Millisecond / 2)
		}
		wg.Wait()
		t.Log("longest", slices.Max(longest))
		require.LessOrEqual(t, slices.Max(longest), 100*time.Millisecond)
		stats := c.Nodes[2].Stats()
		require.LessOrEqual(t, stats.Hedges, int64((len(keys)+len(longest))/50+1))
		for _, p := range stats.Peers {
			if p.Name == c.Nodes[0].Self().Name {
				require.Positive(t, p.Silences)
			}
		}
		c.Resume(0)
	})
}

// Requests to a peer that does not get on with them wait for each other, and
// say in the end why; those to others go on.
func TestRequestsUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Minute}
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: src.load, LoadTimeout: time.Hour})
		const beyond = 100
		keys := keysOf(c, peercache.MaxCallsPerPeer+beyond, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		errs := make([]error, len(keys))
		for i, key := range keys {
			if i == peercache.MaxCallsPerPeer {
				synctest.Wait()
				ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
			}
			wg.Go(func() { _, errs[i] = all[2].Get(ctx, key) })
		}
		time.Sleep(time.Second)
		other := keyOf(c, 1)
		require.NoError(t, all[1].Set(t.Context(), other, "value"))
		began := time.Now()
		requireAll(t, other, "value", all[2])
		require.Less(t, time.Since(began), 100*time.Millisecond)
		for _, p := range c.Nodes[2].Stats().Peers {
			if p.Name == c.Nodes[0].Self().Name {
				require.GreaterOrEqual(t, p.Requests, len(keys))
			}
		}
		wg.Wait()
		told := 0
		for _, err := range errs {
			require.ErrorIs(t, err, context.DeadlineExceeded)
			if e := fmt.Sprint(err); errors.Is(err, peercache.ErrUnavailable) {
				told++
				require.Contains(t, e, "requests to "+c.Addr(0)+" are under way")
			}
		}
		require.Equal(t, beyond, told)
		require.LessOrEqual(t, src.calls.Load(), int64(peercache.MaxCallsPerPeer))
	})
}

// slowest returns how long the slowest 1 % of reads take at least, made by
// several callers.
func slowest(t *testing.T, cache *peercache.Cache[string], keys []string, callers, reads int) time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			for k := range reads {
				began := time.Now()
				if v, err := cache.Get(t.Context(), keys[(i*reads+k*7)%len(keys)]); err != nil || v != "value" {
					t.Error(v, err)
				}
				d := time.Since(began)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took[len(took)*99/100]
}

func TestOneSlowPeerIsReadAround(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{ReadReplicas: true})
		keys := make([]string, 300)
		for i := range keys {
			keys[i] = fmt.Sprint("key-", i)
			require.NoError(t, all[i%4].Set(t.Context(), keys[i], "value"))
		}
		cache := newCache(t, c.StartClient(), peercache.Options[string]{ReadReplicas: true})
		c.Network.DelayAll(time.Millisecond)
		slowest(t, cache, keys, 8, 100)
		healthy := slowest(t, cache, keys, 8, 500)
		link(c, 1, clientHost, 3*time.Millisecond)
		slowest(t, cache, keys, 8, 100) // it has to be noticed
		slow := slowest(t, cache, keys, 8, 500)
		t.Log("healthy", healthy, "with one slow peer", slow)
		require.LessOrEqual(t, slow, healthy*3/2)
		link(c, 1, clientHost, time.Millisecond)
		slowest(t, cache, keys, 8, 500) // it has to be noticed again, which takes some of this round
		const rounds = 4
		before := all[1].Stats().ServerRequests
		for range rounds {
			slowest(t, cache, keys, 8, 500)
			time.Sleep(time.Second)
		}
		require.Greater(t, all[1].Stats().ServerRequests-before, int64(rounds*8*500/8), "it is asked again")
	})
}

// What a replica does not have yet is not taken for absent, and is not loaded
// again.
func TestReplicasAreAskedForWhatTheyHoldOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := new(source)
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: src.load, ReadReplicas: true})
		keys := keysOf(c, 50, 0, 1)
		for range 5 {
			for _, key := range keys {
				requireAll(t, key, "value of "+key, all[2])
				_, ok, err := all[2].Lookup(t.Context(), key)
				require.NoError(t, err)
				require.True(t, ok)
			}
			require.EqualValues(t, len(keys), src.calls.Load())
			time.Sleep(time.Second)
		}
		// A delete that was acknowledged is seen whoever answers.
		for _, key := range keys {
			require.NoError(t, all[0].Delete(t.Context(), key))
			_, ok, err := all[2].Lookup(t.Context(), key)
			require.NoError(t, err)
			require.False(t, ok)
		}
		require.Positive(t, all[1].Stats().ServerRequests)
		c.Kill(1)
		for _, key := range keys {
			requireAll(t, key, "value of "+key, all[2])
		}
		require.EqualValues(t, 2*len(keys), src.calls.Load())
	})
}

// The copy in the own zone is read until its member is much slower.
func TestReadsStayInTheZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zones := []string{"a", "b", "a", "b"}
		c := peercachetest.NewCluster(t, 4, func(i int, cfg *peercache.Config) { cfg.Zone = zones[i] })
		all := caches(t, c, peercache.Options[string]{ReadReplicas: true})
		c.Network.DelayAll(time.Millisecond)
		var keys []string
		for i := 0; len(keys) < 100; i++ { // which node 0 does not own
			if o := ownersOf(c, fmt.Sprint("key-", i)); !slices.Contains(o, 0) {
				keys = append(keys, fmt.Sprint("key-", i))
			}
		}
		for _, key := range keys {
			require.NoError(t, all[1].Set(t.Context(), key, "value"))
		}
		read := func() (served [4]int64) {
			for i := range served {
				served[i] = -all[i].Stats().ServerRequests
			}
			slowest(t, all[0], keys, 1, 1000)
			for i := range served {
				served[i] += all[i].Stats().ServerRequests
			}
			return served
		}
		read()
		served := read()
		require.GreaterOrEqual(t, served[2], int64(950), "%v", served)
		link(c, 2, c.Host(0), 20*time.Millisecond)
		read()
		served = read()
		require.LessOrEqual(t, served[2], int64(100), "%v", served)
	})
}

// One key that gets nine of ten reads: its owner answers them all, unless near
// copies or the replicas do.
func TestHotKey(t *testing.T) {
	const nodes, reads = 5, 1000
	run := func(opts peercache.Options[string]) (hottest, all int64) {
		synctest.Test(t, func(t *testing.T) {
			c := peercachetest.NewCluster(t, nodes)
			caches := caches(t, c, opts)
			c.Network.DelayAll(time.Millisecond)
			keys := make([]string, 100)
			for i := range keys {
				keys[i] = fmt.Sprint("key-", i)
				require.NoError(t, caches[0].Set(t.Context(), keys[i], "value"))
			}
			var wg sync.WaitGroup
			for i, cache := range caches {
				wg.Go(func() {
					for k := range reads {
						key := keys[0]
						if k%10 == 0 {
							key = keys[(k/10+i)%len(keys)]
						}
						if _, err := cache.Get(t.Context(), key); err != nil {
							t.Error(err)
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
			wg.Wait()
			for _, cache := range caches {
				served := cache.Stats().ServerRequests
				hottest, all = max(hottest, served), all+served
			}
		})
		t.Log("requests served by the hottest of", nodes, "members:", hottest, "by all:", all)
		return hottest, all
	}
	plain, _ := run(peercache.Options[string]{})
	spread, _ := run(peercache.Options[string]{ReadReplicas: true})
	_, near := run(peercache.Options[string]{NearTTL: 200 * time.Millisecond})
	require.LessOrEqual(t, spread, plain*2/3)
	require.LessOrEqual(t, near, plain/4)
}
