package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// caches makes the same cache on every node of a cluster.
func caches[V any](t *testing.T, c *peercachetest.Cluster, opts peercache.Options[V]) []*peercache.Cache[V] {
	t.Helper()
	all := make([]*peercache.Cache[V], len(c.Nodes))
	for i, n := range c.Nodes {
		all[i] = newCache(t, n, opts)
	}
	return all
}

func newCache[V any](t *testing.T, n *peercache.Node, opts peercache.Options[V]) *peercache.Cache[V] {
	t.Helper()
	c, err := peercache.New(n, "things", opts)
	require.NoError(t, err)
	return c
}

func TestSetIsSeenByAllAndDeleteToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		for i := range 30 {
			key := fmt.Sprint("key-", i)
			require.NoError(t, all[i%3].Set(ctx, key, "one"))
			for _, cache := range all {
				v, err := cache.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, "one", v)
			}
			require.NoError(t, all[(i+1)%3].Set(ctx, key, "two"))
			for _, cache := range all {
				v, err := cache.Get(ctx, key)
				require.NoError(t, err)
				require.Equal(t, "two", v)
			}
			require.NoError(t, all[(i+2)%3].Delete(ctx, key))
			for _, cache := range all {
				_, err := cache.Get(ctx, key)
				require.ErrorIs(t, err, peercache.ErrNotFound)
			}
		}
	})
}

func TestThousandCallersOneLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		var loads atomic.Int64
		all := caches(t, c, peercache.Options[string]{
			Load: func(ctx context.Context, key string) (string, error) {
				loads.Add(1)
				time.Sleep(50 * time.Millisecond)
				return "value of " + key, nil
			},
		})
		for round := range 5 {
			key := fmt.Sprint("cold-", round)
			loads.Store(0)
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					v, err := all[i%3].Get(t.Context(), key)
					if err != nil || v != "value of "+key {
						t.Errorf("Get: %q, %v", v, err)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, loads.Load())
		}
	})
}

func TestKilledOwnerCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		var loads atomic.Int64
		all := caches(t, c, peercache.Options[string]{
			Load: func(ctx context.Context, key string) (string, error) {
				loads.Add(1)
				return "loaded", nil
			},
		})
		for i := range 300 {
			_, err := all[i%3].Get(ctx, fmt.Sprint("loaded-", i))
			require.NoError(t, err)
			require.NoError(t, all[i%3].Set(ctx, fmt.Sprint("set-", i), "set"))
		}
		time.Sleep(100 * time.Millisecond)
		require.EqualValues(t, 300, loads.Load())
		c.Kill(1)
		for round := range 3 {
			for i := range 300 {
				for _, j := range []int{0, 2} {
					v, err := all[j].Get(ctx, fmt.Sprint("loaded-", i))
					require.NoError(t, err)
					require.Equal(t, "loaded", v)
					v, err = all[j].Get(ctx, fmt.Sprint("set-", i))
					require.NoError(t, err)
					require.Equal(t, "set", v)
					require.NoError(t, all[j].Set(ctx, fmt.Sprint("new-", round, i), "set"))
				}
			}
			c.WaitAgree()
		}
		require.EqualValues(t, 300, loads.Load())
	})
}

func TestLoaderErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		mine := errors.New("mine")
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{
			Errors: []error{mine},
			Load: func(ctx context.Context, key string) (string, error) {
				switch key[0] {
				case 'm':
					return "", fmt.Errorf("wrapped: %w", mine)
				case 'd':
					return "", context.DeadlineExceeded
				case 'n':
					return "", peercache.ErrNotFound
				case 'p':
					panic("oops")
				default:
					return "", errors.New("other")
				}
			},
		})
		for i := range 20 {
			for _, cache := range all {
				_, err := cache.Get(ctx, fmt.Sprint("m", i))
				require.ErrorIs(t, err, mine)
				require.ErrorIs(t, err, peercache.ErrLoad)
				require.ErrorContains(t, err, "wrapped: mine")
				_, err = cache.Get(ctx, fmt.Sprint("d", i))
				require.ErrorIs(t, err, context.DeadlineExceeded)
				_, err = cache.Get(ctx, fmt.Sprint("n", i))
				require.ErrorIs(t, err, peercache.ErrNotFound)
				require.NotErrorIs(t, err, peercache.ErrLoad)
				_, err = cache.Get(ctx, fmt.Sprint("p", i))
				require.ErrorContains(t, err, "oops")
				_, err = cache.Get(ctx, fmt.Sprint("o", i))
				var load *peercache.LoadError
				require.ErrorAs(t, err, &load)
				require.Contains(t, load.Member, "node-")
			}
		}
	})
}

func TestLentLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		var loads atomic.Int64
		only := newCache(t, c.Nodes[0], peercache.Options[string]{
			Load: func(ctx context.Context, key string) (string, error) {
				loads.Add(1)
				time.Sleep(10 * time.Millisecond)
				return "lent", nil
			},
		})
		for i := range 30 {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					v, err := only.Get(ctx, fmt.Sprint(i))
					if err != nil || v != "lent" {
						t.Errorf("Get: %q, %v", v, err)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, i+1, loads.Load())
		}
	})
}

func TestUpdateAddsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[int]{})
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				err := all[i%3].Update(t.Context(), "counter", func(old int, ok bool) (int, error) { return old + 1, nil })
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, cache := range all {
			v, err := cache.Get(t.Context(), "counter")
			require.NoError(t, err)
			require.Equal(t, 30, v)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[int]{})
		values := make(map[string]int)
		var keys []string
		for i := range 1000 {
			values[fmt.Sprint(i)] = i
			keys = append(keys, fmt.Sprint(i))
		}
		require.NoError(t, all[0].SetMany(ctx, values))
		for _, cache := range all {
			got, err := cache.GetMany(ctx, append(keys, "absent"))
			require.NoError(t, err)
			require.Equal(t, values, got)
		}
		require.NoError(t, all[1].Delete(ctx, keys[:500]...))
		got, err := all[2].GetMany(ctx, keys)
		require.NoError(t, err)
		require.Len(t, got, 500)
		require.NoError(t, all[2].Clear(ctx))
		for _, cache := range all {
			got, err := cache.GetMany(ctx, keys)
			require.NoError(t, err)
			require.Empty(t, got)
		}
	})
}
