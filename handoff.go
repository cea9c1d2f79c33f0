package peercache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/lru"
)

const (
	syncTimeout   = 10 * time.Second      // of one request
	syncRetry     = 20 * time.Millisecond // doubles up to lastSyncRetry
	lastSyncRetry = 500 * time.Millisecond
	syncAtOnce    = 4                      // sources that are asked at the same time
	reuniteTime   = 3 * time.Second        // how long after a pause the others are waited for: those who died meanwhile are in no table then
	reuniteRest   = 500 * time.Millisecond // how much longer the rest of them, when one was found
	awayTime      = 10 * time.Second       // how long after it a shard is filled from all, holders or not
	dropGrace     = 30 * time.Second       // how long a shard that is owned no more is kept
	maxKept       = 1 << 10                // entries of such a shard that stay if it is owned again
)

// What a node holds of a shard.
const (
	shardForeign  uint32 = iota // nothing: it is not an owner
	shardFilled                 // all that it should
	shardUnfilled               // what came since it became an owner, and what it has copied so far
	shardStale                  // perhaps not all that was written: it was paused, or missed a write
)

// handoff fills the shards that this node has come to own from those who had
// them, mends those of which it missed something, and drops those that it owns
// no more.
type handoff struct {
	n     *Node
	state [shardCount]atomic.Uint32
	fills round  // of the shards that have to be heard of from all
	mends round  // of those of which something was missed
	met   signal // fired when the others were asked for after a pause
	pace  pace   // of what others copy from here

	maxBody        func() int   // the largest body of a request or reply
	alone          atomic.Bool  // after a pause, until then: the others may see other owners than this node
	resumed        atomic.Int64 // when the last pause ended, on the node's clock
	merges         atomic.Int64
	received, sent atomic.Int64 // bytes
	sending        atomic.Int64 // pages that are being sent

	mu      sync.Mutex
	from    map[int]*filling   // guarded by mu; the shards being filled or mended
	lost    map[int]*lostShard // guarded by mu; shards that are not held, of which there is something all the same
	serial  uint64             // guarded by mu; of the view that was followed last
	pauses  uint64             // guarded by mu
	faults  map[badShard]fault // guarded by mu; shards that sources cannot give, not long ago
	omitted map[uint64]bool    // guarded by mu; fingerprints of entries that were too large to be sent
	since   ShardsFilled       // guarded by mu; what was filled since nothing was missing; Bytes is what had been received by then
}

// A filling is one attempt to fill a shard, from when the node came to own it,
// or to mend it.
type filling struct {
	fresh  bool     // the node had nothing of the shard
	all    bool     // all holders have to be heard, and not only those in former
	absent bool     // it was only away: who has applied no more than this node has nothing for it
	away   bool     // it was away: whoever is a member may have held it meanwhile
	former []Member // who else may have it: its owners before, another side's, or who has what was missed
}

// A lostShard is one that this node does not hold, and what is left there all
// the same.
type lostShard struct {
	since time.Duration
	owned bool                // it was held until then
	owed  bool                // to those who hold it now: a side of a split had it, and nobody has copied it yet
	kept  map[uint64]struct{} // names of what came since from a member that sees another table, or takes this node for a stand-in
	came  vector              // which writes those were
}

// outdated reports whether what was held before may have been replaced without
// this node being told.
func (l *lostShard) outdated(now time.Duration) bool {
	return l.owned && !l.owed && now-l.since > formerGrace/2
}

