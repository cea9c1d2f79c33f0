package lru

import "sync/atomic"

// spaceCounts are the counts of one space in one segment. They are guarded by the segment's lock.
type spaceCounts struct {
	id          uint32
	entries     int64
	bytes       int64
	evictions   uint64
	expirations uint64
	limit       *spaceLimit // nil: none
	hand        [2]uint64   // positions in the rings where the search for victims goes on
}

func (c *spaceCounts) add(entries, bytes int64) {
	c.entries += entries
	c.bytes += bytes
	if c.limit != nil {
		c.limit.bytes.Add(bytes)
	}
}

// spaceLimit is the limit of one space in the whole store.
type spaceLimit struct {
	max   atomic.Int64
	bytes atomic.Int64 // held by the space, in all segments
}

// spaceTable holds the counts of all spaces seen in a segment.
type spaceTable struct {
	list   []spaceCounts
	places map[uint32]int
	last   int
}

// lookup returns the counts of a space, nil if it was never seen.
func (t *spaceTable) lookup(id uint32) *spaceCounts {
	if t.last < len(t.list) && t.list[t.last].id == id {
		return &t.list[t.last]
	}
	i, ok := t.places[id]
	if !ok {
		return nil
	}
	t.last = i
	return &t.list[i]
}

// of returns the counts of a space, which it adds if need be. They are valid until the next call.
func (t *spaceTable) of(s *Store, id uint32) *spaceCounts {
	if c := t.lookup(id); c != nil {
		return c
	}
	if t.places == nil {
		t.places = make(map[uint32]int)
	}
	t.last = len(t.list)
	t.places[id] = t.last
	t.list = append(t.list, spaceCounts{id: id, limit: s.limitOf(id)})
	return &t.list[t.last]
}

// SpaceStats describe one space. All but MaxBytes are sums over the segments, taken one after the other.
type SpaceStats struct {
	Entries     int64
	Bytes       int64 // records with their share of the index, expired ones that still are in place included
	MaxBytes    int64 // limit of the space; 0: none
	Evictions   uint64
	Expirations uint64
}

// SpaceStats returns the counts of a space.
func (s *Store) SpaceStats(space uint32) SpaceStats {
	var st SpaceStats
	for i := range s.segments {
		g := &s.segments[i]
		g.mu.Lock()
		if c := g.spaces.lookup(space); c != nil {
			st.Entries += c.entries
			st.Bytes += c.bytes
			st.Evictions += c.evictions
			st.Expirations += c.expirations
		}
		g.mu.Unlock()
	}
	if l := s.limitOf(space); l != nil {
		st.MaxBytes = l.max.Load()
	}
	return st
}

// SetSpaceLimit bounds the bytes of one space within the bound of the whole store; 0 takes the limit away. A space
// above its limit is brought below it before SetSpaceLimit returns. From then on a Put into it first evicts others of
// the same space, those that were not read first. It finds them by walking over the records of all spaces in a segment, so
// that a Put into a space at its limit costs as many steps as there are records for each one of that space: cheap
// for a space that holds a good part of the store, some microseconds for one that holds a hundredth. Puts under way at
// the same time may exceed the limit by their entries until they return.
func (s *Store) SetSpaceLimit(space uint32, maxBytes int64) {
	s.limitMu.Lock()
	defer s.limitMu.Unlock()
	l := s.limitOf(space)
	if l == nil {
		if maxBytes <= 0 {
			return
		}
		l = &spaceLimit{}
		limits := make(map[uint32]*spaceLimit)
		if old := s.limits.Load(); old != nil {
			for id, v := range *old {
				limits[id] = v
			}
		}
		limits[space] = l
		l.max.Store(maxBytes)
		s.limits.Store(&limits)
		for i := range s.segments {
			g := &s.segments[i]
			g.mu.Lock()
			if c := g.spaces.lookup(space); c != nil && c.limit == nil {
				c.limit = l
				l.bytes.Add(c.bytes)
			}
			g.mu.Unlock()
		}
	}
	l.max.Store(max(maxBytes, 0))
	s.trimSpace(space, l, nil, 0)
}

