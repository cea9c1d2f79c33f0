package peercache

import (
	"slices"
	"sync"
	"sync/atomic"
)

const (
	maxStampers = 32 // whose writes are counted in one shard
	maxSpans    = 16 // runs of one stamper's writes that came out of turn
)

// A mark says that a holder of a shard has applied everything that one stamper
// numbered up to a number, or something later of the same keys. Who loaded a
// value is here the stamper of the fill.
type mark struct {
	stamper uint64 // an incarnation
	upTo    uint64
}

// vectors tell, for each shard, how much of each stamper's writes this node
// has applied. A stamper numbers its writes to a shard 1, 2, 3, so a holder
// that missed one sees a gap, and two holders see by comparing their marks
// which of them lacks something (version vectors; Parker et al., "Detection of
// Mutual Inconsistency in Distributed Systems", 1983). They tell nothing of
// fills: a fill that is lost is loaded again.
type vectors struct {
	self   uint64
	total  atomic.Uint64 // counts what may have changed in any shard
	shards [shardCount]vector
}

// A vector is that of one shard. The zero vector holds nothing.
type vector struct {
	changes atomic.Uint32 // counts what may have changed for those who compare

	mu       sync.Mutex
	last     uint64      // guarded by mu; the greatest number that this node gave, kept when the shard is dropped
	stampers []stampings // guarded by mu
}

// stampings are the writes of one stamper that were applied: all up to a
// number, and some beyond it.
type stampings struct {
	mark
	beyond []span // in order; never next to each other
}

type span struct{ first, last uint64 }

// number gives a write that this node has applied its number.
func (vs *vectors) number(shard int) uint64 {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last++
	v.ofLocked(vs.self).add(span{v.last, v.last})
	vs.changed(v)
	return v.last
}

// saw notes that another stamper's write was applied. The number 0 is none.
func (vs *vectors) saw(shard int, stamper, number uint64) {
	if number == 0 || stamper == vs.self {
		return
	}
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ofLocked(stamper).add(span{number, number})
	vs.changed(v)
}

// adopt notes that all that marks tell of was applied.
func (vs *vectors) adopt(shard int, marks []mark) {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range marks {
		if m.upTo > 0 {
			v.ofLocked(m.stamper).add(span{1, m.upTo})
		}
	}
	vs.changed(v)
}

// marks returns how far this node is.
func (vs *vectors) marks(shard int) []mark {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	marks := make([]mark, 0, len(v.stampers))
	for i := range v.stampers {
		if v.stampers[i].upTo > 0 {
			marks = append(marks, v.stampers[i].mark)
		}
	}
	return marks
}

// exceed reports whether this node has applied something that marks do not tell
// of, in turn or out of it.
func (vs *vectors) exceed(shard int, marks []mark) bool {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.stampers {
		last := s.upTo
		if n := len(s.beyond); n > 0 {
			last = s.beyond[n-1].last
		}
		if last > 0 && !covers(marks, []mark{{s.stamper, last}}) {
			return true
		}
	}
	return false
}

// drop forgets what was applied: the shard is empty.
func (vs *vectors) drop(shard int) {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stampers = nil
	vs.changed(v)
}

// touch makes the others compare a shard although no write came.
func (vs *vectors) touch(shard int) { vs.changed(&vs.shards[shard]) }

// changed makes the others compare a shard. The shard's count goes first: who
// sees the total sees it too.
func (vs *vectors) changed(v *vector) {
	v.changes.Add(1)
	vs.total.Add(1)
}

func (vs *vectors) changes(shard int) uint32 { return vs.shards[shard].changes.Load() }

// ofLocked returns the stampings of a stamper. When there are too many
// stampers it forgets the one that started first: the members are asked about
// its writes once more if need be.
func (v *vector) ofLocked(stamper uint64) *stampings {
	i := slices.IndexFunc(v.stampers, func(s stampings) bool { return s.stamper == stamper })
	if i >= 0 {
		return &v.stampers[i]
	}
	if len(v.stampers) == maxStampers {
		oldest := 0
		for i := range v.stampers {
			if v.stampers[i].stamper < v.stampers[oldest].stamper {
				oldest = i
			}
		}
		v.stampers[oldest] = stampings{mark: mark{stamper: stamper}}
		return &v.stampers[oldest]
	}
	v.stampers = append(v.stampers, stampings{mark: mark{stamper: stamper}})
	return &v.stampers[len(v.stampers)-1]
}

// add notes a run of writes. A run that does not fit is forgotten: the gap
// stays, is found, and what seems to be missing is compared.
func (s *stampings) add(n span) {
	if n.first > s.upTo+1 {
		s.insert(n)
		return
	}
	s.upTo = max(s.upTo, n.last)
	for len(s.beyond) > 0 && s.beyond[0].first <= s.upTo+1 {
		s.upTo = max(s.upTo, s.beyond[0].last)
		s.beyond = slices.Delete(s.beyond, 0, 1)
	}
}

func (s *stampings) insert(n span) {
	i := 0
	for i < len(s.beyond) && s.beyond[i].last+1 < n.first {
		i++
	}
	j := i // those that n touches are [i, j)
	for j < len(s.beyond) && s.beyond[j].first <= n.last+1 {
		n.first, n.last = min(n.first, s.beyond[j].first), max(n.last, s.beyond[j].last)
		j++
	}
	if i == j && len(s.beyond) == maxSpans {
		return
	}
	s.beyond = slices.Replace(s.beyond, i, j, n)
}

// covers reports whether who has mine has all that who has theirs has.
func covers(mine, theirs []mark) bool {
	for _, t := range theirs {
		i := slices.IndexFunc(mine, func(m mark) bool { return m.stamper == t.stamper })
		if i < 0 || mine[i].upTo < t.upTo {
			return false
		}
	}
	return true
}
