package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// ownersOf returns the numbers of the nodes that own a key, the primary first,
// as the first running node sees it.
func ownersOf(c *peercachetest.Cluster, key string) []int {
	var numbers []int
	for _, m := range c.Running()[0].Owners("things", key) {
		numbers = append(numbers, slices.IndexFunc(c.Nodes, func(n *peercache.Node) bool {
			return n.Self().Incarnation == m.Incarnation
		}))
	}
	return numbers
}

// keysOf returns keys whose first owners are the given nodes, in that order.
func keysOf(c *peercachetest.Cluster, count int, owners ...int) []string {
	var keys []string
	for i := 0; len(keys) < count; i++ {
		key := fmt.Sprint("key-", i)
		if all := ownersOf(c, key); len(all) >= len(owners) && slices.Equal(all[:len(owners)], owners) {
			keys = append(keys, key)
		}
	}
	return keys
}

func keyOf(c *peercachetest.Cluster, owners ...int) string { return keysOf(c, 1, owners...)[0] }

// A source is where a loader gets its values from. It counts.
type source struct {
	takes   time.Duration // of each load
	calls   atomic.Int64
	running atomic.Int64
	stopped atomic.Int64 // loads whose context ended first
	value   atomic.Pointer[string]
}

func (s *source) load(ctx context.Context, key string) (string, error) {
	s.calls.Add(1)
	s.running.Add(1)
	defer s.running.Add(-1)
	value := "value of " + key
	if v := s.value.Load(); v != nil {
		value = *v
	}
	select {
	case <-time.After(s.takes):
		return value, nil
	case <-ctx.Done():
		s.stopped.Add(1)
		return "", ctx.Err()
	}
}

func (s *source) set(v string) { s.value.Store(&v) }

// getAll lets callers get a key from caches by turns, all at once.
func getAll(t *testing.T, callers int, key, want string, all ...*peercache.Cache[string]) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			v, err := all[i%len(all)].Get(t.Context(), key)
			if err != nil || v != want {
				t.Errorf("Get %q: %q, %v", key, v, err)
			}
		})
	}
	wg.Wait()
}

// Callers that keep coming on members that do not own the key, while it is
// being loaded, share the load.
func TestKeyHotOnOthersIsLoadedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 100 * time.Millisecond}
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{Load: src.load})
		key := keyOf(c, 0, 1)
		var wg sync.WaitGroup
		for range 50 {
			for _, i := range []int{2, 3} {
				for range 10 {
					wg.Go(func() {
						if v, err := all[i].Get(t.Context(), key); err != nil || v != "value of "+key {
							t.Errorf("Get: %q, %v", v, err)
						}
					})
				}
			}
			time.Sleep(3 * time.Millisecond)
		}
		wg.Wait()
		require.EqualValues(t, 1, src.calls.Load())
	})
}

func TestCallerWhoGivesUpLeavesAlone(t *testing.T) {
	for _, at := range []string{"primary", "replica", "other"} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{takes: time.Second}
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{Load: src.load})
				key := keyOf(c, 0, 1)
				first := all[map[string]int{"primary": 0, "replica": 1, "other": 2}[at]]

				ctx, cancel := context.WithCancel(t.Context())
				gaveUp := make(chan error, 1)
				go func() {
					_, err := first.Get(ctx, key)
					gaveUp <- err
				}()
				time.Sleep(100 * time.Millisecond)
				var wg sync.WaitGroup
				wg.Go(func() { getAll(t, 30, key, "value of "+key, all...) })
				time.Sleep(100 * time.Millisecond)
				began := time.Now()
				cancel()
				require.ErrorIs(t, <-gaveUp, context.Canceled)
				require.Zero(t, time.Since(began), "who gives up waits for nothing")
				wg.Wait()
				require.EqualValues(t, 1, src.calls.Load())
				require.Zero(t, src.stopped.Load())
			})
		})
	}
}

