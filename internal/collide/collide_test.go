package collide_test

import (
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/collide"
)

func TestKeys(t *testing.T) {
	for _, hash := range []uint64{0, 1, 0x123456789abcdef0, ^uint64(0)} {
		seen := make(map[string]bool)
		for _, key := range collide.Keys(hash, 1000) {
			require.Equal(t, hash, xxhash.Sum64String(key))
			seen[key] = true
		}
		require.Len(t, seen, 1000)
	}
}
