package lru

import (
	"math/bits"
	"sync/atomic"
)

// presence says which segments may hold entries of a shard, so that to go through a shard costs a visit to those alone.
// There is a bit for each shard and segment. It is set with the segment's lock held whenever a record of the shard is
// appended there, and cleared with the lock held by a walk that met no live one; it may be read without.
type presence struct {
	words    []atomic.Uint64
	segShift uint // log2 of the segments
}

func newPresence(g *geometry) presence {
	return presence{
		words:    make([]atomic.Uint64, (g.shards*g.segments+63)/64),
		segShift: uint(bits.Len(uint(g.segments - 1))),
	}
}

// place returns where the bit of a shard and a segment is.
func (p *presence) place(shard uint16, segment int) (word *atomic.Uint64, bit uint) {
	i := uint(shard)<<p.segShift | uint(segment)
	return &p.words[i/64], i % 64
}

func (p *presence) set(shard uint16, segment int) {
	if w, bit := p.place(shard, segment); w.Load()>>bit&1 == 0 {
		w.Or(1 << bit)
	}
}

func (p *presence) clear(shard uint16, segment int) {
	w, bit := p.place(shard, segment)
	w.And(^(uint64(1) << bit))
}

// next returns the first segment, not below from, that may hold entries of a shard; the number of segments if none does.
func (p *presence) next(shard uint16, from int) int {
	for all := 1 << p.segShift; from < all; {
		w, bit := p.place(shard, from)
		if rest := w.Load() >> bit; rest != 0 {
			// The bits beyond the last segment are the next shard's.
			return min(from+bits.TrailingZeros64(rest), all)
		}
		from += 64 - int(bit)
	}
	return 1 << p.segShift
}
