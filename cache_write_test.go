package peercache_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// disagreements lists the keys of which the owners hold different things.
func disagreements(c *peercachetest.Cluster) []string {
	held := make(map[uint64]map[string]string)
	keys := make(map[string]bool)
	for _, n := range c.Running() {
		dump := n.Dump("things")
		held[n.Self().Incarnation] = dump
		for key := range dump {
			keys[key] = true
		}
	}
	var differ []string
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		var lines []string
		owners := c.Running()[0].Owners("things", key)
		for _, m := range owners {
			lines = append(lines, held[m.Incarnation][key])
		}
		if len(slices.Compact(slices.Clone(lines))) > 1 {
			differ = append(differ, fmt.Sprintf("%s: %s", key, strings.Join(lines, " | ")))
		}
	}
	return differ
}

// requireOwnersAgree fails the test unless all owners of every key hold the
// same. Copies of loads are given the time to arrive.
func requireOwnersAgree(t *testing.T, c *peercachetest.Cluster) {
	t.Helper()
	time.Sleep(200 * time.Millisecond)
	differ := disagreements(c)
	require.Empty(t, differ[:min(len(differ), 5)], "%d keys", len(differ))
}

// requireAll gets a key from all caches.
func requireAll(t *testing.T, key, want string, all ...*peercache.Cache[string]) {
	t.Helper()
	for i, cache := range all {
		v, err := cache.Get(t.Context(), key)
		require.NoError(t, err, "cache %d", i)
		require.Equal(t, want, v, "cache %d", i)
	}
}

func TestSetsFromSeveralNodesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{})
		c.Network.DelayAll(time.Millisecond)
		// Node 2 reaches the primary through the others, or asks another owner.
		key := keyOf(c, 0, 1)
		c.Network.Cut(c.Host(2), c.Host(0))
		var wg sync.WaitGroup
		for i := range all {
			wg.Go(func() {
				for round := 0; round < 300; round++ {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					err := all[i].Set(ctx, key, fmt.Sprint(i, " ", round))
					cancel()
					if err != nil {
						t.Errorf("Set: %v", err)
					}
					if i == 2 && round > 3 {
						return
					}
					time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		c.Network.HealAll()
		v, err := all[3].Get(t.Context(), key)
		require.NoError(t, err)
		requireAll(t, key, v, all...)
		require.Equal(t, c.Nodes[0].Holds("things", key), c.Nodes[1].Holds("things", key))
	})
}

// The stamper moves past what another owner holds before it acknowledges.
func TestWriteGoesPastWhatAnotherOwnerHolds(t *testing.T) {
	for _, del := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := peercachetest.NewCluster(t, 3)
			all := caches(t, c, peercache.Options[string]{})
			key := keyOf(c, 0, 1)
			like := keyOf(c, 1)
			require.NoError(t, all[1].Set(t.Context(), like, "planted"))
			c.Nodes[1].Plant("things", key, like, true, 20*time.Second)
			if del {
				require.NoError(t, all[2].Delete(t.Context(), key))
				for _, cache := range all {
					_, err := cache.Get(t.Context(), key)
					require.ErrorIs(t, err, peercache.ErrNotFound)
				}
			} else {
				require.NoError(t, all[2].Set(t.Context(), key, "new"))
				requireAll(t, key, "new", all...)
			}
			requireOwnersAgree(t, c)
		})
	}
}

// A write that waits for an owner which holds something later, and is cleared
// meanwhile, does not come back.
func TestClearedWriteIsNotStampedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		key, like := keyOf(c, 0, 1), keyOf(c, 1)
		require.NoError(t, all[1].Set(t.Context(), like, "planted"))
		c.Nodes[1].Plant("things", key, like, true, 20*time.Second)
		c.Network.Delay(c.Host(0), c.Host(1), 100*time.Millisecond)
		written := make(chan error)
		go func() { written <- all[0].Set(t.Context(), key, "new") }()
		time.Sleep(50 * time.Millisecond)
		_, held, err := all[0].Lookup(t.Context(), key)
		require.NoError(t, err)
		require.True(t, held)
		require.NoError(t, all[0].Clear(t.Context()))
		require.NoError(t, <-written)
		v, _, err := all[0].Lookup(t.Context(), key)
		require.NoError(t, err)
		require.NotEqual(t, "new", v)
	})
}

