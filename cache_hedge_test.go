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
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d ms away, TLS %v", delay, secure), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { requireNotSilent(t, delay*time.Millisecond, secure) })
			})
		}
	}
}

func requireNotSilent(t *testing.T, delay time.Duration, secure bool) {
	src, ca := new(source), newAuthority(t)
	c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) {
		if secure {
			cfg.TLS = ca.oneWay(t, hostOf(t, cfg))
		}
	})
	all := caches(t, c, peercache.Options[string]{Load: src.load})
	key := keyOf(c, 0, 1)
	require.NoError(t, all[0].Set(t.Context(), key, "stored"))
	c.Network.DelayAll(delay)
	for _, get := range []func() (string, error){
		func() (string, error) { return all[2].Get(t.Context(), key) },
		func() (string, error) {
			values, err := all[2].GetMany(t.Context(), []string{key})
			return values[key], err
		},
	} {
		for i := range 2 {
			c.Network.Reset(c.Host(i), c.Host(2))
		}
		time.Sleep(delay)
		v, err := get()
		require.NoError(t, err)
		require.Equal(t, "stored", v)
	}
	require.Zero(t, src.calls.Load())
	require.Zero(t, all[2].Stats().PeerErrors, "no owner was given up")
}
