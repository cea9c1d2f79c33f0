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

// A mark says which writes of one stamper a holder of a shard has applied, or
// something later of the same keys: all up to a number, and some beyond it. Who
// loaded a value is here the stamper of the fill.
//
// What is beyond counts: a number may be missing for ever, because its stamper
// died before it reached anybody.
type mark struct {
	stamper uint64 // an incarnation
	upTo    uint64
	beyond  []span // in order; never next to each other, nor to upTo
}

type span struct{ first, last uint64 }

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
	last     uint64 // guarded by mu; the greatest number that this node gave, kept when the shard is dropped
	stampers []mark // guarded by mu
}

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
	v.saw(stamper, number)
	vs.changed(v)
}

func (v *vector) saw(stamper, number uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ofLocked(stamper).add(span{number, number})
}

// adopt notes that all that marks tell of was applied.
func (vs *vectors) adopt(shard int, marks []mark) {
	v := &vs.shards[shard]
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, m := range marks {
		mine := v.ofLocked(m.stamper)
		if m.upTo > 0 {
			mine.add(span{1, m.upTo})
		}
		for _, n := range m.beyond {
			mine.add(n)
		}
	}
	vs.changed(v)
}

// marks returns how far this node is.
func (vs *vectors) marks(shard int) []mark { return vs.shards[shard].marks() }

func (v *vector) marks() []mark {
	v.mu.Lock()
	defer v.mu.Unlock()
	marks := slices.Clone(v.stampers)
	for i := range marks {
		marks[i].beyond = slices.Clone(marks[i].beyond)
	}
	return marks
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

// ofLocked returns the mark of a stamper. When there are too many
// stampers it forgets the one that started first: the members are asked about
// its writes once more if need be.
func (v *vector) ofLocked(stamper uint64) *mark {
	i := slices.IndexFunc(v.stampers, func(m mark) bool { return m.stamper == stamper })
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
		v.stampers[oldest] = mark{stamper: stamper}
		return &v.stampers[oldest]
	}
	v.stampers = append(v.stampers, mark{stamper: stamper})
	return &v.stampers[len(v.stampers)-1]
}

// add notes a run of writes. A run that does not fit is forgotten: the gap
// stays, is found, and what seems to be missing is compared.
func (m *mark) add(n span) {
	if n.first > m.upTo+1 {
		m.insert(n)
		return
	}
	m.upTo = max(m.upTo, n.last)
	for len(m.beyond) > 0 && m.beyond[0].first <= m.upTo+1 {
		m.upTo = max(m.upTo, m.beyond[0].last)
		m.beyond = slices.Delete(m.beyond, 0, 1)
	}
}

func (m *mark) insert(n span) {
	i := 0
	for i < len(m.beyond) && m.beyond[i].last+1 < n.first {
		i++
	}
	j := i // those that n touches are [i, j)
	for j < len(m.beyond) && m.beyond[j].first <= n.last+1 {
		n.first, n.last = min(n.first, m.beyond[j].first), max(n.last, m.beyond[j].last)
		j++
	}
	if i == j && len(m.beyond) == maxSpans {
		return
	}
	m.beyond = slices.Replace(m.beyond, i, j, n)
}

// has reports whether a run of writes was applied.
func (m *mark) has(n span) bool {
	return n.last <= m.upTo || slices.ContainsFunc(m.beyond, func(b span) bool { return b.first <= n.first && n.last <= b.last })
}

// covers reports whether who has mine has all that who has theirs has.
func covers(mine, theirs []mark) bool {
	return !slices.ContainsFunc(theirs, func(t mark) bool {
		i := slices.IndexFunc(mine, func(m mark) bool { return m.stamper == t.stamper })
		if i < 0 {
			return t.upTo > 0 || len(t.beyond) > 0
		}
		return t.upTo > mine[i].upTo || slices.ContainsFunc(t.beyond, func(n span) bool { return !mine[i].has(n) })
	})
}
