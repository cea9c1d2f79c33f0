package peercache

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMarksAreSets compares a mark with a set, whatever the order.
func TestMarksAreSets(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var s mark
		seen := make(map[uint64]bool)
		for range 1 + random.IntN(40) {
			first := 1 + random.Uint64N(30)
			n := span{first, first + random.Uint64N(3)}
			s.add(n)
			for i := n.first; i <= n.last; i++ {
				seen[i] = true
			}
		}
		upTo := uint64(0)
		for seen[upTo+1] {
			upTo++
		}
		require.Equal(t, upTo, s.upTo)
		held := make(map[uint64]bool)
		for i := uint64(1); i <= s.upTo; i++ {
			held[i] = true
		}
		last := s.upTo
		for _, b := range s.beyond {
			require.Greater(t, b.first, last+1, "runs do not touch")
			for last = b.first; last < b.last; last++ {
				held[last] = true
			}
			held[last] = true
		}
		require.Equal(t, seen, held)
	}
}

func TestMarksForgetRunsThatDoNotFit(t *testing.T) {
	var s mark
	for i := range uint64(3 * maxSpans) {
		s.add(span{10 + 2*i, 10 + 2*i})
	}
	require.Len(t, s.beyond, maxSpans)
	s.add(span{1, 9 + 2*maxSpans})
	require.Equal(t, uint64(9+2*maxSpans), s.upTo, "what was forgotten is a gap")
}

func TestVectors(t *testing.T) {
	a, b := &vectors{self: 1}, &vectors{self: 2}
	for range 3 {
		a.number(7)
	}
	require.Equal(t, []mark{{stamper: 1, upTo: 3}}, a.marks(7))
	require.Empty(t, a.marks(8))
	b.saw(7, 1, 1)
	b.saw(7, 1, 3)
	require.False(t, covers(b.marks(7), a.marks(7)), "the second write is missing")
	require.True(t, covers(a.marks(7), b.marks(7)))
	b.saw(7, 1, 2)
	require.True(t, covers(b.marks(7), a.marks(7)))

	a.drop(7)
	require.Empty(t, a.marks(7))
	require.Equal(t, uint64(4), a.number(7), "a number is not given twice")
	require.Equal(t, []mark{{stamper: 1, beyond: []span{{4, 4}}}}, a.marks(7), "those before it are gone")
	require.False(t, covers(b.marks(7), a.marks(7)), "what is out of turn counts")
	a.adopt(7, b.marks(7))
	require.Equal(t, []mark{{stamper: 1, upTo: 4, beyond: []span{}}}, a.marks(7))
}

func TestVectorsForgetTheOldestStamper(t *testing.T) {
	v := &vectors{self: 1000}
	for i := range uint64(maxStampers + 1) {
		v.saw(0, 1+i, 1)
	}
	marks := v.marks(0)
	require.Len(t, marks, maxStampers)
	require.True(t, covers(marks, []mark{{stamper: 2, upTo: 1}, {stamper: maxStampers + 1, upTo: 1}}))
	require.False(t, covers(marks, []mark{{stamper: 1, upTo: 1}}))
}