// outdated reports whether what is left here of a key, which is of a shard, may
// have been replaced without this node being told.
func (h *handoff) outdated(shard int, sp *space, key string) bool {
	if h.state[shard].Load() != shardForeign {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lost[shard]
	if l == nil || !l.outdated(h.n.clock.Elapsed()) {
		return false
	}
	_, kept := l.kept[h.n.store.nameOf(sp.id, []byte(key))]
	return !kept
}

// A round is what fills shards, or what mends them: neither waits for the
// other.
type round struct {
	mend bool
	wake chan struct{} // holds a token when there is something to do
}

func newHandoff(n *Node) *handoff {
	return &handoff{
		n:     n,
		fills: round{wake: make(chan struct{}, 1)},
		mends: round{mend: true, wake: make(chan struct{}, 1)},
		from:  make(map[int]*filling),
		lost:  make(map[int]*lostShard),

		maxBody: n.maxBody,
		faults:  make(map[badShard]fault),
		omitted: make(map[uint64]bool),
	}
}

// filled reports whether this node holds all of a shard that it should.
func (h *handoff) filled(shard int) bool { return h.state[shard].Load() <= shardFilled }

// settle makes what this node holds of a key good to be served. A shard that
// may have missed writes is compared with the other owners' first, and so is
// one that is being filled: what it holds may have been copied from an owner
// that did not know yet that later writes have to come here. It reports whether
// all of them answered.
//
// After a pause nothing is served before the others have answered, for as long
// as it takes them to be found or to leave the table.
func (h *handoff) settle(ctx context.Context, sp *space, key string, shard int) bool {
	for !h.filled(shard) {
		if h.reunited(ctx); ctx.Err() != nil || h.n.life.Err() != nil {
			return false
		}
		away := h.wasAway(shard)
		if h.n.copyFromCoOwners(ctx, sp, key, away) {
			return true
		}
		if !away || ctx.Err() != nil {
			return false
		}
		sleep(ctx, busyPause)
	}
	return true
}

// follow marks what a new view makes this node fill or drop, and reports
// whether there is something to drop. It is called before the view is swapped
// in, so that nobody takes a shard for filled that was not.
func (h *handoff) follow(before, after *view) (lost bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if before == nil || len(after.current.members) == 0 && h.serial == 0 {
		return false // a joiner that has not seen the others yet owns nothing
	}
	met := metActive(before, after, h.n.incarnation)
	after.meet(before, met, h.n.clock.Elapsed())
	if len(met) > 0 {
		h.merges.Add(1)
	}
	for shard := range shardCount {
		was, is := h.state[shard].Load() != shardForeign, after.holds(h.n.incarnation, shard)
		switch {
		case is && !was:
			h.gainLocked(shard, before, after, met)
		case is && len(met) > 0:
			// The other side had the shard as well, and both were written to.
			h.fillLocked(shard, filling{all: true, former: met})
			h.state[shard].CompareAndSwap(shardFilled, shardUnfilled)
		case was && !is:
			lost = true
			h.lost[shard] = &lostShard{since: h.n.clock.Elapsed(), owned: true, owed: len(met) > 0}
			h.state[shard].Store(shardForeign)
			delete(h.from, shard)
		}
	}
	h.serial = after.serial
	h.wakeUp()
	return lost
}

// metActive lists the members that were active already when this node first
// saw them, while it was active itself: the two sides of a split meet.
func metActive(before, after *view, self uint64) (met []Member) {
	if _, active := before.current.index(self); !active {
		return nil
	}
	for _, m := range after.members {
		if _, known := before.find(m.Incarnation); !known && m.State != MemberJoining {
			met = append(met, m.Member)
		}
	}
	return met
}

// gainLocked begins to fill a shard, unless there is nobody to fill it from.
// What is left of an earlier ownership goes, unless it is so short ago that this
// node was told of all writes since. met are the members of another side, who
// may have had the shard there.
func (h *handoff) gainLocked(shard int, before, after *view, met []Member) {
	kept := false
	if l := h.lost[shard]; l != nil {
		delete(h.lost, shard)
		kept = len(l.kept) > 0
		if l.outdated(h.n.clock.Elapsed()) {
			h.n.store.keepOnly(shard, len(l.kept), func(e *lru.Entry) bool {
				_, kept := l.kept[h.n.store.nameOf(e.Space, e.Bytes)]
				return kept
			})
			h.n.vectors.drop(shard)
			h.n.vectors.adopt(shard, l.came.marks())
		} else {
			kept = true
		}
	}
	self := func(m Member) bool { return m.Incarnation == h.n.incarnation }
	former := slices.DeleteFunc(before.holdersOf(shard), self)
	away := h.alone.Load()
	if !away && len(former) == 0 && len(slices.DeleteFunc(after.holdersOf(shard), self)) == 0 {
		h.state[shard].Store(shardFilled)
		return
	}
	h.fillLocked(shard, filling{fresh: !kept && len(met) == 0, all: true, away: away, former: append(former, met...)})
	h.state[shard].Store(shardUnfilled)
}

// fillLocked begins to fill a shard anew, from those as well from whom it was
// being filled already: sides of a split meet member by member.
func (h *handoff) fillLocked(shard int, now filling) {
	if f := h.from[shard]; f != nil {
		now.all = now.all || f.all
		now.fresh = now.fresh && f.fresh
		now.absent = now.absent && f.absent
		now.away = now.away || f.away
		for _, m := range f.former {
			if !contains(now.former, m.Incarnation) {
				now.former = append(now.former, m)
			}
		}
	}
	h.from[shard] = &now
}

func contains(members []Member, incarnation uint64) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.Incarnation == incarnation })
}

