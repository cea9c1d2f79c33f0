package peercache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// While a link to the primary is cut in one direction, the replica answers, and
// writes get through. After that all owners agree.
func TestPrimaryCutOffInOneDirection(t *testing.T) {
	for _, forth := range []bool{true, false} {
		t.Run(fmt.Sprint("forth ", forth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				c := peercachetest.NewCluster(t, 4)
				all := caches(t, c, peercache.Options[string]{})
				keys := keysOf(c, 30, 0, 1)
				for i, key := range keys {
					require.NoError(t, all[i%4].Set(ctx, key, "before"))
				}
				if forth {
					c.Network.CutOneWay(c.Host(2), c.Host(0))
				} else {
					c.Network.CutOneWay(c.Host(0), c.Host(2))
				}
				var longest time.Duration
				timed := func(f func()) {
					began := time.Now()
					f()
					longest = max(longest, time.Since(began))
				}
				for _, key := range keys {
					timed(func() { requireAll(t, key, "before", all[2]) })
				}
				t.Log("longest read", longest)
				require.LessOrEqual(t, longest, 500*time.Millisecond)
				longest = 0
				for i, key := range keys {
					if i == 1 {
						require.LessOrEqual(t, longest, 3100*time.Millisecond)
						longest = 0 // from now on the silence is known
					}
					timed(func() { require.NoError(t, all[2].Set(ctx, key, "after")) })
					requireAll(t, key, "after", all...)
				}
				t.Log("longest of the later writes", longest)
				require.LessOrEqual(t, longest, 500*time.Millisecond)
				c.Network.HealAll()
				time.Sleep(10 * time.Second)
				for _, key := range keys {
					requireAll(t, key, "after", all...)
				}
				requireOwnersAgree(t, c)
			})
		})
	}
}

// While an owner is silent, but not yet dead for the others, reads are answered
// soon.
func TestReadsWhileThePrimaryIsSilent(t *testing.T) {
	for name, end := range map[string]func(c *peercachetest.Cluster, i int){
		"vanished": (*peercachetest.Cluster).Vanish, "paused": (*peercachetest.Cluster).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := new(source)
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{Load: src.load})
				keys := keysOf(c, 50, 0, 1)
				for _, key := range keys {
					requireAll(t, key, "value of "+key, all...)
				}
				time.Sleep(100 * time.Millisecond)
				end(c, 0)
				for _, key := range keys {
					began := time.Now()
					requireAll(t, key, "value of "+key, all[2])
					require.LessOrEqual(t, time.Since(began), 300*time.Millisecond)
				}
				require.EqualValues(t, len(keys), src.calls.Load())
			})
		})
	}
}

// Nothing fails because all owners of a key have died, however: calls wait until
// others own it.
func TestAllOwnersOfAKeyDie(t *testing.T) {
	type call struct {
		stores bool
		run    func(ctx context.Context, cache *peercache.Cache[string], key string) error
	}
	calls := map[string]call{
		"Set": {true, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			return cache.Set(ctx, key, "after")
		}},
		"SetMany": {true, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			return cache.SetMany(ctx, map[string]string{key: "after"})
		}},
		"Delete": {false, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			return cache.Delete(ctx, key)
		}},
		"Lookup": {false, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			_, _, err := cache.Lookup(ctx, key)
			return err
		}},
		"GetMany": {false, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			_, err := cache.GetMany(ctx, []string{key})
			return err
		}},
	}
	clearing := map[string]call{"Clear": {false, func(ctx context.Context, cache *peercache.Cache[string], _ string) error {
		return cache.Clear(ctx)
	}}}
	conditional := map[string]call{ // to those who died in silence it may have come
		"IfAbsent": {true, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			return cache.Set(ctx, key, "after", peercache.IfAbsent())
		}},
		"Update": {true, func(ctx context.Context, cache *peercache.Cache[string], key string) error {
			return cache.Update(ctx, key, func(string, bool) (string, error) { return "after", nil })
		}},
	}
	dies := func(die func(c *peercachetest.Cluster, i int), calls map[string]call) func(*testing.T) {
		return func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				c := peercachetest.NewCluster(t, 4)
				all := caches(t, c, peercache.Options[string]{})
				keys := append(keysOf(c, 2*len(calls), 0, 1), keysOf(c, 2*len(calls), 1, 0)...)
				var wg sync.WaitGroup
				defer wg.Wait()
				for name, call := range calls {
					for i := range 4 {
						cache, key := all[2+i%2], keys[0]
						keys = keys[1:]
						wg.Go(func() {
							time.Sleep(time.Millisecond)
							if err := call.run(ctx, cache, key); err != nil {
								t.Errorf("%s of %s: %v", name, key, err)
							}
							if _, ok, err := cache.Lookup(ctx, key); err != nil || ok != call.stores {
								t.Errorf("%s of %s, then Lookup: %v, %v", name, key, ok, err)
							}
						})
					}
				}
				die(c, 0)
				die(c, 1)
			})
		}
	}
	t.Run("killed", dies((*peercachetest.Cluster).Kill, calls))
	t.Run("killed, clear", dies((*peercachetest.Cluster).Kill, clearing))
	t.Run("silent", dies((*peercachetest.Cluster).Vanish, calls))
	t.Run("silent, clear", dies((*peercachetest.Cluster).Vanish, clearing))
	t.Run("killed, conditional", dies((*peercachetest.Cluster).Kill, conditional))
}

