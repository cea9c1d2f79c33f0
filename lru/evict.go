package lru

// Eviction follows S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023).
// New entries enter a small ring; those that were read while they crossed it go on to the main ring, the others leave
// and are remembered by a ghost, which sends them to the main ring at once if they come back. In the main ring entries
// that were read go round again.
//
// Two things differ from the paper. Reads that follow the arrival closely, while the entry is in the younger half of the
// small ring, are taken for one use and do not count (as in 2Q; Johnson, Shasha, VLDB 1994); one later read is then
// enough for the main ring. And the small ring's part of the memory adapts (as in ARC; Megiddo, Modha, FAST 2003): it
// grows when an entry comes back that had left the small ring, and shrinks when one comes back that had left the main
// ring.

// policy holds the parameters of eviction.
type policy struct {
	part, least, most float64    // of the memory for the small ring: at first, and its bounds
	step              [2]float64 // by which part changes for a return to each ring's ghost, in entries
	ghost             [2]int     // tags remembered of each ring, for each 100 entries
	young             float64    // part of the small ring in which reads do not count
}

func defaultPolicy() policy {
	return policy{
		part: 0.10, least: 0.03, most: 0.70,
		step:  [2]float64{small: 2, main: -4},
		ghost: [2]int{small: 100, main: 40},
		young: 0.5,
	}
}

// adapt notes that an entry came back that had left the given ring.
func (g *segment) adapt(s *Store, from int) {
	p := &s.policy
	by := max(min(p.step[from]/float64(max(g.index.n, 1)), 0.05), -0.05)
	g.part = min(max(g.part+by, p.least), p.most)
}

// age sets how far behind the head of the small ring reads begin to count.
func (g *segment) age(s *Store) {
	blocks := float64(g.rings[small].count + g.rings[main].count)
	g.young = uint32(s.policy.young * g.part * blocks * float64(g.shape.blockMask+1))
}

// choose returns the ring to evict from, -1 if both are empty. What extents hold is averaged over the segments, lest one
// large value turn a whole segment inside out.
func (g *segment) choose(s *Store) int {
	se, me := g.rings[small].empty(), g.rings[main].empty()
	switch {
	case se && me:
		return -1
	case se:
		return main
	case me:
		return small
	}
	n := int64(len(s.segments))
	sb := int64(g.rings[small].count)*g.shape.blockCost + s.external[small].Load()/n
	mb := int64(g.rings[main].count)*g.shape.blockCost + s.external[main].Load()/n
	if float64(sb) > g.part*float64(sb+mb) {
		return small
	}
	return main
}

// reclaim evicts until at least want bytes are given back, the segment is empty, or a good many records were looked at.
// It returns the bytes given back, which may be negative for a moment, and whether it got anywhere.
func (g *segment) reclaim(s *Store, want int64) (freed int64, progress bool) {
	for step := 0; freed < want && step < reclaimSteps; step++ {
		from, compact := g.littered()
		if !compact {
			from = g.choose(s)
		}
		if from < 0 {
			n := g.release(s)
			return freed + n, progress || n > 0
		}
		freed += g.step(s, from, compact)
		progress = true
	}
	return freed + g.shrink(), progress
}

// reclaimSteps bounds the records looked at under one hold of the lock.
const reclaimSteps = 4096

// littered returns the ring with more dead records, and whether the dead take so much of the segment that the
// living should be moved together before any of them is evicted.
func (g *segment) littered() (ring int, yes bool) {
	if g.dead[main] > g.dead[small] {
		ring = main
	}
	return ring, (g.dead[small]+g.dead[main])*unit*100 > uint64(g.inline.Load())*litter
}

// litter is the part of a segment, percent, that dead records may take. At that part a byte is regained for four
// that are moved.
const litter = 20

// step deals with the record at the tail of a ring; to compact is to keep it if it lives. It returns the bytes given
// back.
func (g *segment) step(s *Store, from int, compact bool) (freed int64) {
	r := &g.rings[from]
	rec := r.at(g.shape, r.tail)
	units := rec.units()
	low := uint32(r.tail) & posMask
	if head := &g.heads[from][uint32(rec.shard())&g.shape.headMask]; *head == low {
		*head = noLink // nothing may name a position that the tail has passed for long
	}
	if !rec.dead() {
		ref := low | uint32(from)<<31
		f := rec.freq()
		switch {
		case rec.expired(s.now):
			freed += g.drop(s, rec, ref)
		case compact:
			freed += g.move(s, rec, ref, from, f)
		case from == small && f > 0:
			freed += g.move(s, rec, ref, main, 0)
		case from == main && f > 0:
			freed += g.move(s, rec, ref, main, f-1)
		default:
			freed += g.drop(s, rec, ref)
		}
	}
	g.dead[from] -= units
	if block := r.pop(g.shape, units); block != nil {
		g.age(s)
		g.inline.Add(-g.shape.blockCost)
		s.inline.Add(-g.shape.blockCost)
		s.pool.put(block)
		freed += g.shape.blockCost
	}
	return freed
}

