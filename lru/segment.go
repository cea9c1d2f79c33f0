package lru

import (
	"sync"
	"sync/atomic"
)

// The two rings of a segment.
const (
	small = 0
	main  = 1
)

// segment is one independently locked part of a Store. Segments are chosen by hash, so that they fill evenly.
//
// A record is in one of the rings; it is live if the index points to it, dead otherwise, and a dead one says so. Every
// record, live or dead, is in the chain of its shard in its ring, which runs from the newest to the oldest. A chain needs
// no unlinking, since records leave a ring in the order in which they came: links past the tail are the end of the chain.
type segment struct {
	mu sync.Mutex // guards all below but the atomics

	number  int // in the Store
	shape   *shape
	index   index
	rings   [2]ring
	dead    [2]uint64   // units of dead records in each ring
	heads   [2][]uint32 // low 31 bits of the position of the newest record of each chain, or noLink
	ghosts  [2]ghost    // of entries evicted from each ring
	part    float64     // of the memory for the small ring
	young   uint32      // units behind the head of the small ring in which reads do not count
	extents extents
	spaces  spaceTable
	pressed bool // has evicted since it was empty, so a ghost is of use

	hits, misses uint64

	// What the segment holds; written under mu, read by anybody.
	inline   atomic.Int64 // bytes of the blocks of both rings
	external atomic.Int64 // bytes of extents

	_ [64]byte
}

// at returns the record that a ref names.
func (g *segment) at(ref uint32) record {
	return g.rings[ref>>31].at(g.shape, uint64(ref&posMask))
}

