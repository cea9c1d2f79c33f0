package peercache_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// Large values travel on a connection of their own, whoever has them and
// whatever becomes of that connection.
func TestLargeValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		loads := 0
		large := strings.Repeat("0123456789abcdef", 100_000)
		all := caches(t, c, peercache.Options[string]{Load: func(_ context.Context, key string) (string, error) {
			loads++
			return large + key, nil
		}})
		bytesTo := func(i, j int) int64 {
			for _, p := range c.Nodes[i].Stats().Peers {
				if p.Incarnation == c.Nodes[j].Self().Incarnation {
					return p.BytesIn + p.BytesOut
				}
			}
			return 0
		}
		keys := keysOf(c, 3, 0, 1)
		for i, key := range keys {
			requireAll(t, key, large+key, all[2], all[0], all[1], all[2])
			require.Equal(t, i+1, loads)
		}
		before := bytesTo(2, 0)
		for _, key := range keys {
			require.NoError(t, all[2].Set(t.Context(), key, key+large))
			requireAll(t, key, key+large, all...)
		}
		require.Greater(t, bytesTo(2, 0)-before, int64(2*len(keys)*len(large)))

		got, err := all[2].GetMany(t.Context(), keys)
		require.NoError(t, err)
		for _, key := range keys {
			require.Equal(t, key+large, got[key])
		}
		// One that is stopped in the middle of it is read around.
		c.Network.Delay(c.Host(0), c.Host(2), 5*time.Millisecond)
		c.Pause(0)
		for _, key := range keys {
			requireAll(t, key, key+large, all[2])
		}
		c.Resume(0)
		time.Sleep(time.Second)
		c.Kill(0)
		for _, key := range keys {
			requireAll(t, key, key+large, all[1:]...)
		}
		require.Equal(t, len(keys), loads)
	})
}