func TestLoadStopsWhenAllHaveLeft(t *testing.T) {
	for _, lent := range []bool{false, true} {
		t.Run(fmt.Sprint("lent ", lent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{takes: time.Minute}
				c := peercachetest.NewCluster(t, 3)
				opts := peercache.Options[string]{Load: src.load, LoadTimeout: time.Hour}
				var all []*peercache.Cache[string]
				if lent {
					all = append(all, newCache(t, c.Nodes[2], opts))
				} else {
					all = caches(t, c, opts)
				}
				key := keyOf(c, 0, 1)
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for _, cache := range all {
					for range 3 {
						wg.Go(func() {
							if _, err := cache.Get(ctx, key); !errors.Is(err, context.Canceled) {
								t.Errorf("Get: %v", err)
							}
						})
					}
				}
				time.Sleep(time.Second)
				require.EqualValues(t, 1, src.running.Load())
				cancel()
				wg.Wait()
				time.Sleep(10 * time.Millisecond) // until the owner knows
				require.EqualValues(t, 1, src.stopped.Load())
				require.EqualValues(t, 1, src.calls.Load())
				for _, n := range c.Nodes {
					require.Zero(t, n.FlightsUnderWay())
				}

				src.takes = 0
				getAll(t, 3, key, "value of "+key, all...)
				require.EqualValues(t, 2, src.calls.Load())
			})
		})
	}
}

func TestLoadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Minute}
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: src.load, LoadTimeout: 2 * time.Second})
		key := keyOf(c, 0, 1)
		for _, cache := range all {
			began := time.Now()
			_, err := cache.Get(t.Context(), key)
			require.ErrorIs(t, err, peercache.ErrLoad)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 2*time.Second, time.Since(began).Round(10*time.Millisecond))
		}
	})
}

func TestLoaderThatDoesNotHeedItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		wedged := make(chan struct{})
		t.Cleanup(func() { close(wedged) })
		var calls atomic.Int64
		all := caches(t, c, peercache.Options[string]{
			LoadTimeout: time.Second,
			Load: func(ctx context.Context, key string) (string, error) {
				if calls.Add(1) == 1 {
					<-wedged
				}
				return "fine", nil
			},
		})
		key := keyOf(c, 0, 1)
		began := time.Now()
		_, err := all[2].Get(t.Context(), key)
		require.ErrorIs(t, err, peercache.ErrLoad)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(began), 1200*time.Millisecond)
		getAll(t, 30, key, "fine", all...)
	})
}

func TestLoaderThatDoesNotReturn(t *testing.T) {
	for name, end := range map[string]func(){"panic": func() { panic("oops") }, "Goexit": runtime.Goexit} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", many ", many), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var broken atomic.Bool
					opts := peercache.Options[string]{
						Load: func(ctx context.Context, key string) (string, error) {
							time.Sleep(10 * time.Millisecond)
							if broken.Load() {
								end()
							}
							return "fine", nil
						},
					}
					if many {
						load := opts.Load
						opts.Load = nil
						opts.LoadMany = func(ctx context.Context, keys []string) (map[string]string, error) {
							values := make(map[string]string)
							for _, key := range keys {
								values[key], _ = load(ctx, key)
							}
							return values, nil
						}
					}
					c := peercachetest.NewCluster(t, 3)
					all := caches(t, c, opts)
					key := keyOf(c, 0, 1)
					broken.Store(true)
					for _, cache := range all {
						_, err := cache.Get(t.Context(), key)
						require.ErrorIs(t, err, peercache.ErrLoad)
						_, err = cache.GetMany(t.Context(), []string{key, "other"})
						require.ErrorIs(t, err, peercache.ErrLoad)
						var keys *peercache.KeysError
						require.ErrorAs(t, err, &keys)
						require.Len(t, keys.Errs, 2)
					}
					broken.Store(false)
					getAll(t, 30, key, "fine", all...)
				})
			})
		}
	}
}

func TestLoadsContextCarriesTheFirstCallersValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type contextKey struct{}
		var seen atomic.Value
		c := peercachetest.NewCluster(t, 2)
		all := caches(t, c, peercache.Options[string]{
			Load: func(ctx context.Context, key string) (string, error) {
				if v := ctx.Value(contextKey{}); v != nil {
					seen.Store(v)
				}
				_, bounded := ctx.Deadline()
				require.True(t, bounded)
				return key, nil
			},
		})
		ctx := context.WithValue(t.Context(), contextKey{}, "first")
		_, err := all[0].Get(ctx, keyOf(c, 0))
		require.NoError(t, err)
		require.Equal(t, "first", seen.Load())
	})
}