// move appends a copy of a record to the given ring; the old one is about to leave. It returns the bytes given back,
// negative if it took a block.
func (g *segment) move(s *Store, rec record, ref uint32, to int, freq byte) (freed int64) {
	tag := g.tagOf(s, rec)
	slot := g.index.find(tag, ref)
	units := rec.units()
	next, nref := g.push(s, to, units, rec.shard(), &freed)
	copy(next[recLink+4:units*unit], rec[recLink+4:])
	next.setFreq(freq)
	g.index.set(slot, nref)
	from := int(ref >> 31)
	if from != to && rec.external() {
		cost := g.extents.cost(rec.extent())
		s.external[from].Add(-cost)
		s.external[to].Add(cost)
	}
	rec[recKind] |= kindDead
	g.dead[from] += units
	return freed
}

// drop evicts a record, or expires it if its time has come. It returns the bytes given back.
func (g *segment) drop(s *Store, rec record, ref uint32) (freed int64) {
	from := int(ref >> 31)
	tag := g.tagOf(s, rec)
	why := Evicted
	if rec.expired(s.now) {
		why = Expired
	}
	counts := g.spaces.of(s, rec.space())
	if why == Expired {
		counts.expirations++
	} else {
		counts.evictions++
		g.pressed = true
		g.ghosts[from].add(tag)
	}
	if s.onEvict != nil {
		s.onEvict(g.entry(rec, from), why)
	}
	return g.remove(s, g.index.find(tag, ref), rec)
}

// shrink gives back tables that have become much too large.
func (g *segment) shrink() (freed int64) {
	if n := len(g.index.slots); n > minSlots && g.index.n < n/4 {
		next := minSlots
		for next/2 < g.index.n {
			next *= 2
		}
		g.index.resize(next)
		freed += heapBytes(n*slotBytes) - heapBytes(next*slotBytes)
	}
	for i := range g.ghosts {
		x := &g.ghosts[i]
		if n := len(x.tags); n > 4*max(g.index.n, ghostWays) {
			x.resize(g.index.n)
			freed += heapBytes(n*ghostTagBytes) - heapBytes(len(x.tags)*ghostTagBytes)
		}
	}
	return freed
}

// release gives back the tables of an empty segment.
func (g *segment) release(s *Store) (freed int64) {
	if g.heads[0] != nil {
		freed += g.shape.headBytes()
	}
	if n := len(g.index.slots); n > 0 {
		freed += heapBytes(n * slotBytes)
	}
	for i := range g.ghosts {
		if n := len(g.ghosts[i].tags); n > 0 {
			freed += heapBytes(n * ghostTagBytes)
		}
		g.ghosts[i] = ghost{}
	}
	freed += g.extents.places()
	g.heads = [2][]uint32{}
	g.index = index{}
	g.extents = extents{}
	for i := range g.rings {
		g.rings[i].blocks = nil
	}
	g.pressed = false
	return freed
}

// acquire charges n bytes, for which it evicts: from g if that has its share of all blocks, else from the fullest
// segment; for larger sums from all in turn. No lock is held.
func (s *Store) acquire(g *segment, n int64) error {
	for idle := 0; idle < 2*len(s.segments)+2; {
		used := s.used.Load()
		limit := s.limit.Load()
		sh := s.shape.Load()
		if used+n <= limit {
			if s.used.CompareAndSwap(used, used+n) {
				return nil
			}
			continue
		}
		victim := g
		want := used + n - limit
		switch fair := s.inline.Load() / int64(len(s.segments)); {
		case idle > 0 || n > 2*sh.blockCost:
			victim = s.inTurn()
			want = min(want, max(n/int64(len(s.segments)), sh.blockCost))
		case g.inline.Load() < fair:
			victim = s.fullest()
		}
		progress := victim.yield(s, want)
		if progress {
			idle = 0
		} else {
			idle++
		}
	}
	return ErrTooLarge
}

// yield takes the lock and reclaims. It returns whether it got anywhere.
func (g *segment) yield(s *Store, want int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	freed, progress := g.reclaim(s, want)
	s.used.Add(-freed)
	return progress
}

// inTurn returns one segment after the other, and of two neighbours the one that holds more.
func (s *Store) inTurn() *segment {
	i, n := s.turn.Add(1), uint64(len(s.segments))
	a, b := &s.segments[i%n], &s.segments[(i+1)%n]
	if b.inline.Load()+b.external.Load() > a.inline.Load()+a.external.Load() {
		return b
	}
	return a
}

// fullest returns the segment with the most in blocks.
func (s *Store) fullest() *segment {
	best, most := &s.segments[0], int64(-1)
	for i := range s.segments {
		if b := s.segments[i].inline.Load(); b > most {
			best, most = &s.segments[i], b
		}
	}
	return best
}
