package peercache_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
)

// A value of a quarter of MaxBytes is stored, whatever else is in the store.
func TestGreatestValue(t *testing.T) {
	for _, maxBytes := range []int64{64 << 10, 1 << 20, 8 << 20, 64 << 20} {
		node, err := peercache.Start(t.Context(), peercache.Config{MaxBytes: maxBytes, MaxValueBytes: int(maxBytes)})
		require.NoError(t, err)
		defer node.Close()
		cache, err := peercache.New(node, "c", peercache.Options[[]byte]{})
		require.NoError(t, err)
		ctx := context.Background()
		small := make([]byte, maxBytes/100)
		for i := range 200 {
			require.NoError(t, cache.Set(ctx, string(rune('a'+i)), small))
		}
		value := make([]byte, maxBytes/4)
		value[len(value)-1] = 7
		for range 3 {
			require.NoError(t, cache.Set(ctx, "large", value))
			got, err := cache.Get(ctx, "large")
			require.NoError(t, err)
			require.Equal(t, value, got)
		}
		require.ErrorIs(t, cache.Set(ctx, "large", append(value, 0)), peercache.ErrTooLarge)
	}
}
