package lru

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func inSpace(space uint32, n int) Key {
	k := numbered(n)
	k.Space = space
	k.Hash ^= uint64(space) * 0x9e3779b97f4a7c15
	return k
}

func TestSpaceLimit(t *testing.T) {
	s := New(Options{MaxBytes: 8 << 20})
	value := make([]byte, 100)
	for i := range 20_000 {
		require.NoError(t, s.Put(inSpace(1, i), Meta{}, value))
		require.NoError(t, s.Put(inSpace(2, i), Meta{}, value))
	}
	const limit = 100 << 10
	s.SetSpaceLimit(1, limit)
	st := s.SpaceStats(1)
	require.LessOrEqual(t, st.Bytes, int64(limit))
	require.Greater(t, st.Bytes, int64(limit*9/10))
	require.EqualValues(t, 20_000-st.Entries, st.Evictions)
	require.EqualValues(t, 20_000, s.SpaceStats(2).Entries, "others are left alone")
	check(t, s)

	// A few keys that are read stay among many that are not.
	for i := range 20_000 {
		require.NoError(t, s.Put(inSpace(1, 100_000+i), Meta{}, value))
		if i%10 == 0 {
			for j := range 50 {
				if _, _, ok := s.Read(inSpace(1, 900_000+j), nil); !ok {
					require.NoError(t, s.Put(inSpace(1, 900_000+j), Meta{}, value))
				}
			}
		}
		require.LessOrEqual(t, s.SpaceStats(1).Bytes, int64(limit))
	}
	there := 0
	for j := range 50 {
		if s.Stat(inSpace(1, 900_000+j)).Exists {
			there++
		}
	}
	require.Greater(t, there, 40)
	require.EqualValues(t, 20_000, s.SpaceStats(2).Entries)
	require.Equal(t, ErrTooLarge, s.Put(inSpace(1, 1), Meta{}, make([]byte, limit)))
	require.NoError(t, s.Put(inSpace(1, 1), Meta{}, make([]byte, limit/2)))
	check(t, s)

	s.SetSpaceLimit(1, 0)
	for i := range 5000 {
		require.NoError(t, s.Put(inSpace(1, i), Meta{}, value))
	}
	require.Greater(t, s.SpaceStats(1).Bytes, int64(limit))
	s.SetSpaceLimit(7, 1000)
	s.SetSpaceLimit(8, 0)
	require.Equal(t, SpaceStats{MaxBytes: 1000}, s.SpaceStats(7))
	check(t, s)
}

// A space with few entries among many others, in a store of many segments.
func TestSpaceLimitFewEntries(t *testing.T) {
	s := New(Options{MaxBytes: 64 << 20})
	for i := range 100_000 {
		require.NoError(t, s.Put(inSpace(1, i), Meta{}, make([]byte, 100)))
	}
	s.SetSpaceLimit(2, 2000)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 500 {
		require.NoError(t, s.Put(inSpace(2, i), Meta{}, make([]byte, rng.IntN(500))))
		require.LessOrEqual(t, s.SpaceStats(2).Bytes, int64(2000))
		require.True(t, s.Stat(inSpace(2, i)).Exists)
	}
	check(t, s)
}

func BenchmarkSpaceLimit(b *testing.B) {
	for name, others := range map[string]int{"half": 10_000, "tenth": 90_000, "hundredth": 990_000} {
		b.Run(name, func(b *testing.B) {
			s := New(Options{MaxBytes: 512 << 20})
			value := make([]byte, 100)
			for i := range others {
				_ = s.Put(inSpace(1, i), Meta{}, value)
			}
			s.SetSpaceLimit(2, 10_000*160)
			i := 0
			for ; i < 20_000; i++ {
				_ = s.Put(inSpace(2, i), Meta{}, value)
			}
			for b.Loop() {
				_ = s.Put(inSpace(2, i), Meta{}, value)
				i++
			}
		})
	}
}