// newSkewedCluster starts nodes whose clocks are off.
func newSkewedCluster(t *testing.T, skews ...time.Duration) *peercachetest.Cluster {
	c := peercachetest.NewCluster(t, 0)
	for i, skew := range skews {
		c.Network.Host(c.Host(i)).SetSkew(skew)
	}
	for i := range skews {
		c.Start(i)
	}
	c.WaitAgree()
	return c
}

func TestWritesThroughSlowClocksWin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newSkewedCluster(t, -200*time.Millisecond, 200*time.Millisecond, 0)
		all := caches(t, c, peercache.Options[string]{})
		for _, owners := range [][]int{{0, 1}, {1, 0}, {2, 0}, {1, 2}} {
			for i, key := range keysOf(c, 10, owners...) {
				require.NoError(t, all[1].Set(ctx, key, "one"))
				require.NoError(t, all[0].Set(ctx, key, "two"))
				requireAll(t, key, "two", all...)
				e, ok, err := all[1].LookupEntry(ctx, key)
				require.NoError(t, err)
				require.True(t, ok)
				require.NoError(t, all[0].Set(ctx, key, "three", peercache.IfVersion(e.Version)))
				requireAll(t, key, "three", all...)
				require.ErrorIs(t, all[1].Set(ctx, key, "never", peercache.IfVersion(e.Version)), peercache.ErrConflict)
				require.NoError(t, all[i%3].Delete(ctx, key))
				for _, cache := range all {
					_, ok, err := cache.Lookup(ctx, key)
					require.NoError(t, err)
					require.False(t, ok)
				}
			}
		}
		requireOwnersAgree(t, c)
	})
}

// A write whose caller gave up long ago, and whose frame lay around, does
// nothing when it arrives.
func TestLateWriteIsRefused(t *testing.T) {
	for _, skew := range []time.Duration{0, -400 * time.Millisecond} {
		t.Run(skew.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newSkewedCluster(t, skew, 0, 0, 0)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				require.NoError(t, all[2].Set(t.Context(), key, "first"))
				c.Network.CutOneWay(c.Host(2), c.Host(0))
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				time.AfterFunc(400*time.Millisecond, cancel)
				require.ErrorIs(t, all[2].Set(ctx, key, "late"), context.Canceled)
				time.Sleep(200 * time.Millisecond)
				require.NoError(t, all[3].Set(t.Context(), key, "later"))
				time.Sleep(time.Millisecond)
				c.Network.HealAll()
				time.Sleep(time.Second)
				requireAll(t, key, "later", all...)
				requireOwnersAgree(t, c)
			})
		})
	}
}

func TestSetWhoseOwnerIsPaused(t *testing.T) {
	for _, rest := range []time.Duration{0, 10 * time.Second} {
		t.Run(rest.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				c := peercachetest.NewCluster(t, 4)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				require.NoError(t, all[2].Set(ctx, key, "before"))
				c.Pause(0)
				began := time.Now()
				require.NoError(t, all[2].Set(ctx, key, "one"))
				t.Log("took", time.Since(began))
				require.LessOrEqual(t, time.Since(began), 3100*time.Millisecond)
				require.NoError(t, all[3].Set(ctx, key, "two"))
				requireAll(t, key, "two", all[1:]...)
				time.Sleep(rest)
				c.Resume(0)
				c.WaitAgree() // until then the node may not see its co-owner, whom it has lost in its sleep
				time.Sleep(5 * time.Second)
				requireAll(t, key, "two", all...)
				requireOwnersAgree(t, c)
			})
		})
	}
}

func TestSetWhoseOwnerIsGone(t *testing.T) {
	for name, end := range map[string]func(c *peercachetest.Cluster, i int){
		"killed": (*peercachetest.Cluster).Kill, "vanished": (*peercachetest.Cluster).Vanish,
	} {
		for _, place := range []int{0, 1} {
			t.Run(fmt.Sprint(name, " owner ", place), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := t.Context()
					c := peercachetest.NewCluster(t, 4)
					all := caches(t, c, peercache.Options[string]{})
					for i, key := range keysOf(c, 50, 0, 1) {
						require.NoError(t, all[i%4].Set(ctx, key, "before"))
					}
					end(c, place)
					living := append(slices.Clone(all[:place]), all[place+1:]...)
					var wg sync.WaitGroup
					for i, key := range keysOf(c, 50, 0, 1) {
						wg.Go(func() {
							began := time.Now()
							if err := living[i%3].Set(ctx, key, "after"); err != nil {
								t.Errorf("Set: %v", err)
							}
							most := 3100 * time.Millisecond
							if name == "killed" {
								most = 100 * time.Millisecond
							}
							if time.Since(began) > most {
								t.Errorf("Set took %v", time.Since(began))
							}
						})
					}
					wg.Wait()
					c.WaitAgree()
					requireOwnersAgree(t, c)
				})
			})
		}
	}
}

