package lru

import (
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"
)

// The keys of a Store may be chosen by somebody who wants it to be slow, and a caller's hash may be one of which it is easy
// to find keys with equal hashes, or with hashes that are near each other. So where a record is depends on secrets of the
// Store. A keyed permutation of the hash gives the first place of a key: a segment and a tag in its index. When sameTag
// others have the same first place, or once had, the key goes to its second place, which a keyed hash of the key itself
// gives. Of crowds it is known by the hash alone that second places have to be looked at, and are looked at first.

// sameTag is how many records an index has by the same first tag.
const sameTag = 2

// seeds are the secrets of a Store.
type seeds struct {
	flip   uint64
	factor uint64 // odd
	keys   maphash.Seed
}

func newSeeds() seeds {
	return seeds{flip: rand.Uint64(), factor: rand.Uint64() | 1, keys: maphash.MakeSeed()}
}

// mix spreads a caller's hash: the finalizer of splitmix64, with a key in place of its first constant.
func (s *seeds) mix(h uint64) uint64 {
	h ^= s.flip
	h = (h ^ h>>30) * s.factor
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// tagOf returns the tag that belongs to a mixed hash. A tag is not 0.
func tagOf(h uint64) uint32 { return max(uint32(h), 1) }

// mixKey is what takes the place of a mixed hash for the second place of a key.
func (s *seeds) mixKey(k *Key) uint64 {
	var h uint64
	if k.Name != "" {
		h = maphash.String(s.keys, k.Name)
	} else {
		h = maphash.Bytes(s.keys, k.Bytes)
	}
	return s.mix(h + uint64(k.Space)*0x9e3779b97f4a7c15)
}

// crowds tells of which hashes keys may be at their second places: some bits for each segment of first places, of which
// one belongs to a hash. They are set with the segment's lock held, for good, and may be read without.
type crowds struct {
	words    []atomic.Uint64
	segShift uint
}

// crowdWords is how many words of bits there are for a segment.
const crowdWords = 4

func newCrowds(g *geometry) crowds {
	return crowds{make([]atomic.Uint64, crowdWords*g.segments), g.segShift}
}

func (c *crowds) place(h uint64) (word *atomic.Uint64, bit uint64) {
	return &c.words[h>>c.segShift*crowdWords+h>>38%crowdWords], h >> 32 % 64
}

func (c *crowds) has(h uint64) bool {
	w, bit := c.place(h)
	return w.Load()>>bit&1 != 0
}

func (c *crowds) set(h uint64) {
	w, bit := c.place(h)
	w.Or(1 << bit)
}

// locate returns the segment of a key, locked, and the slot and record that are there, or -1.
func (s *Store) locate(k *Key) (*segment, int, record) {
	h := s.mix(k.Hash)
	g := s.segment(h)
	if !s.crowds.has(h) {
		g.mu.Lock()
		slot, r := g.find(tagOf(h), k)
		if slot >= 0 || !s.crowds.has(h) {
			return g, slot, r
		}
		g.mu.Unlock()
	}
	// A key that is at neither place when that is looked at was absent in between: it never goes from one to the other.
	h2 := s.mixKey(k)
	g2 := s.segment(h2)
	g2.mu.Lock()
	if slot, r := g2.find(tagOf(h2), k); slot >= 0 {
		return g2, slot, r
	}
	g2.mu.Unlock()
	g.mu.Lock()
	slot, r := g.find(tagOf(h), k)
	return g, slot, r
}

// lock locks the segment where the key is, or is to be, which it returns first, and another one as well where both places
// of an absent key must not change.
func (d *draft) lock(s *Store) (in, also *segment) {
	h := s.mix(d.key.Hash)
	g := s.segment(h)
	if !s.crowds.has(h) {
		g.mu.Lock()
		if !s.crowds.has(h) {
			d.tag, d.twice = tagOf(h), false
			if d.slot, _ = g.find(d.tag, d.key); d.slot >= 0 || g.index.count(d.tag) < sameTag {
				return g, nil
			}
			s.crowds.set(h)
		}
		g.mu.Unlock()
	}
	h2 := s.mixKey(d.key)
	g2 := s.segment(h2)
	d.tag, d.twice = tagOf(h2), true
	g2.mu.Lock()
	if d.slot, _ = g2.find(d.tag, d.key); d.slot >= 0 {
		return g2, nil
	}
	if g2 == g {
		if slot, _ := g.find(tagOf(h), d.key); slot >= 0 {
			d.tag, d.twice, d.slot = tagOf(h), false, slot
		}
		return g, nil
	}
	// Two locks are taken in the order of the segments. Meanwhile the key may have come.
	g2.mu.Unlock()
	first, last := g, g2
	if g.number > g2.number {
		first, last = g2, g
	}
	first.mu.Lock()
	last.mu.Lock()
	if d.slot, _ = g2.find(d.tag, d.key); d.slot >= 0 {
		g.mu.Unlock()
		return g2, nil
	}
	if slot, _ := g.find(tagOf(h), d.key); slot >= 0 {
		g2.mu.Unlock()
		d.tag, d.twice, d.slot = tagOf(h), false, slot
		return g, nil
	}
	return g2, g
}

// unlock undoes draft.lock.
func unlock(in, also *segment) {
	in.mu.Unlock()
	if also != nil {
		also.mu.Unlock()
	}
}