// find returns the slot and record of a key that the index has by a tag, or -1.
func (g *segment) find(tag uint32, k *Key) (int, record) {
	x := &g.index
	if len(x.slots) == 0 {
		return -1, nil
	}
	for i := x.home(tag); ; {
		slot := x.slots[i]
		if slot == 0 {
			return -1, nil
		}
		if uint32(slot>>32) == tag {
			r := g.at(uint32(slot))
			if r.space() == k.Space && k.is(g.key(r)) {
				return i, r
			}
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
}

// lookup is [Store.locate] for readers: an expired entry is none, and use counts a use.
func (s *Store) lookup(k *Key, use bool) (g *segment, i int, r record) {
	g, i, r = s.locate(k)
	if i >= 0 && r.kind()&kindExpiry != 0 && r.expired(s.now) {
		i = -1
	}
	if use {
		if i < 0 {
			g.misses++
		} else {
			g.hits++
			g.use(s, i, r)
		}
	}
	return g, i, r
}

// use counts a use of the record at a slot.
func (g *segment) use(s *Store, slot int, r record) {
	f := r.freq()
	if f == maxFreq {
		return
	}
	ref := uint32(g.index.slots[slot])
	if ref&mainBit == 0 && (uint32(g.rings[small].head)-ref)&posMask < g.young {
		return
	}
	r.setFreq(f + 1)
}

// ringOf returns the ring of the record at a slot.
func (g *segment) ringOf(slot int) int {
	return int(uint32(g.index.slots[slot]) >> 31)
}

func (g *segment) key(r record) []byte {
	if r.external() {
		return g.extents.key(r.extent())
	}
	k, _ := r.inline()
	return k
}

func (g *segment) value(r record) []byte {
	if r.external() {
		return g.extents.value(r.extent())
	}
	_, v := r.inline()
	return v
}

// meta returns the metadata of a record in the given ring.
func (g *segment) meta(r record, ring int) Meta {
	m := r.meta()
	if ring == main {
		m.Heat += maxFreq + 1
	}
	return m
}

// entry shows a record; its slices are the segment's.
func (g *segment) entry(r record, ring int) Entry {
	return Entry{
		Key:   Key{Hash: r.hash(), Space: r.space(), Shard: r.shard(), Bytes: g.key(r)},
		Meta:  g.meta(r, ring),
		Value: g.value(r),
	}
}

// tagOf returns the tag by which the index has a record.
func (g *segment) tagOf(s *Store, r record) uint32 {
	if r.second() {
		return tagOf(s.mixKey(&Key{Space: r.space(), Bytes: g.key(r)}))
	}
	return tagOf(s.mix(r.hash()))
}

// cost is what a record counts for in its space: itself, its extent and its share of the index.
func (g *segment) cost(r record) int64 {
	n := int64(r.units())*unit + slotBytes*5/4
	if r.external() {
		n += g.extents.cost(r.extent())
	}
	return n
}

// draft is an entry about to be stored.
type draft struct {
	key   *Key
	meta  *Meta
	value []byte
	klen  int
	heat  byte

	// What lock found.
	tag   uint32 // by which the index has it or is to have it
	twice bool   // that is its second one
	slot  int    // of the entry that is there, or -1

	// What plan found.
	to    int  // ring
	back  int  // ring whose ghost remembers the entry, or -1
	apart bool // the record is external
}

// size returns the options and the units of the record for d.
func (d *draft) size() (kind byte, units uint64) {
	kind, n := optionsOf(d.meta)
	if d.apart {
		kind |= kindExternal
		n += recHeader + extentRefBytes
	} else {
		n += recHeader + d.klen + len(d.value)
	}
	if d.twice {
		kind |= kindSecond
	}
	return kind, uint64(n+unit-1) / unit
}

// entryCost is about what an entry with n bytes of key and value counts for in its space, and not less.
func entryCost(n int) int64 {
	return recHeader + recExtra + extentRefBytes + unit + slotBytes*5/4 + heapBytes(n)
}

// plan decides where d is to go and returns the bytes that have to be charged before it is stored, whatever its options
// turn out to be.
func (g *segment) plan(s *Store, d *draft) (need int64) {
	most := recHeader + recExtra + d.klen + len(d.value)
	if d.apart = most > g.shape.inlineMax; d.apart {
		most = recHeader + recExtra + extentRefBytes
		need += heapBytes(d.klen+len(d.value)) + g.extents.room()
	}
	d.to, d.back = small, -1
	if d.slot >= 0 {
		d.to = g.ringOf(d.slot)
	} else {
		for i := range g.ghosts {
			if g.ghosts[i].has(d.tag) {
				d.to, d.back = main, i
				break
			}
		}
		if d.heat > maxFreq {
			d.to = main
		}
		if g.index.full() {
			need += heapBytes(g.index.grown() * slotBytes)
		}
	}
	if g.heads[0] == nil {
		need += g.shape.headBytes()
	}
	if !g.rings[d.to].fits(g.shape, uint64(most+unit-1)/unit) {
		need += g.shape.blockCost
	}
	for i := range g.ghosts {
		if want := g.wantGhost(s, i); want > 0 {
			need += heapBytes(ghostLen(want) * ghostTagBytes)
		}
	}
	return need
}

// wantGhost is how many tags a larger ghost of a ring should hold; 0: the one there is will do.
func (g *segment) wantGhost(s *Store, ring int) int {
	if !g.pressed {
		return 0
	}
	want := g.index.n * s.policy.ghost[ring] / 100
	if len(g.ghosts[ring].tags) >= want-want/4 {
		return 0
	}
	return want
}

// prepare makes the tables ready for one more record, from the given funds, which suffice.
func (g *segment) prepare(s *Store, exists bool, funds *int64) {
	if g.heads[0] == nil {
		*funds -= g.shape.headBytes()
		g.heads = newHeads(g.shape)
	}
	if !exists && g.index.full() {
		old, next := len(g.index.slots), g.index.grown()
		*funds -= heapBytes(next * slotBytes)
		g.index.resize(next)
		if old > 0 {
			*funds += heapBytes(old * slotBytes)
		}
	}
	for i := range g.ghosts {
		if want := g.wantGhost(s, i); want > 0 {
			x := &g.ghosts[i]
			if n := heapBytes(ghostLen(want) * ghostTagBytes); n <= *funds {
				old := len(x.tags)
				*funds -= n
				x.resize(want)
				if old > 0 {
					*funds += heapBytes(old * ghostTagBytes)
				}
			}
		}
	}
}

func newHeads(sh *shape) (heads [2][]uint32) {
	for r := range heads {
		heads[r] = make([]uint32, sh.headMask+1)
		for i := range heads[r] {
			heads[r][i] = noLink
		}
	}
	return heads
}

// push appends an empty record to a ring and to the chain of its shard.
func (g *segment) push(s *Store, to int, units uint64, shard uint16, funds *int64) (record, uint32) {
	r := &g.rings[to]
	if !r.fits(g.shape, units) {
		*funds -= g.shape.blockCost
		r.open(g.shape, s.pool.get(g.shape))
		g.age(s)
		g.inline.Add(g.shape.blockCost)
		s.inline.Add(g.shape.blockCost)
	}
	rec, pos := r.push(g.shape, units)
	head := &g.heads[to][uint32(shard)&g.shape.headMask]
	low := uint32(pos) & posMask
	rec.setLink(*head)
	*head = low
	s.presence.set(shard, g.number)
	return rec, low | uint32(to)<<31
}

// store puts d where plan found that it belongs. For an external record data holds key and value.
func (g *segment) store(s *Store, d *draft, data []byte, funds *int64) {
	kind, units := d.size()
	k := d.key
	exists := d.slot >= 0
	var old record
	if exists {
		old = g.at(uint32(g.index.slots[d.slot]))
	}
	if exists && !d.apart && !old.external() && old.shard() == k.Shard &&
		units <= old.units() && old.units()-units <= old.units()/8 {
		old.write(k, d.meta, kind|old.freq(), old.units(), d.value, 0)
		return
	}
	g.prepare(s, exists, funds)
	counts := g.spaces.of(s, k.Space)
	freq := d.heat & maxFreq
	if exists {
		freq = max(freq, old.freq())
		counts.add(-1, -g.cost(old))
		*funds += g.bury(s, old, d.to)
	}
	var extent uint32
	if d.apart {
		*funds -= g.extents.room()
		extent = g.extents.add(data, d.klen)
		*funds -= g.charge(s, extent, d.to)
	}
	rec, ref := g.push(s, d.to, units, k.Shard, funds)
	rec.write(k, d.meta, kind|freq, units, d.value, extent)
	if exists {
		g.index.set(d.slot, ref)
	} else {
		g.index.add(d.tag, ref)
		if d.back >= 0 {
			g.ghosts[d.back].remove(d.tag)
			g.adapt(s, d.back)
		}
	}
	counts.add(1, g.cost(rec))
}

// charge counts an extent as held by a ring, and returns what it costs.
func (g *segment) charge(s *Store, extent uint32, ring int) int64 {
	cost := g.extents.cost(extent)
	s.external[ring].Add(cost)
	g.external.Add(cost)
	return cost
}

// bury marks a record dead and lets go of its extent. It returns the bytes this frees.
func (g *segment) bury(s *Store, r record, ring int) (freed int64) {
	if r.external() {
		freed = g.extents.remove(r.extent())
		s.external[ring].Add(-freed)
		g.external.Add(-freed)
	}
	r[recKind] |= kindDead
	g.dead[ring] += r.units()
	return freed
}

// remove takes the record at slot out. It returns the bytes this frees.
func (g *segment) remove(s *Store, slot int, r record) int64 {
	ring := g.ringOf(slot)
	g.spaces.of(s, r.space()).add(-1, -g.cost(r))
	g.index.remove(slot)
	return g.bury(s, r, ring)
}
