package peercache_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// 1. A stamper is taken out of the others' tables, and its shards are copied to
// others. 2. It does not know that yet, and stamps a write. 3. The owner that
// gets it knows who else owns the shard by now: that one has the write before
// it is acknowledged.
func TestWriteGoesOnToOwnersItsStamperDoesNotKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4, func(i int, cfg *peercache.Config) {
			if i == 0 {
				cfg.Heartbeat.Timeout = 6 * time.Second // it misses nobody before the others miss it
			}
		})
		all := caches(t, c, peercache.Options[string]{})
		for i := 1; i < 4; i++ {
			c.Network.CutOneWay(c.Host(0), c.Host(i))
		}
		waitTables(c, deathKnown, c.Nodes[1:]...)
		time.Sleep(300 * time.Millisecond) // the shards are copied

		cut := c.Nodes[0]
		other := 1
		for !lists(cut, c.Nodes[other]) {
			other++
		}
		owners := []peercache.Member{cut.Self(), c.Nodes[other].Self()}
		values := make(map[string]string)
		for i := 0; len(values) < 20; i++ {
			if key := fmt.Sprint("key-", i); slices.Equal(cut.Owners("things", key), owners) {
				values[key] = "value"
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		acked := make(chan error, 1)
		go func() { acked <- all[0].SetMany(ctx, values) }()
		synctest.Wait() // they are stamped, and on their way
		c.Network.Heal(c.Host(0), c.Host(other))
		require.NoError(t, <-acked)
		for _, cache := range all[1:] {
			for key := range values {
				_, ok, err := cache.Lookup(t.Context(), key)
				require.NoError(t, err)
				require.True(t, ok)
			}
		}
	})
}

// 1. A Clear is on its way to an owner that is slow to get it, and asked of the
// next one. 2. That one acknowledges it, and later writes are. 3. The first one
// gets it.
func TestClearThatComesLateClearsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 2)
		all := caches(t, c, peercache.Options[string]{})
		client := c.StartClient()
		cache := newCache(t, client, peercache.Options[string]{})
		keys := keysOf(c, 20, 0, 1)
		require.NoError(t, cache.Set(ctx, keys[0], "before"))
		c.Network.Delay("10.255.0.1", c.Host(0), 3*time.Second)
		require.NoError(t, cache.Clear(ctx))
		_, ok, err := all[1].Lookup(ctx, keys[0])
		require.NoError(t, err)
		require.False(t, ok)
		for _, key := range keys {
			require.NoError(t, all[1].Set(ctx, key, "after"))
		}
		time.Sleep(4 * time.Second)
		for _, key := range keys {
			requireAll(t, key, "after", all...)
		}
	})
}
