package lru

// TouchHash counts as a use of the entries whose Key.Hash is hash, for copies whose originals were read elsewhere: a
// hash is cheaper to send than a key, and two keys of one hash only make both look used. Of more than two keys of one hash
// it finds two. It returns whether there is one.
func (s *Store) TouchHash(hash uint64) (found bool) {
	h := s.mix(hash)
	tag := tagOf(h)
	g := s.segment(h)
	g.mu.Lock()
	defer g.mu.Unlock()
	x := &g.index
	if len(x.slots) == 0 {
		return false
	}
	for i := x.home(tag); x.slots[i] != 0; {
		if slot := x.slots[i]; uint32(slot>>32) == tag {
			if r := g.at(uint32(slot)); r.hash() == hash && !r.expired(s.now) {
				g.use(s, i, r)
				found = true
			}
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
	return found
}
