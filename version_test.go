package peercache

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestVersionText(t *testing.T) {
	v := Version{time: 0x0123456789abcdef, incarnation: 42}
	text, err := v.MarshalText()
	require.NoError(t, err)
	require.Equal(t, "0123456789abcdef000000000000002a", string(text))
	var back Version
	require.NoError(t, back.UnmarshalText(text))
	require.Equal(t, v, back)
	for _, bad := range []string{"", "x", string(text[1:]), "g" + string(text[1:])} {
		require.Error(t, back.UnmarshalText([]byte(bad)))
		require.Equal(t, v, back)
	}
	require.True(t, Version{}.IsZero())
	require.False(t, v.IsZero())
}

func TestVersionsAreTotallyOrdered(t *testing.T) {
	versions := []Version{{}, {1, 0}, {1, 7}, {2, 0}, {2, 1}, {1 << 63, 0}}
	for i, v := range versions {
		for j, w := range versions {
			sa, sb := v.stamp(), w.stamp()
			require.Equal(t, v.Compare(w), slices.Compare([]int{i}, []int{j}))
			require.Equal(t, v.Compare(w), slices.Compare(sa[:], sb[:]))
		}
	}
}

// A fill follows the write that its owner held; a later write beats it, and so
// does a fill that began later.
func TestOrderOfWritesAndFills(t *testing.T) {
	at := func(ms uint64) Version { return Version{ms << counterBits, 1} }
	write := func(ms uint64) order { return order{at(ms), at(ms)} }
	fill := func(w, v uint64) order { return order{at(w), at(v)} }
	ascending := []order{{}, fill(0, 3), write(5), fill(5, 8), fill(5, 9), write(7), fill(7, 8), write(20)}
	for i, a := range ascending {
		for j, b := range ascending {
			require.Equal(t, slices.Compare([]int{i}, []int{j}), a.compare(b), "%d and %d", i, j)
		}
	}
}

func TestHybridClock(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	c := &hybridClock{now: func() time.Time { return now }, incarnation: 7}
	a, b := c.next(), c.next()
	require.Positive(t, b.Compare(a), "within one millisecond")
	now = now.Add(-time.Hour)
	d := c.next()
	require.Positive(t, d.Compare(b), "a clock that goes back")
	now = time.UnixMilli(1_000_000)
	ahead := after(c.read(), 400*time.Millisecond)
	require.True(t, c.follow(ahead))
	require.Positive(t, c.next().Compare(Version{ahead, ^uint64(0)}), "never behind what it was shown")
	require.False(t, c.accept(after(c.read(), 2*maxAhead)), "that is no clock")
	require.Less(t, c.read(), after(ahead, time.Second))
}
