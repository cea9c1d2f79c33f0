package peercache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestManyWithFaultyKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxValueBytes = 100 })
		all := caches(t, c, peercache.Options[string]{})
		values := map[string]string{"a": "1", "b": "2", "large": strings.Repeat("x", 200)}
		err := all[0].SetMany(ctx, values)
		var failed *peercache.KeysError
		require.ErrorAs(t, err, &failed)
		require.ErrorIs(t, err, peercache.ErrTooLarge)
		require.Len(t, failed.Errs, 1)
		for _, cache := range all {
			got, err := cache.GetMany(ctx, []string{"a", "b", "large", "a"})
			require.NoError(t, err)
			require.Equal(t, map[string]string{"a": "1", "b": "2"}, got)
		}
		err = all[1].SetMany(ctx, map[string]string{"a": "3", "c": "4"}, peercache.IfAbsent())
		require.ErrorAs(t, err, &failed)
		require.ErrorIs(t, failed.Errs["a"], peercache.ErrConflict)
		require.NotContains(t, failed.Errs, "c")
		got, err := all[2].GetMany(ctx, []string{"a", "c"})
		require.NoError(t, err)
		require.Equal(t, map[string]string{"a": "1", "c": "4"}, got)
		got, err = all[2].GetMany(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, got)
		require.NoError(t, all[2].Delete(ctx))
		require.NoError(t, all[2].SetMany(ctx, nil))
	})
}

func TestManyWhileAnOwnerIsSilentOrDead(t *testing.T) {
	for name, end := range map[string]func(c *peercachetest.Cluster, i int){
		"killed": (*peercachetest.Cluster).Kill, "vanished": (*peercachetest.Cluster).Vanish,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				c := peercachetest.NewCluster(t, 4)
				all := caches(t, c, peercache.Options[int]{})
				values := make(map[string]int)
				var keys []string
				for i := range 500 {
					values[fmt.Sprint(i)] = i
					keys = append(keys, fmt.Sprint(i))
				}
				require.NoError(t, all[0].SetMany(ctx, values))
				end(c, 1)
				began := time.Now()
				got, err := all[0].GetMany(ctx, keys)
				require.NoError(t, err)
				require.Equal(t, values, got)
				t.Log("GetMany took", time.Since(began))
				require.LessOrEqual(t, time.Since(began), time.Second)
				began = time.Now()
				require.NoError(t, all[2].SetMany(ctx, values))
				t.Log("SetMany took", time.Since(began))
				require.LessOrEqual(t, time.Since(began), 3100*time.Millisecond)
				c.WaitAgree()
				got, err = all[3].GetMany(ctx, keys)
				require.NoError(t, err)
				require.Equal(t, values, got)
				requireOwnersAgree(t, c)
			})
		})
	}
}

func TestFullStoreEvictsAndWorksOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		const maxBytes = 32 << 20
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxBytes = maxBytes })
		all := caches(t, c, peercache.Options[string]{})
		value := strings.Repeat("x", 64<<10)
		for i := range 2000 {
			key := fmt.Sprint(i)
			require.NoError(t, all[i%3].Set(ctx, key, value))
			requireAll(t, key, value, all[(i+1)%3])
			if i%100 == 0 {
				for _, n := range c.Nodes {
					require.LessOrEqual(t, n.Stats().Bytes, int64(maxBytes))
				}
			}
		}
		var evictions int64
		for i, n := range c.Nodes {
			s := n.Stats()
			require.LessOrEqual(t, s.Bytes, int64(maxBytes))
			require.Greater(t, s.Bytes, int64(maxBytes/2))
			evictions += all[i].Stats().Evictions
		}
		require.Positive(t, evictions)
	})
}

func TestCacheStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		src := new(source)
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: src.load})
		key := keyOf(c, 0, 1)
		for range 3 {
			requireAll(t, key, "value of "+key, all[0])
		}
		for range 3 {
			requireAll(t, key, "value of "+key, all[2])
		}
		s := all[0].Stats()
		require.EqualValues(t, 3, s.Gets)
		require.EqualValues(t, 1, s.Loads)
		require.EqualValues(t, 2, s.Hits+s.NearHits)
		require.Positive(t, s.NearHits)
		require.EqualValues(t, 3, s.ServerRequests)
		require.EqualValues(t, 1, s.Entries)
		require.EqualValues(t, 1, s.NearEntries)
		require.Positive(t, s.Bytes)
		s = all[2].Stats()
		require.EqualValues(t, 3, s.Gets)
		require.EqualValues(t, 3, s.PeerLoads)
		require.Zero(t, s.PeerErrors)
		require.Zero(t, s.Loads)
		require.NoError(t, all[2].Set(ctx, key, "set"))
		require.NoError(t, all[2].Delete(ctx, key, "another"))
		s = all[2].Stats()
		require.EqualValues(t, 1, s.Sets)
		require.EqualValues(t, 2, s.Deletes)
	})
}

// Replicas answer for what they hold, and do not load what they do not.
func TestManyAreReadFromReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		var mu sync.Mutex
		loads := make(map[string]int)
		all := caches(t, c, peercache.Options[string]{ReadReplicas: true, LoadMany: func(_ context.Context, keys []string) (map[string]string, error) {
			mu.Lock()
			defer mu.Unlock()
			values := make(map[string]string)
			for _, key := range keys {
				loads[key]++
				values[key] = "value of " + key
			}
			return values, nil
		}})
		keys := keysOf(c, 100, 0, 1)
		ask := func() {
			got, err := all[2].GetMany(ctx, keys)
			require.NoError(t, err)
			require.Len(t, got, len(keys))
			for _, key := range keys {
				require.Equal(t, "value of "+key, got[key])
				require.Equal(t, 1, loads[key])
			}
		}
		ask()
		time.Sleep(time.Second)
		served := func(i int) int64 { return all[i].Stats().ServerRequests }
		primary, replica := served(0), served(1)
		for range 10 {
			ask()
		}
		require.EqualValues(t, 10, served(0)-primary)
		require.EqualValues(t, 10, served(1)-replica)
		c.Kill(0)
		ask()
	})
}