func TestPartialWrite(t *testing.T) {
	for _, from := range []int{0, 2} {
		t.Run(fmt.Sprint("from node ", from), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				require.NoError(t, all[from].Set(t.Context(), key, "before"))
				silence(c, 1, 0, 2)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := all[from].Set(ctx, key, "after")
				var partial *peercache.PartialWriteError
				require.ErrorAs(t, err, &partial)
				require.ErrorIs(t, err, peercache.ErrPartialWrite)
				require.Len(t, partial.Missing, 1)
				require.Equal(t, "node-1", partial.Missing[0].Name)
				requireAll(t, key, "after", all[0])
				c.Network.HealAll()
				time.Sleep(5 * time.Second)
				requireAll(t, key, "after", all...)
				requireOwnersAgree(t, c)
			})
		})
	}
}

// silence keeps what a node sends from others, which it goes on hearing.
func silence(c *peercachetest.Cluster, node int, others ...int) {
	for _, other := range others {
		c.Network.CutOneWay(c.Host(node), c.Host(other))
	}
}

// A write that comes while a key is being loaded keeps the load from bringing
// the old value back. Those who asked before it may get the old value.
func TestWriteDuringLoad(t *testing.T) {
	type cache = peercache.Cache[string]
	writes := map[string]func(ctx context.Context, c *cache, key string) error{
		"Set":    func(ctx context.Context, c *cache, key string) error { return c.Set(ctx, key, "new") },
		"Delete": func(ctx context.Context, c *cache, key string) error { return c.Delete(ctx, key) },
		"Clear":  func(ctx context.Context, c *cache, key string) error { return c.Clear(ctx) },
		"Update": func(ctx context.Context, c *cache, key string) error {
			return c.Update(ctx, key, func(string, bool) (string, error) { return "new", nil })
		},
	}
	for name, write := range writes {
		for _, many := range []bool{false, true} {
			for writer := range 3 {
				t.Run(fmt.Sprint(name, " on ", writer, ", many ", many), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						ctx := t.Context()
						src := &source{takes: 300 * time.Millisecond}
						src.set("old")
						c := peercachetest.NewCluster(t, 3)
						opts := peercache.Options[string]{Load: src.load, NearTTL: time.Millisecond}
						if many {
							opts.LoadMany = func(ctx context.Context, keys []string) (map[string]string, error) {
								values := make(map[string]string)
								for _, key := range keys {
									values[key], _ = src.load(ctx, key)
								}
								return values, nil
							}
						}
						all := caches(t, c, opts)
						key := keyOf(c, 0, 1)
						var wg sync.WaitGroup
						for i := range 6 {
							wg.Go(func() {
								values, err := map[string]string(nil), error(nil)
								if many {
									values, err = all[i%3].GetMany(ctx, []string{key})
								} else {
									values = make(map[string]string)
									values[key], err = all[i%3].Get(ctx, key)
								}
								if err != nil || values[key] != "old" && values[key] != "new" {
									t.Errorf("Get: %q, %v", values, err)
								}
							})
						}
						time.Sleep(100 * time.Millisecond)
						src.set("new")
						require.NoError(t, write(ctx, all[writer], key))
						getAll(t, 30, key, "new", all...)
						wg.Wait()
						require.LessOrEqual(t, src.calls.Load(), int64(2))
						time.Sleep(time.Second)
						require.NotContains(t, c.Nodes[0].Holds("things", key), "old")
						require.NotContains(t, c.Nodes[1].Holds("things", key), "old")
						getAll(t, 30, key, "new", all...)
						requireOwnersAgree(t, c)
						require.LessOrEqual(t, src.calls.Load(), int64(2))
					})
				})
			}
		}
	}
}

