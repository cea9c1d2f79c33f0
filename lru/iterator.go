package lru

import (
	"cmp"
	"slices"
)

// Iterator goes through the entries of one shard. It holds no lock between calls, may be kept as long as one likes, and is
// for one goroutine at a time.
//
// An entry that is in the Store from before the first call of Next to after the last is shown at least once, as it is at
// that moment; one that came, went or was replaced meanwhile may be shown or not. Expired entries are left
// out. Hot entries come first, by Heat, as far as they are gathered at once: a shard of up to 65,536 entries is,
// greater ones are gone through in several rounds. Iteration costs what the shard holds (with a great many shards in
// a small Store a few shards together), and a visit to each segment that holds some of it.
type Iterator struct {
	s       *Store
	shard   uint16
	segment int // next to gather from
	found   []sighting
	next    int // in found
	same    int // entries of the same tag already shown, when found[next] had moved
	entry   Entry
	buf     []byte
}

// sighting is an entry seen while gathering.
type sighting struct {
	segment uint32
	tag     uint32
	ref     uint32
	heat    uint8
}

const gatherEntries = 1 << 16

// Iterate returns an Iterator over a shard's entries.
func (s *Store) Iterate(shard uint16) *Iterator {
	return &Iterator{s: s, shard: s.shard(shard)}
}

// Next goes on to the next entry and says whether there is one.
func (it *Iterator) Next() bool {
	for {
		for it.next < len(it.found) {
			shown, more := it.show(it.found[it.next])
			if !more {
				it.next++
				it.same = 0
			}
			if shown {
				return true
			}
		}
		if !it.gather() {
			it.entry = Entry{}
			return false
		}
	}
}

// Entry returns the current entry. Its slices are valid until the next call of Next.
func (it *Iterator) Entry() Entry { return it.entry }

// gather notes what the next segments hold of the shard.
func (it *Iterator) gather() bool {
	s := it.s
	it.found, it.next, it.same = it.found[:0], 0, 0
	for len(it.found) < gatherEntries {
		i := s.presence.next(it.shard, it.segment)
		if i == len(s.segments) {
			it.segment = i
			break
		}
		it.segment = i + 1
		g := &s.segments[i]
		g.walk(s, it.shard, func(r record, ref uint32) {
			it.found = append(it.found, sighting{uint32(i), g.tagOf(s, r), ref, g.meta(r, int(ref>>31)).Heat})
		})
	}
	slices.SortStableFunc(it.found, func(a, b sighting) int { return cmp.Compare(b.heat, a.heat) })
	return len(it.found) > 0
}

// show copies out the entry that was sighted, if it is still there, and says whether there may be more to show for the
// sighting.
func (it *Iterator) show(e sighting) (shown, more bool) {
	g, tag := &it.s.segments[e.segment], e.tag
	g.mu.Lock()
	defer g.mu.Unlock()
	if it.same == 0 {
		if i := g.index.find(tag, e.ref); i >= 0 {
			if r := g.at(e.ref); r.shard() == it.shard {
				return it.take(g, r, e.ref), false
			}
		}
	}
	// It has moved or gone: show all entries of its tag, which are few, one at a call.
	n := 0
	x := &g.index
	if len(x.slots) == 0 {
		return false, false
	}
	for i := x.home(tag); x.slots[i] != 0; {
		if slot := x.slots[i]; uint32(slot>>32) == tag {
			r := g.at(uint32(slot))
			if r.shard() == it.shard {
				if n++; n > it.same {
					it.same = n
					return it.take(g, r, uint32(slot)), true
				}
			}
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
	return false, false
}

func (it *Iterator) take(g *segment, r record, ref uint32) bool {
	if r.expired(it.s.now) {
		return false
	}
	it.entry = g.entry(r, int(ref>>31))
	if r.external() {
		return true // extents do not change
	}
	it.buf = append(append(it.buf[:0], it.entry.Bytes...), it.entry.Value...)
	n := len(it.entry.Bytes)
	it.entry.Bytes, it.entry.Value = it.buf[:n:n], it.buf[n:]
	return true
}

// RemoveIf removes the entries of a shard for which f returns true, and returns how many. f runs with a lock held: it
// must be quick, must not call the Store, and may see an entry more than once; the entry's slices are valid until it
// returns. Entries stored meanwhile may be seen or not. Expired entries are seen too.
func (s *Store) RemoveIf(shard uint16, f func(e Entry) bool) (removed int) {
	shard = s.shard(shard)
	for i := s.presence.next(shard, 0); i < len(s.segments); i = s.presence.next(shard, i+1) {
		g := &s.segments[i]
		g.walk(s, shard, func(r record, ref uint32) {
			if f != nil && !f(g.entry(r, int(ref>>31))) {
				return
			}
			s.used.Add(-g.remove(s, g.index.find(g.tagOf(s, r), ref), r))
			removed++
		})
	}
	return removed
}

// DropShard removes all entries of a shard and returns how many there were. Those stored meanwhile may stay.
func (s *Store) DropShard(shard uint16) int {
	return s.RemoveIf(shard, nil)
}

// Clear removes all entries of one space from a shard and returns how many there were. Those stored meanwhile may stay.
func (s *Store) Clear(shard uint16, space uint32) int {
	return s.RemoveIf(shard, func(e Entry) bool { return e.Space == space })
}

const (
	walkSteps  = 1024 // records gone by under one hold of the lock
	walkRounds = 4    // after which the lock is held to the end
)

// walk calls visit, with the lock held, for every live record of a shard. It lets go of the lock now and then. Records
// may move to the head of a ring meanwhile, so it comes back for what was appended since it began, until it has seen
// that without letting go; a record that stays in the segment is therefore seen at least once.
func (g *segment) walk(s *Store, shard uint16, visit func(r record, ref uint32)) {
	var seen [2]uint64 // positions below it were seen in an earlier round
	for round, done := 1, false; !done; round++ {
		done = g.walkOnce(s, shard, &seen, round >= walkRounds, visit)
	}
}

// walkOnce visits what lies at seen or above, and sets seen for the next round. It returns whether it held the lock
// all the time.
func (g *segment) walkOnce(s *Store, shard uint16, seen *[2]uint64, hold bool, visit func(r record, ref uint32)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	top := [2]uint64{g.rings[small].head, g.rings[main].head}
	held, steps, met := true, 0, *seen != [2]uint64{}
	for ring := main; ring >= small; ring-- {
		if g.heads[ring] == nil {
			continue
		}
		r := &g.rings[ring]
		low := g.heads[ring][uint32(shard)&g.shape.headMask]
		if low == noLink {
			continue
		}
		for pos, ok := r.full(low), true; ok && pos >= seen[ring]; {
			rec := r.at(g.shape, pos)
			before, in := r.before(pos, rec.link())
			if !rec.dead() && rec.shard() == shard {
				met = true
				visit(rec, uint32(pos)&posMask|uint32(ring)<<31)
			}
			if steps++; steps == walkSteps && !hold {
				steps, held = 0, false
				g.mu.Unlock()
				g.mu.Lock()
				in = in && before >= r.tail
			}
			pos, ok = before, in
		}
	}
	*seen = top
	if held && !met {
		s.presence.clear(shard, g.number)
	}
	return held
}
