package lru

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSetMaxBytes(t *testing.T) {
	s := New(Options{MaxBytes: 64 << 20, Shards: 4096})
	fill := func() {
		for i := range 20_000 {
			k := numbered(i)
			k.Shard = uint16(i % 4096)
			require.NoError(t, s.Put(k, Meta{Flags: byte(i)}, make([]byte, 10+i%1000)))
		}
		for i := range 50 {
			require.NoError(t, s.Put(numbered(1_000_000+i), Meta{}, make([]byte, min(s.Stats().MaxBytes/100, 1<<20))))
		}
	}
	verify := func() {
		for i := range 20_000 {
			if v, m, ok := s.Peek(numbered(i), nil); ok {
				require.Len(t, v, 10+i%1000)
				require.Equal(t, byte(i), m.Flags)
			}
		}
	}
	for _, n := range []int64{64 << 20, 32 << 20, 8 << 20, 1 << 20, 256 << 10, 4 << 20, 1 << 30, 16 << 20, 0} {
		s.SetMaxBytes(n)
		if n == 0 {
			n = DefaultMaxBytes
		}
		require.Equal(t, n, s.Stats().MaxBytes)
		require.LessOrEqual(t, s.Bytes(), n)
		verify()
		check(t, s)
		fill()
		verify()
		check(t, s)
		require.Positive(t, s.Len(), fmt.Sprint(n))
		t.Logf("bound %10d: %10d bytes in %6d entries", n, s.Bytes(), s.Len())
	}
}

// A bound of next to nothing for many segments: puts may fail, nothing else may.
func TestBoundTooSmallForSegments(t *testing.T) {
	s := New(Options{MaxBytes: 16 << 20, Segments: 512, Shards: 4096})
	for i := range 100_000 {
		require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 100)))
	}
	s.SetMaxBytes(1)
	check(t, s)
	for i := range 1000 {
		_ = s.Put(numbered(i), Meta{}, make([]byte, 100))
		require.LessOrEqual(t, s.Bytes(), int64(MinMaxBytes))
	}
	check(t, s)
	s.SetMaxBytes(16 << 20)
	require.NoError(t, s.Put(numbered(1), Meta{}, make([]byte, 100)))
	check(t, s)
}