// A cache that only one process has made, a client even, is loaded there and
// kept by the owners.
func TestCacheThatOneProcessKnows(t *testing.T) {
	for _, client := range []bool{false, true} {
		t.Run(fmt.Sprint("client ", client), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				src := &source{takes: 50 * time.Millisecond}
				c := peercachetest.NewCluster(t, 3)
				n := c.Nodes[0]
				if client {
					n = c.StartClient()
					require.NoError(t, n.WaitReady(ctx))
				}
				only := newCache(t, n, peercache.Options[string]{Load: src.load})
				for i := range 20 {
					key := fmt.Sprint(i)
					getAll(t, 10, key, "value of "+key, only)
					require.EqualValues(t, i+1, src.calls.Load())
				}
				time.Sleep(100 * time.Millisecond)
				for i := range 20 {
					key := fmt.Sprint(i)
					for _, owner := range ownersOf(c, key) {
						require.Contains(t, c.Nodes[owner].Holds("things", key), "value of "+key)
					}
					require.NoError(t, only.Set(ctx, key, "set"))
					getAll(t, 10, key, "set", only)
				}
				require.EqualValues(t, 20, src.calls.Load())
			})
		})
	}
}

// While New was not called on the owner yet, of many askers one loads.
func TestOwnerLendsTheLoadToOneAsker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 200 * time.Millisecond}
		c := peercachetest.NewCluster(t, 5)
		key := keyOf(c, 0, 1)
		var all []*peercache.Cache[string]
		for _, i := range []int{1, 2, 3, 4} {
			all = append(all, newCache(t, c.Nodes[i], peercache.Options[string]{Load: src.load}))
		}
		var wg sync.WaitGroup
		wg.Go(func() { getAll(t, 100, key, "value of "+key, all...) })
		time.Sleep(100 * time.Millisecond)
		late := newCache(t, c.Nodes[0], peercache.Options[string]{Load: src.load})
		getAll(t, 10, key, "value of "+key, late)
		wg.Wait()
		require.EqualValues(t, 1, src.calls.Load())
	})
}

func TestLenderDiesInTheMiddleOfTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: time.Second}
		c := peercachetest.NewCluster(t, 4)
		key := keyOf(c, 0, 1)
		lender := newCache(t, c.Nodes[2], peercache.Options[string]{Load: src.load})
		other := newCache(t, c.Nodes[3], peercache.Options[string]{Load: src.load})
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := lender.Get(t.Context(), key)
			if !errors.Is(err, peercache.ErrClosed) {
				t.Errorf("Get on a node that was closed meanwhile: %v", err)
			}
		})
		time.Sleep(100 * time.Millisecond)
		wg.Go(func() { getAll(t, 10, key, "value of "+key, other) })
		time.Sleep(100 * time.Millisecond)
		require.EqualValues(t, 1, src.calls.Load())
		c.Kill(2)
		wg.Wait()
		require.EqualValues(t, 2, src.calls.Load())
		require.EqualValues(t, 1, src.stopped.Load())
	})
}

func TestOwnerThatLoadsIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &source{takes: 5 * time.Second}
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: src.load})
		getAll(t, 30, keyOf(c, 0, 1), "value of "+keyOf(c, 0, 1), all...)
		require.EqualValues(t, 1, src.calls.Load())
		got, err := all[2].GetMany(t.Context(), append(keysOf(c, 3, 1, 0), keyOf(c, 0, 2)))
		require.NoError(t, err)
		require.Len(t, got, 4)
		require.EqualValues(t, 5, src.calls.Load())
	})
}