func TestEverythingFailsAfterTheEnd(t *testing.T) {
	for _, shutdown := range []bool{false, true} {
		t.Run(fmt.Sprint("shutdown ", shutdown), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				src := &source{takes: time.Second}
				c := peercachetest.NewCluster(t, 3)
				cache := caches(t, c, peercache.Options[string]{Load: src.load})[0]
				mine, others := keyOf(c, 0), keyOf(c, 1, 2)
				for _, key := range []string{mine, others} {
					require.NoError(t, cache.Set(ctx, key, "here"))
					requireAll(t, key, "here", cache)
				}
				ended := make(chan error, 2)
				for _, key := range []string{keysOf(c, 2, 0)[1], keysOf(c, 2, 1, 2)[1]} {
					go func() {
						_, err := cache.Get(context.Background(), key)
						ended <- err
					}()
				}
				time.Sleep(10 * time.Millisecond)
				if shutdown {
					c.Shutdown(0)
				} else {
					require.NoError(t, c.Nodes[0].Close())
				}
				for range 2 {
					if err := <-ended; !shutdown {
						require.ErrorIs(t, err, peercache.ErrClosed)
					}
				}
				for _, key := range []string{mine, others} {
					_, err := cache.Get(ctx, key)
					require.ErrorIs(t, err, peercache.ErrClosed)
					_, _, err = cache.Lookup(ctx, key)
					require.ErrorIs(t, err, peercache.ErrClosed)
					_, _, err = cache.LookupEntry(ctx, key)
					require.ErrorIs(t, err, peercache.ErrClosed)
					_, err = cache.GetMany(ctx, []string{key})
					require.ErrorIs(t, err, peercache.ErrClosed)
					require.ErrorIs(t, cache.Set(ctx, key, "v"), peercache.ErrClosed)
					require.ErrorIs(t, cache.SetMany(ctx, map[string]string{key: "v"}), peercache.ErrClosed)
					require.ErrorIs(t, cache.Delete(ctx, key), peercache.ErrClosed)
					require.ErrorIs(t, cache.Clear(ctx), peercache.ErrClosed)
					err = cache.Update(ctx, key, func(string, bool) (string, error) { return "", nil })
					require.ErrorIs(t, err, peercache.ErrClosed)
				}
				_, err := peercache.New(c.Nodes[0], "more", peercache.Options[string]{})
				require.ErrorIs(t, err, peercache.ErrClosed)
				cache.Stats()
			})
		})
	}
}

// Whatever is under way on a node that is closed ends, and says why.
func TestClosedUnderCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		cache := caches(t, c, peercache.Options[string]{})[0]
		keys := keysOf(c, 5, 1, 2)
		values := make(map[string]string)
		for _, key := range keys {
			values[key] = "value"
		}
		calls := map[string]func() error{
			"Get":     func() error { _, err := cache.Get(ctx, keys[0]); return err },
			"GetMany": func() error { _, err := cache.GetMany(ctx, keys); return err },
			"Set":     func() error { return cache.Set(ctx, keys[1], "value") },
			"SetMany": func() error { return cache.SetMany(ctx, values) },
			"SetIf":   func() error { return cache.Set(ctx, keys[2], "value", peercache.IfAbsent()) },
			"Delete":  func() error { return cache.Delete(ctx, keys[3]) },
			"Clear":   func() error { return cache.Clear(ctx) },
		}
		c.Network.Cut(c.Host(0), c.Host(1))
		c.Network.Cut(c.Host(0), c.Host(2))
		outcomes := make(map[string]error)
		var mu sync.Mutex
		var wait sync.WaitGroup
		for name, call := range calls {
			wait.Go(func() {
				err := call()
				mu.Lock()
				defer mu.Unlock()
				outcomes[name] = err
			})
		}
		time.Sleep(50 * time.Millisecond)
		require.Empty(t, outcomes)
		require.NoError(t, c.Nodes[0].Close())
		wait.Wait()
		for name, err := range outcomes {
			require.ErrorIs(t, err, peercache.ErrClosed, name)
		}
	})
}

// A write that waits for others, who cannot be reached, ends when its node is
// closed.
func TestWritesThatWaitEndWithClose(t *testing.T) {
	for name, test := range map[string]struct {
		node int // that writes a key of nodes 0 and 1, and is cut off
		opts []peercache.SetOption
	}{
		"an owner, conditional":    {0, []peercache.SetOption{peercache.IfAbsent()}},
		"another one":              {2, nil},
		"another one, conditional": {2, []peercache.SetOption{peercache.IfAbsent()}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				for i := range 3 {
					if i != test.node {
						c.Network.Cut(c.Host(i), c.Host(test.node))
					}
				}
				done := make(chan error, 1)
				go func() { done <- all[test.node].Set(context.Background(), key, "x", test.opts...) }()
				time.Sleep(100 * time.Millisecond)
				require.NoError(t, c.Nodes[test.node].Close())
				closed := time.Now()
				require.ErrorIs(t, <-done, peercache.ErrClosed)
				require.Less(t, time.Since(closed), 100*time.Millisecond)
			})
		})
	}
}