// behind notes that another holder of shards has something of them that this
// node has not. Until it has, it does not serve them without asking there.
func (h *handoff) behind(ahead Member, shards []int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.n.view.Load()
	for _, shard := range shards {
		if f := h.from[shard]; f != nil && (f.all || contains(f.former, ahead.Incarnation)) || !v.holds(h.n.incarnation, shard) {
			continue
		}
		if f, bad := h.faultLocked(ahead.Incarnation, shard); bad && f.final {
			continue
		}
		h.fillLocked(shard, filling{former: []Member{ahead}})
		h.state[shard].CompareAndSwap(shardFilled, shardStale)
	}
	h.wakeUp()
}

// keepForAWhile notes that an entry came of a shard that this node does not
// hold: by who sees another table, who takes this node for a stand-in, or who
// knows that it was an owner until now.
func (h *handoff) keepForAWhile(shard int, sp *space, key string, former bool) {
	if h.state[shard].Load() != shardForeign {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state[shard].Load() != shardForeign {
		return
	}
	l := h.lost[shard]
	if l == nil {
		l = &lostShard{since: h.n.clock.Elapsed()}
		h.lost[shard] = l
	}
	if former {
		l.owned = true
		return
	}
	if l.kept == nil {
		l.kept = make(map[uint64]struct{})
	}
	if len(l.kept) < maxKept { // what a stand-in gets within seconds
		l.kept[h.n.store.nameOf(sp.id, []byte(key))] = struct{}{}
	}
}

// cameMeanwhile notes that this node has applied such an entry.
//
//  1. A node owned a shard. 2. It stands in for one who is silent, and nobody
//     else who lives has the write. 3. It owns the shard again, and starts
//     empty but for that.
//
// The others have to find out that they lack the write.
func (h *handoff) cameMeanwhile(shard int, sp *space, key string, stamper, number uint64) {
	if number == 0 || h.state[shard].Load() != shardForeign {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.lost[shard]
	if l == nil {
		return
	}
	if _, kept := l.kept[h.n.store.nameOf(sp.id, []byte(key))]; kept {
		l.came.saw(stamper, number)
	}
}

// has reports whether there is something of a shard that this node does not hold.
func (h *handoff) has(shard int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lost[shard] != nil
}

// copied notes that a holder has copied a shard from here.
func (h *handoff) copied(shard int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.lost[shard]; l != nil {
		l.owed = false
	}
}

// isFresh reports whether this node has nothing of a shard but what it copied
// and what came since it became an owner.
func (h *handoff) isFresh(shard int) bool {
	f := h.fillingOf(shard)
	return f != nil && f.fresh
}

// fillingOf returns the attempt under way to fill or mend a shard; nil: none is.
func (h *handoff) fillingOf(shard int) *filling {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.from[shard]
}

func (h *handoff) wakeUp() {
	for _, r := range []*round{&h.fills, &h.mends} {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// sources lists who may hold something of a shard that this node is filling or
// mending: the other owners now, and those who owned it before; or those who
// have what it missed; or, so long after a pause, all.
func (h *handoff) sources(shard int, within time.Duration) []Member {
	v := h.n.view.Load()
	f := h.fillingOf(shard)
	var asked []Member
	switch {
	case f != nil && f.away && h.sinceResumed() <= within:
		asked = h.n.peers.members()
	case f == nil || f.all:
		asked = v.holdersOf(shard)
	}
	if f != nil {
		asked = append(asked, f.former...)
	}
	sources := asked[:0]
	for _, m := range asked {
		if _, living := v.find(m.Incarnation); living && m.Incarnation != h.n.incarnation && !contains(sources, m.Incarnation) {
			sources = append(sources, m)
		}
	}
	return sources
}

// unfilledCount returns how many shards are being filled.
func (h *handoff) unfilledCount() (count int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.from {
		if f.all {
			count++
		}
	}
	return count
}

// syncingCount returns how many shards are being filled or mended.
func (h *handoff) syncingCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.from)
}

// run fills or mends shards until ctx ends.
func (h *handoff) run(ctx context.Context, r *round) {
	retry := syncRetry
	for {
		pause := dropGrace
		if h.fill(ctx, r) {
			retry = syncRetry
		} else {
			pause, retry = retry, min(2*retry, lastSyncRetry)
		}
		h.dropLost()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.wake:
			timer.Stop()
			retry = syncRetry
		case <-timer.C:
		}
	}
}

// A shardGroup is shards that have one source.
type shardGroup struct {
	owner  Member
	shards []int
}

// fill asks every source for the shards that are not filled, and marks those
// as filled of which all living sources gave all. It returns whether none is
// left.
func (h *handoff) fill(ctx context.Context, r *round) bool {
	shards, ok := h.toFill(r)
	if !ok || len(shards) == 0 {
		return ok
	}
	bySource := make(map[uint64]*shardGroup)
	open := make(map[int]int, len(shards)) // sources that have yet to give the shard
	for shard := range shards {
		for _, m := range h.sources(shard, awayTime) {
			if bySource[m.Incarnation] == nil {
				bySource[m.Incarnation] = &shardGroup{owner: m}
			}
			g := bySource[m.Incarnation]
			g.shards = append(g.shards, shard)
			open[shard]++
		}
	}
	heard := make(map[int][]*shardFetch, len(shards))
	var mu sync.Mutex
	var wait sync.WaitGroup
	limit := make(chan struct{}, syncAtOnce)
	for shard, f := range shards {
		if open[shard] == 0 {
			h.filledUp(shard, f, nil)
		}
	}
	for _, g := range bySource {
		slices.Sort(g.shards)
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			h.fetchFrom(ctx, g.owner, g.shards, func(shard int, f *shardFetch) {
				mu.Lock()
				open[shard]--
				last := open[shard] == 0
				if f != nil {
					heard[shard] = append(heard[shard], f)
				}
				all := heard[shard]
				if last {
					delete(heard, shard) // so that not all shards' are kept to the end
				}
				mu.Unlock()
				if last && ctx.Err() == nil {
					h.filledUp(shard, shards[shard], all)
				}
			})
		})
	}
	wait.Wait()
	for shard := range shards {
		if open[shard] > 0 {
			return false
		}
	}
	h.n.viewSignal.fire() // WaitReady looks again
	return ctx.Err() == nil
}