func TestOwnerDiesWhileItLoads(t *testing.T) {
	for name, end := range map[string]func(c *peercachetest.Cluster, i int){
		"killed": (*peercachetest.Cluster).Kill, "vanished": (*peercachetest.Cluster).Vanish, "paused": (*peercachetest.Cluster).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &source{takes: 2 * time.Second}
				c := peercachetest.NewCluster(t, 4)
				all := caches(t, c, peercache.Options[string]{Load: src.load})
				key := keyOf(c, 0, 1)
				var wg sync.WaitGroup
				wg.Go(func() { getAll(t, 60, key, "value of "+key, all[1:]...) })
				time.Sleep(500 * time.Millisecond)
				end(c, 0)
				wg.Wait()
				require.EqualValues(t, 2, src.calls.Load())
				time.Sleep(100 * time.Millisecond)
				getAll(t, 60, key, "value of "+key, all[1:]...)
				require.EqualValues(t, 2, src.calls.Load())
			})
		})
	}
}

func TestNegativeTTL(t *testing.T) {
	for _, ttl := range []time.Duration{0, time.Second} {
		t.Run(ttl.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				var loads atomic.Int64
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{
					NegativeTTL: ttl,
					Load: func(ctx context.Context, key string) (string, error) {
						loads.Add(1)
						return "", fmt.Errorf("no row: %w", peercache.ErrNotFound)
					},
				})
				key := keyOf(c, 0, 1)
				gets := func() {
					for range 3 {
						for _, cache := range all {
							_, err := cache.Get(ctx, key)
							require.ErrorIs(t, err, peercache.ErrNotFound)
							require.NotErrorIs(t, err, peercache.ErrLoad)
							_, ok, err := cache.Lookup(ctx, key)
							require.NoError(t, err)
							require.False(t, ok)
							_, ok, err = cache.LookupEntry(ctx, key)
							require.NoError(t, err)
							require.False(t, ok)
							got, err := cache.GetMany(ctx, []string{key})
							require.NoError(t, err)
							require.Empty(t, got)
						}
					}
				}
				gets()
				if ttl == 0 {
					require.EqualValues(t, 18, loads.Load(), "it is not remembered")
					return
				}
				require.EqualValues(t, 1, loads.Load())
				time.Sleep(ttl + time.Millisecond)
				gets()
				require.EqualValues(t, 2, loads.Load())
				require.NoError(t, all[2].Set(ctx, key, "there", peercache.IfAbsent()), "what is not there can be set")
				v, err := all[1].Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, "there", v)
			})
		})
	}
}

func TestTTLFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		src := new(source)
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{
			Load: src.load,
			TTL:  10 * time.Second,
			TTLFor: func(key string, v string) time.Duration {
				switch key {
				case "never":
					return -1
				case "short":
					return time.Second
				default:
					return 0
				}
			},
		})
		loads := func(key string) int64 {
			before := src.calls.Load()
			for _, cache := range all {
				v, err := cache.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, "value of "+key, v)
			}
			time.Sleep(100 * time.Millisecond) // until the replica has it
			for _, cache := range all {
				_, err := cache.Get(ctx, key)
				require.NoError(t, err)
			}
			return src.calls.Load() - before
		}
		require.EqualValues(t, 6, loads("never"))
		require.EqualValues(t, 1, loads("short"))
		require.EqualValues(t, 1, loads("usual"))
		time.Sleep(900 * time.Millisecond)
		require.EqualValues(t, 1, loads("short"))
		require.EqualValues(t, 0, loads("usual"))
		time.Sleep(9 * time.Second)
		require.EqualValues(t, 1, loads("usual"))
	})
}

func TestLoadMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		mine := errors.New("mine")
		var calls, keysLoaded atomic.Int64
		var failing atomic.Bool
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{
			Errors: []error{mine},
			LoadMany: func(ctx context.Context, keys []string) (map[string]string, error) {
				calls.Add(1)
				keysLoaded.Add(int64(len(keys)))
				time.Sleep(20 * time.Millisecond)
				values := make(map[string]string)
				for _, key := range keys {
					if key[0] != 'x' {
						values[key] = "value of " + key
					}
				}
				if failing.Load() {
					clear(values)
					return values, fmt.Errorf("all of it: %w", mine)
				}
				return values, nil
			},
		})
		var keys []string
		for i := range 100 {
			keys = append(keys, fmt.Sprint("key-", i), fmt.Sprint("x-", i))
		}
		for _, cache := range all {
			got, err := cache.GetMany(ctx, keys)
			require.NoError(t, err)
			require.Len(t, got, 100)
			for key, v := range got {
				require.Equal(t, "value of "+key, v)
			}
			_, err = cache.Get(ctx, "x-1")
			require.ErrorIs(t, err, peercache.ErrNotFound)
		}
		v, err := all[0].Get(ctx, "single")
		require.NoError(t, err)
		require.Equal(t, "value of single", v)
		require.LessOrEqual(t, calls.Load(), int64(3*3+3+1), "one call on each primary")
		require.EqualValues(t, 100+3*100+3+1, keysLoaded.Load())

		failing.Store(true)
		for _, cache := range all {
			got, err := cache.GetMany(ctx, []string{"key-1", "new-1", "new-2"})
			require.ErrorIs(t, err, mine)
			var failed *peercache.KeysError
			require.ErrorAs(t, err, &failed)
			require.Len(t, failed.Errs, 2)
			require.Equal(t, map[string]string{"key-1": "value of key-1"}, got)
			require.ErrorIs(t, failed.Errs["new-1"], peercache.ErrLoad)
			_, err = cache.Get(ctx, "new-1")
			require.ErrorIs(t, err, mine)
		}
	})
}

// GetMany and Get of the same keys at the same time share loads.
func TestManyAndSingleShareLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		load := func(ctx context.Context, keys []string) (map[string]string, error) {
			time.Sleep(100 * time.Millisecond)
			values := make(map[string]string)
			for _, key := range keys {
				loads.Add(1)
				values[key] = key
			}
			return values, nil
		}
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{
			LoadMany: load,
			Load: func(ctx context.Context, key string) (string, error) {
				values, _ := load(ctx, []string{key})
				return values[key], nil
			},
		})
		var keys []string
		for i := range 50 {
			keys = append(keys, fmt.Sprint("key-", i))
		}
		var wg sync.WaitGroup
		for range 5 {
			for _, cache := range all {
				wg.Go(func() {
					got, err := cache.GetMany(t.Context(), keys)
					if err != nil || len(got) != len(keys) {
						t.Errorf("GetMany: %d, %v", len(got), err)
					}
				})
				for _, key := range keys {
					wg.Go(func() {
						if v, err := cache.Get(t.Context(), key); err != nil || v != key {
							t.Errorf("Get: %q, %v", v, err)
						}
					})
				}
			}
		}
		wg.Wait()
		require.EqualValues(t, len(keys), loads.Load())
	})
}

// The callers of a load made for many keys leave as those of a single one do.
func TestLoadManyStopsWhenAllHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, stopped atomic.Int64
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{
			LoadTimeout: time.Hour,
			LoadMany: func(ctx context.Context, keys []string) (map[string]string, error) {
				running.Add(1)
				<-ctx.Done()
				stopped.Add(1)
				return nil, ctx.Err()
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := all[2].GetMany(ctx, []string{"a", "b", "c", "d", "e", "f"})
			done <- err
		}()
		time.Sleep(time.Second)
		require.NotZero(t, running.Load())
		require.Zero(t, stopped.Load())
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, running.Load(), stopped.Load())
	})
}

// Coalesced counts those who shared a load, not the one that began it.
func TestCoalescedCallersAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		cache := newCache(t, c.Nodes[0], peercache.Options[string]{
			Load: func(_ context.Context, key string) (string, error) {
				time.Sleep(50 * time.Millisecond)
				return "value of " + key, nil
			},
		})
		var callers sync.WaitGroup
		for range 10 {
			callers.Go(func() { requireAll(t, "key", "value of key", cache) })
		}
		callers.Wait()
		s := cache.Stats()
		require.EqualValues(t, 1, s.Loads)
		require.EqualValues(t, 9, s.Coalesced)
		requireAll(t, "alone", "value of alone", cache)
		require.EqualValues(t, 9, cache.Stats().Coalesced)
	})
}
