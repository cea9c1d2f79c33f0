package peercache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// mended is how soon after a link is back a holder has what it missed.
const mended = 2 * time.Second

// plain makes a cache without a loader on each node of a cluster.
func plain(t *testing.T, c *peercachetest.Cluster) (caches []*peercache.Cache[string]) {
	for _, n := range c.Nodes {
		cache, err := peercache.New(n, "plain", peercache.Options[string]{})
		require.NoError(t, err)
		caches = append(caches, cache)
	}
	return caches
}

func TestMissedWritesAreMended(t *testing.T) {
	for _, what := range []string{"set", "delete", "clear"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) { cfg.Copies = 3 })
				caches := plain(t, c)
				key := "k"
				for c.Nodes[0].Owners("plain", key)[0].Incarnation == c.Nodes[2].Self().Incarnation {
					key += "k"
				}
				require.NoError(t, caches[0].Set(t.Context(), key, "old"))
				old := c.Nodes[0].Holds("plain", key)

				c.Network.Cut(c.Host(0), c.Host(2))
				c.Network.Cut(c.Host(1), c.Host(2))
				ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
				var err error
				switch what {
				case "set":
					err = caches[0].Set(ctx, key, "new")
				case "delete":
					err = caches[0].Delete(ctx, key)
				case "clear":
					err = caches[0].Clear(ctx)
				}
				cancel()
				require.Error(t, err, "an owner that may be living has not confirmed it")
				c.Network.HealAll()

				c.WaitFor("the third owner to have it", mended, func() bool {
					now := c.Nodes[2].Holds("plain", key)
					return now != old && c.Nodes[0].Holds("plain", key) == now && c.Nodes[1].Holds("plain", key) == now
				})
				c.WaitFor("nothing to be pending", mended, func() bool {
					return c.Nodes[0].Stats().HintsPending+c.Nodes[1].Stats().HintsPending+c.Nodes[2].Stats().HintsPending == 0
				})
			})
		})
	}
}

// A node that was away for longer than a deletion is remembered as such still
// learns of it: what the others forgot is below their floors.
func TestDeletedStaysDeletedForWhoWasAwayForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) { cfg.Copies = 2 })
		caches := plain(t, c)
		keys := make([]string, 100)
		for i := range keys {
			keys[i] = fmt.Sprint("key", i)
			require.NoError(t, caches[0].Set(t.Context(), keys[i], "old"))
		}
		c.Pause(2)
		c.WaitAgreeAmong(c.Nodes[:2]...)
		require.NoError(t, caches[0].Delete(t.Context(), keys[:50]...))
		time.Sleep(7 * time.Minute)
		c.Resume(2)
		c.WaitAgree()
		for i, key := range keys {
			for _, cache := range caches {
				v, ok, err := cache.Lookup(t.Context(), key)
				require.NoError(t, err)
				require.Equal(t, i >= 50, ok, "%s: %q", key, v)
			}
		}
	})
}

func TestShardsFilledIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan peercache.ShardsFilled, 100)
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) {
			if i == 2 {
				cfg.Events = &peercache.Events{ShardsFilled: func(f peercache.ShardsFilled) { told <- f }}
			}
		})
		caches := plain(t, c)
		for i := range 500 {
			require.NoError(t, caches[0].Set(t.Context(), fmt.Sprint(i), "value"))
		}
		c.Kill(2)
		c.WaitAgreeAmong(c.Nodes[:2]...)
		for len(told) > 0 {
			<-told
		}
		n := c.Restart(2)
		c.WaitAgree()
		synctest.Wait()
		shards, bytes := 0, int64(0)
		for len(told) > 0 {
			f := <-told
			shards, bytes = shards+f.Shards, bytes+f.Bytes
		}
		require.GreaterOrEqual(t, shards, n.Stats().ShardsOwned)
		require.Positive(t, bytes)
		require.Equal(t, n.Stats().SyncBytes, bytes)
		require.Zero(t, n.Stats().ShardsSyncing)
	})
}

