package lru

// SetMaxBytes changes the bound, as Options.MaxBytes says. If it became smaller, entries have been evicted by the time
// SetMaxBytes returns. Where the bound changes by much, the segments are laid out anew, one after the other: each is
// locked for the time it takes to copy its records. The number of segments stays as it was made, so that a Store
// that is to grow a hundredfold had better be made with more (Options.Segments); one segment holds up to 6 GiB.
func (s *Store) SetMaxBytes(n int64) {
	s.boundMu.Lock()
	defer s.boundMu.Unlock()
	n = s.bound(n)
	sh, old := newShape(&s.geometry, n), s.shape.Load()
	if b := old.blockBytes; sh.blockBytes < 4*b && b < 4*sh.blockBytes {
		s.setBound(n, old)
		s.settle()
		return
	}
	// A smaller bound holds from now on; a greater one only helps when the new blocks have room.
	s.setBound(n, sh)
	s.pool.reset(sh)
	share := s.limit.Load() / int64(len(s.segments))
	for i := range s.segments {
		g := &s.segments[i]
		for {
			over := g.inline.Load() + g.external.Load() - share
			if over <= 0 || !g.yield(s, over) {
				break
			}
		}
		g.mu.Lock()
		s.used.Add(-g.reshape(s, sh))
		g.mu.Unlock()
	}
	s.settle()
}

// settle evicts until the bound holds.
func (s *Store) settle() {
	_ = s.acquire(s.fullest(), 0)
}

// reshape lays a segment out anew. It returns the bytes this frees, which may be less than none.
func (g *segment) reshape(s *Store, sh *shape) (freed int64) {
	if g.index.n == 0 {
		for i := range g.rings {
			for !g.rings[i].empty() {
				freed += g.step(s, i, false) // there are dead records only
			}
		}
		freed += g.release(s)
		g.shape = sh
		g.startRings(g.rings)
		return freed
	}
	old, rings := g.shape, g.rings
	freed += old.headBytes() - sh.headBytes()
	g.shape = sh
	g.startRings(rings)
	g.heads = newHeads(sh)
	g.dead = [2]uint64{}
	// The new index takes the place of the old one, since refs into the old rings and into the new may be alike.
	slots := g.index.slots
	g.index = index{slots: make([]uint64, len(slots))}
	for i := range rings {
		for r := &rings[i]; !r.empty(); {
			rec := r.at(old, r.tail)
			units := rec.units()
			if !rec.dead() {
				freed += g.adopt(s, rec, i)
			}
			if r.pop(old, units) != nil {
				g.inline.Add(-old.blockCost)
				s.inline.Add(-old.blockCost)
				freed += old.blockCost
			}
		}
	}
	return freed
}

// startRings begins empty rings beyond the positions of the old ones, so that no old position is taken for a new one.
func (g *segment) startRings(old [2]ring) {
	for i := range g.rings {
		n := (old[i].head + g.shape.blockMask) &^ g.shape.blockMask
		g.rings[i] = ring{head: n, tail: n}
	}
}

// adopt appends a copy of a record of the old layout to a ring. It returns the bytes this frees.
func (g *segment) adopt(s *Store, rec record, to int) (freed int64) {
	tag := g.tagOf(s, rec)
	units := rec.units()
	if int(units)*unit <= g.shape.inlineMax || rec.external() {
		next, ref := g.push(s, to, units, rec.shard(), &freed)
		copy(next[recLink+4:units*unit], rec[recLink+4:])
		g.index.add(tag, ref)
		return freed
	}
	key, value := rec.inline()
	data := append(append(make([]byte, 0, len(key)+len(value)), key...), value...)
	body := rec.body()
	counts := g.spaces.of(s, rec.space())
	before := g.cost(rec)
	freed -= g.extents.room()
	extent := g.extents.add(data, len(key))
	freed -= g.charge(s, extent, to)
	units = uint64(body+extentRefBytes+unit-1) / unit
	next, ref := g.push(s, to, units, rec.shard(), &freed)
	copy(next[recLink+4:body], rec[recLink+4:])
	next[recKind] |= kindExternal
	le.PutUint16(next[recSize:], uint16(units))
	le.PutUint32(next[recKeyLen:], 0)
	le.PutUint32(next[body:], extent)
	g.index.add(tag, ref)
	counts.add(0, g.cost(next)-before)
	return freed
}