// toFill lists the shards of a round. ok is false while it is not known from
// whom they are to be filled.
func (h *handoff) toFill(r *round) (shards map[int]*filling, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// 1. follow marks a shard. 2. The sources are looked up in the view from
	// before: there are none. 3. The new view is swapped in. So wait for it.
	if h.alone.Load() || h.n.view.Load().serial < h.serial {
		return nil, false
	}
	shards = make(map[int]*filling)
	for shard, f := range h.from {
		if f.all != r.mend {
			shards[shard] = f
		}
	}
	return shards, true
}

// filledUp ends a filling of which all sources gave what they had. When it
// became known meanwhile that others have something of the shard, there is
// another filling.
func (h *handoff) filledUp(shard int, f *filling, heard []*shardFetch) {
	h.n.adoptShard(shard, heard)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.from[shard] != f {
		return
	}
	delete(h.from, shard)
	h.state[shard].Store(shardFilled)
	h.since.Shards++
	if e := h.n.cfg.Events; e != nil && e.ShardsFilled != nil && len(h.from) == 0 {
		received := h.received.Load()
		now := ShardsFilled{Shards: h.since.Shards, Bytes: received - h.since.Bytes}
		h.since = ShardsFilled{Bytes: received}
		h.n.events.push(func() { e.ShardsFilled(now) })
	}
}

// dropLost empties shards that have not been owned for a while.
func (h *handoff) dropLost() {
	now := h.n.clock.Elapsed()
	h.mu.Lock()
	defer h.mu.Unlock()
	for shard, l := range h.lost {
		if now-l.since > dropGrace {
			delete(h.lost, shard)
			h.n.store.drop(shard)
			h.n.vectors.drop(shard)
		}
	}
}