// A silent owner's stand-in has the write too, should the silent one be dead
// and the stamper die as well.
func TestStandInHasWhatASilentOwnerMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		caches := plain(t, c)
		key, silent, stamper, third := "", -1, -1, -1
		for i := 0; silent != 2; i++ {
			key = fmt.Sprint("key", i)
			for j, n := range c.Nodes {
				switch owners := n.Owners("plain", key); n.Self().Incarnation {
				case owners[0].Incarnation:
					stamper = j
				case owners[1].Incarnation:
					silent = j
				default:
					third = j
				}
			}
		}
		c.Pause(silent)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, caches[stamper].Set(ctx, key, "value"), peercache.ErrPartialWrite)
		require.EqualValues(t, 1, c.Nodes[stamper].Stats().PartialWrites)
		c.Kill(stamper)
		c.Kill(silent)
		c.WaitAgreeAmong(c.Nodes[third])
		v, ok, err := caches[third].Lookup(t.Context(), key)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "value", v)
	})
}

// What a stand-in got is brought to the owner who missed it, also when the
// stand-in had owned the shard before and starts empty but for that.
func TestStandInThatHadOwnedTheShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3) // the first of them owned all shards for a moment
		all := caches(t, c, peercache.Options[string]{})
		time.Sleep(time.Second)
		key := keysOf(c, 1, 1, 2)[0]
		require.NoError(t, all[1].Set(t.Context(), key, "before"))
		silence(c, 2, 0, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, all[1].Set(ctx, key, "value"), peercache.ErrPartialWrite)
		c.Kill(1)
		c.Network.HealAll()
		c.WaitAgreeAmong(c.Nodes[0], c.Nodes[2])
		time.Sleep(2 * time.Second)
		for _, i := range []int{0, 2} {
			v, _, err := all[i].Lookup(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "value", v, "node %d", i)
		}
	})
}

// hitRatio asks for keys by a zipf law, from all nodes in turn, and returns how
// many of the last part did not have to be loaded.
func hitRatio(t *testing.T, caches []*peercache.Cache[[]byte], loads *int, random *rand.Zipf, asks int) float64 {
	before := *loads
	for i := range asks {
		_, err := caches[i%len(caches)].Get(t.Context(), fmt.Sprint("page", random.Uint64()))
		require.NoError(t, err)
		if i%20 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return 1 - float64(*loads-before)/float64(asks)
}

// The replicas of a full cache know what is hot at its primaries: soon after
// one of five died as much is hit as with four that never knew it.
func TestReplicasKnowWhatIsHot(t *testing.T) {
	if testing.Short() {
		t.Skip("some 100,000 reads")
	}
	measure := func(t *testing.T, nodes int, dies bool) (ratio float64) {
		synctest.Test(t, func(t *testing.T) {
			c := peercachetest.NewCluster(t, nodes, func(_ int, cfg *peercache.Config) { cfg.MaxBytes = 512 << 10 })
			var loads int
			var caches []*peercache.Cache[[]byte]
			for _, n := range c.Nodes {
				cache, err := peercache.New(n, "pages", peercache.Options[[]byte]{
					Load: func(context.Context, string) ([]byte, error) { loads++; return make([]byte, 200), nil },
				})
				require.NoError(t, err)
				caches = append(caches, cache)
			}
			random := rand.NewZipf(rand.New(rand.NewPCG(3, 4)), 1.1, 20, 20_000)
			hitRatio(t, caches, &loads, random, 40_000)
			if dies {
				c.Kill(0)
				caches = caches[1:]
				hitRatio(t, caches, &loads, random, 20_000) // 5 s
			}
			ratio = hitRatio(t, caches, &loads, random, 10_000)
		})
		return ratio
	}
	four, five := measure(t, 4, false), measure(t, 5, true)
	t.Logf("four: %.4f, four of five: %.4f", four, five)
	require.Greater(t, four, 0.5)
	require.InEpsilon(t, four, five, 0.05)
}