// limitOf returns the limit of a space, nil if it never had one.
func (s *Store) limitOf(space uint32) *spaceLimit {
	m := s.limits.Load()
	if m == nil {
		return nil
	}
	return (*m)[space]
}

// makeRoom evicts from a space so that n more bytes fit in its limit. The entry is for the given segment.
func (s *Store) makeRoom(space uint32, l *spaceLimit, g *segment, n int64) error {
	if most := l.max.Load(); most > 0 && n > most {
		return ErrTooLarge
	}
	s.trimSpace(space, l, g, n)
	return nil
}

// trimSpace evicts from a space until n more bytes fit in its limit, first in the given segment if it has its share of
// the space.
func (s *Store) trimSpace(space uint32, l *spaceLimit, g *segment, n int64) {
	for idle := 0; idle < 2; {
		most := l.max.Load()
		over := l.bytes.Load() + n - most
		if most <= 0 || over <= 0 {
			return
		}
		victim := s.richest(space, g, l.bytes.Load()/int64(len(s.segments)))
		if victim == nil {
			idle++
			continue
		}
		if !victim.yieldSpace(s, space, over) {
			idle++
		}
	}
}

// yieldSpace takes the lock and evicts from a space. It returns whether it got anywhere.
func (g *segment) yieldSpace(s *Store, space uint32, want int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	freed, progress := g.evictSpace(s, space, want)
	s.used.Add(-freed)
	return progress
}

// richest returns the segment that holds the most bytes of a space, or g if that holds at least fair.
func (s *Store) richest(space uint32, g *segment, fair int64) *segment {
	if g != nil {
		g.mu.Lock()
		c := g.spaces.lookup(space)
		enough := c != nil && c.entries > 0 && c.bytes >= fair
		g.mu.Unlock()
		if enough {
			return g
		}
	}
	var best *segment
	var most int64
	for i := range s.segments {
		g := &s.segments[i]
		g.mu.Lock()
		if c := g.spaces.lookup(space); c != nil && c.bytes > most {
			best, most = g, c.bytes
		}
		g.mu.Unlock()
	}
	return best
}

// evictSpace evicts entries of one space until want bytes of it are gone or a good many records were looked at. It
// returns the bytes given back to the store, which are those of extents only, and whether it got anywhere.
func (g *segment) evictSpace(s *Store, space uint32, want int64) (freed int64, progress bool) {
	c := g.spaces.lookup(space)
	if c == nil || c.entries == 0 {
		return 0, false
	}
	goal := c.bytes - want
	for step := 0; step < spaceSteps && c.entries > 0 && c.bytes > goal; {
		// The small ring is gone through as long as it has more than its part of the store, as in an ordinary eviction.
		from := g.choose(s)
		if from < 0 {
			break
		}
		moved := false
		for range 2 {
			r := &g.rings[from]
			pos := max(c.hand[from], r.tail)
			for ; step < spaceSteps && c.entries > 0 && c.bytes > goal; step++ {
				if r.empty() || pos >= r.head {
					break
				}
				rec := r.at(g.shape, pos)
				if !rec.dead() && rec.space() == space {
					moved = true
					if f := rec.freq(); f > 0 && !rec.expired(s.now) {
						rec.setFreq(f - 1)
					} else {
						freed += g.drop(s, rec, uint32(pos)&posMask|uint32(from)<<31)
						c = g.spaces.lookup(space)
					}
				}
				pos = r.next(g.shape, pos)
			}
			if r.empty() || pos >= r.head {
				pos = 0 // begin again at the tail
			}
			c.hand[from] = pos
			if moved {
				break
			}
			from = 1 - from
		}
	}
	return freed, true
}

// spaceSteps bounds the records looked at under one hold of the lock.
const spaceSteps = 4096
