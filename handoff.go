package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/lru"
)

const (
	syncShards    = 32                    // in one request at most
	syncBytes     = 2 << 20               // in one reply, unless one entry alone is larger
	syncTimeout   = 10 * time.Second      // of one request
	syncRetry     = 20 * time.Millisecond // doubles up to lastSyncRetry
	lastSyncRetry = 500 * time.Millisecond
	syncAtOnce    = 4                // sources that are asked at the same time
	dropGrace     = 30 * time.Second // how long a shard that is owned no more is kept
)

// What a node holds of a shard.
const (
	shardForeign  uint32 = iota // nothing: it is not an owner
	shardFilled                 // all that it should
	shardUnfilled               // what came since it became an owner, and what it has copied so far
	shardStale                  // perhaps not what was written while it was paused
)

// handoff fills the shards that this node has come to own from those who had
// them, and drops those that it owns no more.
type handoff struct {
	n     *Node
	state [shardCount]atomic.Uint32
	wake  chan struct{} // holds a token when there is something to fill
	met   signal        // fired when the others were asked for after a pause

	alone atomic.Bool // after a pause, until then: who is in the view may have lost sight of this node, or it of them

	mu     sync.Mutex
	from   map[int]*filling      // guarded by mu; the shards being filled
	lost   map[int]time.Duration // guarded by mu; shards owned no more, and since when
	serial uint64                // guarded by mu; of the view that was followed last
	bytes  atomic.Int64          // received
}

// A filling is one attempt to fill a shard, from when the node came to own it.
type filling struct {
	former []Member // who else may have it: its owners before, or another side's
}

func newHandoff(n *Node) *handoff {
	return &handoff{n: n, wake: make(chan struct{}, 1), from: make(map[int]*filling), lost: make(map[int]time.Duration)}
}

// filled reports whether this node holds all of a shard that it should.
func (h *handoff) filled(shard int) bool { return h.state[shard].Load() <= shardFilled }

// settle makes what this node holds of a key good to be served. A shard that
// may have missed writes is compared with the other owners' first, and so is
// one that is being filled: what it holds may have been copied from an owner
// that did not know yet that later writes have to come here.
func (h *handoff) settle(ctx context.Context, sp *space, key string, shard int) {
	if h.filled(shard) {
		return
	}
	stale := h.state[shard].Load() == shardStale
	if met := h.met.next(); stale && h.alone.Load() {
		select {
		case <-met:
		case <-ctx.Done():
		}
	}
	h.n.copyFromCoOwners(ctx, sp, key, stale)
}

// reunite asks for the others after a pause, before what this node holds is
// compared with them.
func (h *handoff) reunite(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, joinRound)
	defer cancel()
	h.n.discovery.round(ctx)
	// Who answered there may still have to be told that it is not dead, or
	// this node that it is not.
	for h.n.discovery.answered() && ctx.Err() == nil {
		changed := h.n.viewSignal.next()
		if len(h.n.peers.members()) > 0 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	h.alone.Store(false)
	h.met.fire()
	h.wakeUp()
}

