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

// TestMaxBytesHoldsOnMembersWithoutTheCache: members that hold a part of a cache
// for which they did not call New keep to its bound as well.
func TestMaxBytesHoldsOnMembersWithoutTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 1 << 20
		c := peercachetest.NewCluster(t, 2)
		cache := newCache(t, c.Nodes[0], peercache.Options[[]byte]{MaxBytes: most})
		other, err := peercache.New(c.Nodes[0], "other", peercache.Options[[]byte]{})
		require.NoError(t, err)
		for i := range 13_000 {
			require.NoError(t, cache.Set(t.Context(), fmt.Sprint(i), make([]byte, 1<<10)))
			require.NoError(t, other.Set(t.Context(), fmt.Sprint(i), make([]byte, 100)))
		}
		requireBound := func(n *peercache.Node) {
			t.Helper()
			bound, held := peercache.BoundOf(n, "things")
			require.EqualValues(t, most, bound)
			require.LessOrEqual(t, held, int64(most))
			require.Greater(t, held, int64(most/2))
			bound, held = peercache.BoundOf(n, "other")
			require.Zero(t, bound, "others have none")
			require.Greater(t, held, int64(most))
		}
		requireBound(c.Nodes[0])
		requireBound(c.Nodes[1])
		c.Start(2) // it is told as well
		c.WaitAgree()
		requireReady(t, c.Nodes[2])
		time.Sleep(2 * time.Second)
		bound, held := peercache.BoundOf(c.Nodes[2], "things")
		require.EqualValues(t, most, bound)
		require.LessOrEqual(t, held, int64(most))
	})
}

// TestWhichMaxBytesCounts where members do not give the same.
func TestWhichMaxBytesCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		bound := func(i int) int64 { most, _ := peercache.BoundOf(c.Nodes[i], "c"); return most }
		open := func(n *peercache.Node, most int64) {
			_, err := peercache.New(n, "c", peercache.Options[string]{MaxBytes: most})
			require.NoError(t, err)
			time.Sleep(time.Second)
		}
		open(c.Nodes[0], 2<<20)
		for i := range 4 {
			require.EqualValues(t, 2<<20, bound(i))
		}
		open(c.Nodes[1], 4<<20)
		require.EqualValues(t, 2<<20, bound(0), "its own")
		require.EqualValues(t, 4<<20, bound(1))
		require.EqualValues(t, 4<<20, bound(2), "the greatest")
		open(c.Nodes[2], 0)
		require.EqualValues(t, 0, bound(2), "its own, which is none")
		require.EqualValues(t, 4<<20, bound(3))

		client := c.StartClient()
		open(client, 8<<20)
		require.EqualValues(t, 8<<20, bound(3), "a client's counts as well")
		require.NoError(t, client.Close())
		time.Sleep(3 * time.Minute)
		require.EqualValues(t, 4<<20, bound(3), "it is gone")
		c.Kill(1)
		c.WaitAgree()
		time.Sleep(3 * time.Minute)
		require.EqualValues(t, 2<<20, bound(3))
		c.Kill(0)
		time.Sleep(3 * time.Minute)
		require.EqualValues(t, 2<<20, bound(3), "the last one stays")
		c.Start(0)
		c.WaitAgree()
		open(c.Nodes[0], 1<<20)
		require.EqualValues(t, 1<<20, bound(3))
	})
}