// The same for a load that is lent, whose owner learns of the value later.
func TestWriteDuringLentLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		src := &source{takes: 300 * time.Millisecond}
		src.set("old")
		c := peercachetest.NewCluster(t, 3)
		key := keyOf(c, 0, 1)
		only := newCache(t, c.Nodes[2], peercache.Options[string]{Load: src.load})
		var wg sync.WaitGroup
		wg.Go(func() { only.Get(ctx, key) })
		time.Sleep(100 * time.Millisecond)
		src.set("new")
		require.NoError(t, only.Delete(ctx, key))
		getAll(t, 10, key, "new", only)
		wg.Wait()
		time.Sleep(time.Second)
		getAll(t, 10, key, "new", only)
		require.NotContains(t, c.Nodes[0].Holds("things", key), "old")
		require.EqualValues(t, 2, src.calls.Load())
	})
}

func TestValueThatIsLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxBytes = 1 << 30 })
		all := caches(t, c, peercache.Options[string]{Codec: text{}})
		for i := range 100 {
			require.NoError(t, all[0].Set(ctx, fmt.Sprint(i), "small"))
		}
		large := strings.Repeat("0123456789abcdef", 1<<20)
		key := keyOf(c, 0, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			for i, cache := range all {
				if err := cache.Set(ctx, key, large[:len(large)-i]); err != nil {
					t.Errorf("Set: %v", err)
				}
				v, err := all[2-i].Get(ctx, key)
				if err != nil || len(v) != len(large)-i {
					t.Errorf("Get: %d bytes, %v", len(v), err)
				}
			}
		})
		for range 20 {
			for i := range 100 {
				v, err := all[i%3].Get(ctx, fmt.Sprint(i))
				require.NoError(t, err)
				require.Equal(t, "small", v)
			}
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		for _, cache := range all {
			require.ErrorIs(t, cache.Set(ctx, key, large+"!"), peercache.ErrTooLarge)
			v, err := cache.Get(ctx, key)
			require.NoError(t, err)
			require.Len(t, v, len(large)-2)
		}
		require.Equal(t, c.Nodes[0].Holds("things", key), c.Nodes[1].Holds("things", key))
	})
}

func TestLoadedValueThatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxValueBytes = 1000 })
		src := new(source)
		src.set(strings.Repeat("x", 1001))
		for _, cache := range caches(t, c, peercache.Options[string]{Load: src.load}) {
			_, err := cache.Get(t.Context(), keyOf(c, 0, 1))
			require.ErrorIs(t, err, peercache.ErrLoad)
			require.ErrorContains(t, err, "too large")
		}
	})
}

func TestKeysOfAllKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		long := strings.Repeat("k", peercache.MaxKeyBytes)
		for _, key := range []string{"", "\x00", "a\x00b", "\xff\xfe", "ключ", long} {
			require.NoError(t, all[0].Set(ctx, key, "value"))
			requireAll(t, key, "value", all...)
			for _, cache := range all {
				got, err := cache.GetMany(ctx, []string{key, "absent"})
				require.NoError(t, err)
				require.Equal(t, map[string]string{key: "value"}, got)
				e, ok, err := cache.LookupEntry(ctx, key)
				require.NoError(t, err)
				require.True(t, ok)
				require.Equal(t, "value", e.Value)
			}
			require.NoError(t, all[1].Update(ctx, key, func(old string, ok bool) (string, error) { return old + "!", nil }))
			requireAll(t, key, "value!", all...)
			require.NoError(t, all[2].Delete(ctx, key))
			for _, cache := range all {
				_, err := cache.Get(ctx, key)
				require.ErrorIs(t, err, peercache.ErrNotFound)
			}
		}
		long += "k"
		for _, cache := range all {
			_, err := cache.Get(ctx, long)
			require.ErrorIs(t, err, peercache.ErrTooLarge)
			_, _, err = cache.Lookup(ctx, long)
			require.ErrorIs(t, err, peercache.ErrTooLarge)
			_, _, err = cache.LookupEntry(ctx, long)
			require.ErrorIs(t, err, peercache.ErrTooLarge)
			_, err = cache.GetMany(ctx, []string{long})
			require.ErrorIs(t, err, peercache.ErrTooLarge)
			require.ErrorIs(t, cache.Set(ctx, long, ""), peercache.ErrTooLarge)
			require.ErrorIs(t, cache.SetMany(ctx, map[string]string{long: ""}), peercache.ErrTooLarge)
			require.ErrorIs(t, cache.Delete(ctx, long), peercache.ErrTooLarge)
		}
	})
}

// text is a codec for strings as they are.
type text struct{}

func (text) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (text) Decode(data []byte) (string, error)          { return string(data), nil }
