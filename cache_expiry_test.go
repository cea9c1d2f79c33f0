package peercache_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestValuesExpireEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := newSkewedCluster(t, -200*time.Millisecond, 200*time.Millisecond, 0, 100*time.Millisecond)
		all := caches(t, c, peercache.Options[string]{TTL: 10 * time.Second, NearTTL: time.Minute})
		short, usual, forever := keysOf(c, 3, 0, 1)[0], keysOf(c, 3, 0, 1)[1], keysOf(c, 3, 1, 0)[2]
		require.NoError(t, all[2].Set(ctx, short, "v", peercache.WithTTL(3*time.Second)))
		require.NoError(t, all[2].Set(ctx, usual, "v"))
		require.NoError(t, all[2].Set(ctx, forever, "v", peercache.WithTTL(0)))
		for range 3 { // near copies too
			for _, key := range []string{short, usual, forever} {
				requireAll(t, key, "v", all...)
			}
		}
		e, _, err := all[3].LookupEntry(ctx, short)
		require.NoError(t, err)
		until := c.Network.Host(c.Host(3)).Now().Add(3 * time.Second)
		require.WithinDuration(t, until, e.Expires, 50*time.Millisecond)
		e, _, err = all[3].LookupEntry(ctx, forever)
		require.NoError(t, err)
		require.True(t, e.Expires.IsZero())

		gone := func(key string, all ...*peercache.Cache[string]) {
			t.Helper()
			for i, cache := range all {
				_, err := cache.Get(ctx, key)
				require.ErrorIs(t, err, peercache.ErrNotFound, "node %d", i)
				got, err := cache.GetMany(ctx, []string{key})
				require.NoError(t, err)
				require.Empty(t, got)
			}
		}
		time.Sleep(2800 * time.Millisecond)
		requireAll(t, short, "v", all...)
		time.Sleep(250 * time.Millisecond)
		gone(short, all...)
		c.Kill(0) // who takes its place gets no longer life
		c.WaitAgree()
		time.Sleep(100 * time.Millisecond)
		gone(short, all[1:]...)
		requireAll(t, usual, "v", all[1:]...)
		for _, n := range c.Running() {
			if left, ok := n.ExpiresIn("things", usual); ok {
				require.LessOrEqual(t, left, 7*time.Second)
			}
		}
		time.Sleep(7 * time.Second)
		gone(usual, all[1:]...)
		time.Sleep(time.Hour)
		requireAll(t, forever, "v", all[1:]...)
	})
}

func TestNearCopiesOfOwnShardsAreNeverOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		key := keyOf(c, 0, 1)
		for i := range 50 {
			require.NoError(t, all[2].Set(ctx, key, fmt.Sprint(i)))
			for range 3 {
				requireAll(t, key, fmt.Sprint(i), all...)
			}
		}
		require.Positive(t, all[0].Stats().NearHits)
		require.Positive(t, all[1].Stats().NearHits)
		require.Zero(t, all[2].Stats().NearHits, "others' keys are not kept without NearTTL")
		require.NoError(t, all[2].Clear(ctx))
		for _, cache := range all {
			_, err := cache.Get(ctx, key)
			require.ErrorIs(t, err, peercache.ErrNotFound)
		}
	})
}

func TestNearTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 4)
		time.Sleep(2 * time.Second) // until nobody is told of writes for having been an owner
		all := caches(t, c, peercache.Options[string]{NearTTL: time.Second})
		key := keyOf(c, 0, 1)
		require.NoError(t, all[0].Set(ctx, key, "one"))
		requireAll(t, key, "one", all...)
		requireAll(t, key, "one", all...)
		require.Positive(t, all[2].Stats().NearHits)
		require.NoError(t, all[2].Set(ctx, key, "two"))
		requireAll(t, key, "two", all[:3]...) // never old on the writer's own node
		requireAll(t, key, "one", all[3])
		e, _, err := all[3].LookupEntry(ctx, key)
		require.NoError(t, err)
		require.Equal(t, "two", e.Value, "LookupEntry never answers from a near copy")
		time.Sleep(time.Second + time.Millisecond)
		requireAll(t, key, "two", all...)
		require.NoError(t, all[3].Delete(ctx, key))
		for _, i := range []int{0, 1, 3} {
			_, err := all[i].Get(ctx, key)
			require.ErrorIs(t, err, peercache.ErrNotFound)
		}
	})
}
