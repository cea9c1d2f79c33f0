package lru

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// check verifies what must hold in a Store that nobody is using: index, rings, chains and counts agree, and the
// bytes charged are those of what is there.
func check(t testing.TB, s *Store) {
	t.Helper()
	var used, inline int64
	var external [2]int64
	limited := map[uint32]int64{}
	for i := range s.segments {
		g := &s.segments[i]
		g.mu.Lock()
		sh := g.shape
		live := 0
		var segInline, segExternal int64
		type counts struct{ entries, bytes int64 }
		spaces := map[uint32]counts{}
		extents := 0
		for ring := range g.rings {
			r := &g.rings[ring]
			segInline += int64(r.count) * sh.blockCost
			chained := map[uint64]bool{}
			if g.heads[ring] != nil {
				for h, low := range g.heads[ring] {
					if low == noLink {
						continue
					}
					for pos, ok := r.full(low), true; ok; {
						require.False(t, chained[pos], "a record in two chains")
						require.True(t, pos >= r.tail && pos < r.head, "a chain outside its ring")
						chained[pos] = true
						rec := r.at(sh, pos)
						require.EqualValues(t, h, uint32(rec.shard())&sh.headMask)
						pos, ok = r.before(pos, rec.link())
					}
				}
			}
			blocks, dead := 0, uint64(0)
			if !r.empty() {
				require.NotEqual(t, r.tail, r.head)
				blocks = int((r.head-1)>>sh.blockShift - r.tail>>sh.blockShift + 1)
			}
			require.Equal(t, blocks, r.count)
			for pos := r.tail; !r.empty() && pos < r.head; pos = r.next(sh, pos) {
				rec := r.at(sh, pos)
				require.True(t, chained[pos], "a record in no chain")
				delete(chained, pos)
				if rec.dead() {
					dead += rec.units()
					continue
				}
				live++
				require.Equal(t, i, s.presence.next(rec.shard(), i), "a live record of a shard that is not said to be here")
				ref := uint32(pos)&posMask | uint32(ring)<<31
				slot := g.index.find(g.tagOf(s, rec), ref)
				require.GreaterOrEqual(t, slot, 0, "a live record that the index lacks")
				c := spaces[rec.space()]
				c.entries++
				c.bytes += g.cost(rec)
				spaces[rec.space()] = c
				if rec.external() {
					extents++
					cost := g.extents.cost(rec.extent())
					segExternal += cost
					external[ring] += cost
				}
			}
			require.Equal(t, dead, g.dead[ring])
			require.Empty(t, chained, "chains with records that are not there")
		}
		require.Equal(t, live, g.index.n)
		filled := 0
		for _, slot := range g.index.slots {
			if slot != 0 {
				filled++
			}
		}
		require.Equal(t, live, filled)
		require.Equal(t, segInline, g.inline.Load())
		require.Equal(t, segExternal, g.external.Load())
		require.Equal(t, len(g.extents.list), extents+len(g.extents.free))
		for j := range g.spaces.list {
			c := &g.spaces.list[j]
			require.Equal(t, spaces[c.id], counts{c.entries, c.bytes}, "space %d", c.id)
			require.Same(t, s.limitOf(c.id), c.limit)
			limited[c.id] += c.bytes
			delete(spaces, c.id)
		}
		require.Empty(t, spaces)
		inline += segInline
		used += segInline + segExternal + g.extents.places()
		if g.heads[0] != nil {
			used += sh.headBytes()
		}
		if n := len(g.index.slots); n > 0 {
			used += heapBytes(n * slotBytes)
		}
		for j := range g.ghosts {
			if n := len(g.ghosts[j].tags); n > 0 {
				used += heapBytes(n * ghostTagBytes)
			}
		}
		g.mu.Unlock()
	}
	require.Equal(t, used, s.used.Load(), "bytes charged")
	require.Equal(t, inline, s.inline.Load())
	for i := range external {
		require.Equal(t, external[i], s.external[i].Load())
	}
	require.LessOrEqual(t, s.Bytes(), s.Stats().MaxBytes)
	if limits := s.limits.Load(); limits != nil {
		for id, l := range *limits {
			require.Equal(t, limited[id], l.bytes.Load(), "bytes of space %d", id)
		}
	}
}