// follow marks what a new view makes this node fill or drop, and reports
// whether there is something to drop. It is called before the view is swapped
// in, so that nobody takes a shard for filled that was not.
func (h *handoff) follow(before, after *view) (lost bool) {
	if before == nil || len(after.current.members) == 0 {
		return false // a joiner that has not seen the others yet owns nothing
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.n.clock.Elapsed()
	met := metActive(before, after, h.n.incarnation)
	for shard := range shardCount {
		was, is := h.state[shard].Load() != shardForeign, after.holds(h.n.incarnation, shard)
		switch {
		case is && !was:
			h.gainLocked(shard, before, after, met)
		case is && len(met) > 0:
			// The other side had the shard as well, and both were written to.
			h.fillLocked(shard, met)
			h.state[shard].CompareAndSwap(shardFilled, shardUnfilled)
		case was && !is:
			lost = true
			h.lost[shard] = now
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
// met are the members of another side, who may have had it there.
func (h *handoff) gainLocked(shard int, before, after *view, met []Member) {
	if _, kept := h.lost[shard]; kept {
		// What is left of an earlier ownership may be old: begin empty.
		delete(h.lost, shard)
		h.n.store.drop(shard)
	}
	self := func(m Member) bool { return m.Incarnation == h.n.incarnation }
	former := slices.DeleteFunc(before.holdersOf(shard), self)
	if len(former) == 0 && len(slices.DeleteFunc(after.holdersOf(shard), self)) == 0 {
		h.state[shard].Store(shardFilled)
		return
	}
	h.fillLocked(shard, append(former, met...))
	h.state[shard].Store(shardUnfilled)
}

// fillLocked begins to fill a shard anew, from those as well from whom it was
// being filled already: sides of a split meet member by member.
func (h *handoff) fillLocked(shard int, former []Member) {
	if f := h.from[shard]; f != nil {
		former = slices.Concat(f.former, former)
	}
	h.from[shard] = &filling{former: former}
}

// stale marks all shards that this node owns as perhaps outdated.
func (h *handoff) stale() {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.n.view.Load()
	for shard := range shardCount {
		if v.holds(h.n.incarnation, shard) {
			h.state[shard].CompareAndSwap(shardFilled, shardStale)
			if h.from[shard] == nil {
				h.from[shard] = &filling{}
			}
		}
	}
	h.alone.Store(true)
}

func (h *handoff) wakeUp() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// sources lists who may hold something of a shard that this node is filling:
// the other owners now, and those who owned it before.
func (h *handoff) sources(shard int) []Member {
	v := h.n.view.Load()
	h.mu.Lock()
	var former []Member
	if f := h.from[shard]; f != nil {
		former = f.former
	}
	h.mu.Unlock()
	var sources []Member
	for _, m := range append(v.holdersOf(shard), former...) {
		known := slices.ContainsFunc(sources, func(s Member) bool { return s.Incarnation == m.Incarnation })
		if _, living := v.find(m.Incarnation); living && !known && m.Incarnation != h.n.incarnation {
			sources = append(sources, m)
		}
	}
	return sources
}

// unfilledCount returns how many shards are being filled.
func (h *handoff) unfilledCount() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.from)
}

// run fills and drops shards until ctx ends.
func (h *handoff) run(ctx context.Context) {
	retry := syncRetry
	for {
		pause := dropGrace
		if h.fill(ctx) {
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
		case <-h.wake:
			timer.Stop()
			retry = syncRetry
		case <-timer.C:
		}
	}
}

// fill asks every source for the shards that are not filled, and marks those
// as filled of which all living sources gave all. It returns whether none is
// left.
func (h *handoff) fill(ctx context.Context) bool {
	shards, ok := h.toFill()
	if !ok || len(shards) == 0 {
		return ok
	}
	bySource := make(map[uint64]*shardGroup)
	open := make(map[int]int, len(shards)) // sources that have yet to give the shard
	for shard := range shards {
		for _, m := range h.sources(shard) {
			if bySource[m.Incarnation] == nil {
				bySource[m.Incarnation] = &shardGroup{owner: m}
			}
			g := bySource[m.Incarnation]
			g.shards = append(g.shards, shard)
			open[shard]++
		}
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	limit := make(chan struct{}, syncAtOnce)
	for _, g := range bySource {
		slices.Sort(g.shards)
		wait.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			h.fetchFrom(ctx, g.owner, g.shards, func(shard int) {
				mu.Lock()
				defer mu.Unlock()
				open[shard]--
			})
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		return false
	}
	return h.mark(shards, open)
}

// toFill lists the shards to be filled. ok is false while it is not known
// from whom.
func (h *handoff) toFill() (shards map[int]*filling, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// 1. follow marks a shard. 2. The sources are looked up in the view from
	// before: there are none. 3. The new view is swapped in. So wait for it.
	if h.alone.Load() || h.n.view.Load().serial < h.serial {
		return nil, false
	}
	return maps.Clone(h.from), true
}

// mark notes the shards that no source has yet to give. One that was lost and
// gained again meanwhile is another filling: what was copied is gone.
func (h *handoff) mark(shards map[int]*filling, open map[int]int) (all bool) {
	h.mu.Lock()
	for shard, f := range shards {
		if h.from[shard] == f && open[shard] == 0 {
			delete(h.from, shard)
			h.state[shard].Store(shardFilled)
		}
	}
	all = len(h.from) == 0
	h.mu.Unlock()
	if all {
		h.n.viewSignal.fire() // WaitReady looks again
	}
	return all
}

// fetchFrom copies shards from one source, and calls given for each that the
// source has given wholly, or that a source which is gone will never give.
func (h *handoff) fetchFrom(ctx context.Context, source Member, shards []int, given func(int)) {
	for len(shards) > 0 {
		batch := shards[:min(len(shards), syncShards)]
		done, err := h.fetchBatch(ctx, source, batch)
		if isGone(err) {
			for _, shard := range shards {
				given(shard)
			}
			return
		}
		if err != nil {
			return
		}
		for _, shard := range batch[:done] {
			given(shard)
		}
		shards = shards[done:]
		if done == 0 {
			return // the source sees another table yet
		}
	}
}

// fetchBatch copies some shards, and returns how many of them are complete.
func (h *handoff) fetchBatch(ctx context.Context, source Member, shards []int) (done int, err error) {
	var after uint64
	for done < len(shards) {
		page, err := h.fetchPage(ctx, source, shards[done:], after)
		if err != nil {
			return done, err
		}
		if page.refused {
			return done, nil
		}
		done += page.done
		after = page.after
	}
	return done, nil
}

// A syncPage is a part of what a source holds of some shards.
type syncPage struct {
	refused bool   // the source does not see this node as an owner yet
	done    int    // how many of the shards are complete with this page
	after   uint64 // of the next shard, the hash where to go on
}

func (h *handoff) fetchPage(ctx context.Context, source Member, shards []int, after uint64) (p syncPage, err error) {
	n := h.n
	b := wire.AppendUint64(nil, after)
	b = wire.AppendUvarint(b, uint64(len(shards)))
	for _, shard := range shards {
		b = wire.AppendUint16(b, uint16(shard))
	}
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	reply, err := n.peers.call(ctx, source, mux.Request{Op: opSync, Body: b}, nil)
	if err != nil {
		return p, err
	}
	if reply.Code == replyNotOwner {
		return syncPage{refused: true}, nil
	}
	if reply.Code != replyOK {
		return p, replyFailure(reply)
	}
	h.bytes.Add(int64(len(reply.Body)))
	return n.readSync(reply.Body, source.Incarnation, len(shards))
}

// serveSync gives a peer what this node holds of shards that the peer owns,
// tombstones and floors included. The peer must be an owner in this node's
// view: from then on what is written here is sent to it as well, so that
// nothing falls between the copy and the writes.
func (n *Node) serveSync(_ context.Context, from mux.Identity, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	after := r.Uint64()
	shards := make([]int, r.Count(syncShards, 2))
	for i := range shards {
		if shards[i] = int(r.Uint16()); shards[i] >= shardCount {
			r.Fail("shard")
		}
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	v := n.view.Load()
	for _, shard := range shards {
		if !v.holds(from.Incarnation, shard) {
			return mux.Reply{Code: replyNotOwner}
		}
	}
	done, next := 0, uint64(0)
	t := n.timer(0)
	var body []byte
	for _, shard := range shards {
		body = n.appendFloors(body, shard)
		if body, next = n.appendShard(body, t, shard, after); next != 0 {
			break
		}
		after = 0
		if done++; len(body) > syncBytes {
			break
		}
	}
	head := wire.AppendUvarint(nil, uint64(done))
	return mux.Reply{Body: wire.AppendUint64(head, next), Tail: body}
}

const (
	syncFloors uint8 = iota + 1 // floors of a shard follow
	syncEntry                   // an entry follows
)

func (n *Node) appendFloors(b []byte, shard int) []byte {
	f := n.store.floors[shard].Load()
	if f == nil {
		return b
	}
	b = wire.AppendByte(b, syncFloors)
	b = wire.AppendUint16(b, uint16(shard))
	b = appendVersion(b, f.gc)
	b = wire.AppendUvarint(b, uint64(len(f.clear)))
	for space, floor := range f.clear {
		b = wire.AppendString(b, n.store.spaceOf(space).name)
		b = appendVersion(b, floor)
	}
	return b
}

// appendShard appends a shard's entries whose mixed hash is at or above after.
// When they are too many for a page, it appends those below some hash, which
// it returns, and 0 when it appended all.
func (n *Node) appendShard(b []byte, t timer, shard int, after uint64) (page []byte, next uint64) {
	limit := uint64(0) // none
	for {
		page = b
		over := false
		for it := n.store.lru.Iterate(uint16(shard)); it.Next(); {
			e := it.Entry()
			place := syncPlace(e)
			if place < after || limit != 0 && place >= limit {
				continue
			}
			if len(page)-len(b) > 0 && len(page)-len(b)+len(e.Value) > syncBytes && (limit == 0 || limit-after > 1) {
				over = true
				break
			}
			held := entryOf(e.Meta, e.Value)
			page = wire.AppendByte(page, syncEntry)
			page = wire.AppendString(page, n.store.spaceOf(e.Space).name)
			page = wire.AppendBytes(page, e.Bytes)
			page = t.appendEntry(page, &held)
		}
		if !over {
			return page, limit
		}
		if limit == 0 {
			limit = syncPlaces
		}
		limit = after + max((limit-after)/2, 1)
	}
}

// syncPlaces is how finely a shard is cut into pages.
const syncPlaces = 1 << 32

func syncPlace(e lru.Entry) uint64 { return e.Hash & (syncPlaces - 1) }

// readSync takes a page in.
func (n *Node) readSync(body []byte, source uint64, shards int) (p syncPage, err error) {
	r := wire.NewReader(body)
	p.done, p.after = int(r.Uvarint()), r.Uint64()
	if p.done > shards || p.done == 0 && p.after == 0 {
		r.Fail("page of a sync")
	}
	t := n.timer(source)
	for r.Err() == nil && r.Len() > 0 {
		switch r.Byte() {
		case syncFloors:
			shard, gc := int(r.Uint16()), readVersion(&r)
			count := r.Count(maxSpaces, 17)
			for range count {
				name, floor := r.String(maxCacheName), readVersion(&r)
				sp, err := n.store.space(name)
				if r.Err() != nil || err != nil || shard >= shardCount {
					break
				}
				n.clearHere(sp, floor, []int{shard})
			}
			if r.Err() == nil && shard < shardCount {
				n.store.raiseGC(shard, gc)
			}
		case syncEntry:
			name, key := r.String(maxCacheName), r.String(maxKeyBytes)
			e := t.readEntry(&r)
			sp, err := n.store.space(name)
			if r.Err() != nil || err != nil || !n.hlc.observe(e.order.v.time) {
				continue
			}
			n.store.apply(sp, key, e, fromSync) // an error: too large for this node's bound, and so not kept
		default:
			r.Fail("record of a sync")
		}
	}
	return p, r.Err()
}

// handOver waits until every other member that will own what this node owns
// holds it. The node has announced that it is leaving.
func (h *handoff) handOver(ctx context.Context) error {
	var wait sync.WaitGroup
	members := h.n.peers.members()
	errs := make([]error, len(members))
	for i, m := range members {
		wait.Go(func() { errs[i] = h.askSettled(ctx, m) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// askSettled waits until one member holds what it will own.
func (h *handoff) askSettled(ctx context.Context, m Member) error {
	for {
		if _, living := h.n.view.Load().find(m.Incarnation); !living {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, syncTimeout)
		reply, err := h.n.peers.call(attempt, m, mux.Request{Op: opSettled}, nil)
		cancel()
		switch {
		case err == nil && reply.Code == replyOK || isGone(err):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("peercache: %s has not taken over all shards: %w", m, ctx.Err())
		}
		sleep(ctx, syncRetry)
	}
}

// serveSettled answers a leaving member once this node has seen that it
// leaves and has filled its shards.
func (n *Node) serveSettled(ctx context.Context, from mux.Identity) mux.Reply {
	for {
		changed := n.viewSignal.next()
		m, listed := n.view.Load().find(from.Incarnation)
		if !listed || m.State == MemberLeaving && n.handoff.unfilledCount() == 0 {
			return mux.Reply{}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return mux.Reply{Code: replySame}
		}
	}
}

// dropLost empties shards that have not been owned for a while.
func (h *handoff) dropLost() {
	now := h.n.clock.Elapsed()
	h.mu.Lock()
	defer h.mu.Unlock()
	for shard, since := range h.lost {
		if now-since > dropGrace {
			delete(h.lost, shard)
			h.n.store.drop(shard)
		}
	}
}
