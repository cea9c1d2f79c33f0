package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestGetFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		load := func(_ context.Context, key string) (string, error) {
			if key == "none" {
				return "", peercache.ErrNotFound
			}
			return "value of " + key, nil
		}
		caches := make([]*peercache.Cache[string], 3)
		for i, n := range c.Nodes {
			caches[i] = newCache(t, n, peercache.Options[string]{Load: load})
		}
		from := func(i int, key string) peercache.Source {
			t.Helper()
			v, from, err := caches[i].GetFrom(ctx, key)
			require.NoError(t, err)
			require.Equal(t, "value of "+key, v)
			return from
		}
		place := func(i int, key string) int {
			for place, m := range c.Nodes[i].Owners("things", key) {
				if m.Incarnation == c.Nodes[i].Self().Incarnation {
					return place
				}
			}
			return -1
		}
		for k := range 20 {
			key := fmt.Sprint(k)
			for i := range 3 {
				if place(i, key) == 0 {
					require.Equal(t, peercache.SourceLoad, from(i, key))
					require.Equal(t, peercache.SourceStore, from(i, key)) // and is near from now on
					require.Equal(t, peercache.SourceNear, from(i, key))
				}
			}
			time.Sleep(200 * time.Millisecond) // the copy is at the replica
			for i := range 3 {
				switch place(i, key) {
				case 1:
					require.Equal(t, peercache.SourceStore, from(i, key))
				case -1:
					require.Equal(t, peercache.SourcePeer, from(i, key))
				}
			}
		}
		for i := range 3 {
			_, from, err := caches[i].GetFrom(ctx, "none")
			require.ErrorIs(t, err, peercache.ErrNotFound)
			require.Equal(t, peercache.SourceNone, from)
		}
		require.NoError(t, c.Nodes[0].Close())
		_, source, err := caches[0].GetFrom(ctx, "other")
		require.ErrorIs(t, err, peercache.ErrClosed)
		require.Equal(t, peercache.SourceNone, source)
	})
}

func TestSourceString(t *testing.T) {
	require.Equal(t, "none near store peer load Source(9)", fmt.Sprint(peercache.SourceNone, " ", peercache.SourceNear, " ",
		peercache.SourceStore, " ", peercache.SourcePeer, " ", peercache.SourceLoad, " ", peercache.Source(9)))
}

// While it can load a value again, a codec that cannot read what is held makes
// the source a load.
func TestGetFromWhatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		old, err := peercache.New(c.Nodes[0], "things", peercache.Options[int]{})
		require.NoError(t, err)
		require.NoError(t, old.Set(t.Context(), "k", 1))
		fresh, err := peercache.New(c.Nodes[1], "things", peercache.Options[string]{Load: func(context.Context, string) (string, error) {
			return "text", nil
		}})
		require.NoError(t, err)
		v, from, err := fresh.GetFrom(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "text", v)
		require.Equal(t, peercache.SourceLoad, from)

		plain, err := peercache.New(c.Nodes[0], "other", peercache.Options[string]{Load: func(context.Context, string) (string, error) {
			return "", errors.New("no origin")
		}})
		require.NoError(t, err)
		_, from, err = plain.GetFrom(t.Context(), "k")
		require.ErrorIs(t, err, peercache.ErrLoad)
		require.Equal(t, peercache.SourceNone, from)
	})
}
