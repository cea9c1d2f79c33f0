package peercache_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// A hedge's answer that comes after the owner said that it loads must not
// make the asker take the owner for silent.
func TestLateHedgeDoesNotEndThePatienceWithALoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		var loads atomic.Int64
		all := caches(t, c, peercache.Options[string]{
			Load: func(context.Context, string) (string, error) {
				loads.Add(1)
				time.Sleep(time.Second)
				return "value", nil
			},
		})
		// Node 0 asks, 1 is the primary, 2 the replica.
		key := ""
		for i := 0; key == ""; i++ {
			k := fmt.Sprint("key-", i)
			if o := c.Nodes[0].Owners("things", k); o[0].Name == "node-1" && o[1].Name == "node-2" {
				key = k
			}
		}
		for i := range 100 { // everybody is connected
			_, _, err := all[0].Lookup(ctx, fmt.Sprint("warm-", i))
			require.NoError(t, err)
		}
		c.Network.Delay(c.Host(0), c.Host(1), 30*time.Millisecond)
		c.Network.Delay(c.Host(0), c.Host(2), 60*time.Millisecond)
		_, err := all[0].Get(ctx, key)
		require.NoError(t, err)
		require.EqualValues(t, 1, loads.Load())
	})
}

// To connect takes several round trips. Far away that is longer than an owner
// may be silent, and yet none of them is.
func TestOwnersFarAwayAreNotSilentWhileOneConnects(t *testing.T) {
	for _, delay := range []time.Duration{20, 40, 60, 80} {
		synctest.Test(t, func(t *testing.T) {
			src := new(source)
			c := peercachetest.NewCluster(t, 3)
			all := caches(t, c, peercache.Options[string]{Load: src.load})
			key := keyOf(c, 0, 1)
			require.NoError(t, all[0].Set(t.Context(), key, "stored"))
			c.Network.DelayAll(delay * time.Millisecond)
			for i := range 2 {
				c.Network.Reset(c.Host(i), c.Host(2))
			}
			time.Sleep(delay * time.Millisecond)
			v, err := all[2].Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, "stored", v, "%d ms away", delay)
			require.Zero(t, src.calls.Load())
		})
	}
}
