package peercache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/lru"
)

// coOwnersTime bounds how long an owner that has not all of a shard yet asks
// the others for a key before it loads.
const coOwnersTime = 250 * time.Millisecond

// find returns what the cluster holds of a key. With load set, the primary
// loads a key that nobody holds.
func (n *Node) find(ctx context.Context, sp *space, key string, load bool) result {
	for {
		if r := n.findByView(ctx, sp, key, load); r.err != errBecameOwner {
			return r
		}
	}
}

// errBecameOwner says that this node owns a key by a later view than the one by
// which its store was looked at.
var errBecameOwner = errors.New("peercache: this node became an owner of the key")

func (n *Node) findByView(ctx context.Context, sp *space, key string, load bool) result {
	if n.life.Err() != nil {
		return result{err: ErrClosed}
	}
	n.pauses.look()
	shard := shardOf(sp.keyspace, key)
	v := n.view.Load()
	if v.place(n.incarnation, shard) >= 0 {
		var settled bool
		settled, v = n.settle(ctx, sp, key, v)
		switch {
		case n.life.Err() != nil:
			return result{err: ErrClosed}
		case !settled && ctx.Err() != nil:
			return result{err: ctx.Err()}
		}
	}
	place := v.place(n.incarnation, shard)
	if place >= 0 {
		if e, ok := n.store.get(sp, key); ok && e.flags&flagTombstone == 0 {
			sp.count.hits.Add(1)
			return ownResult(e)
		}
	}
	if place == 0 {
		return n.findAsPrimary(ctx, sp, key, load)
	}
	return n.fetch(ctx, search{sp: sp, key: key, shard: shard, load: load, looked: v})
}

// settle is [handoff.settle] for a key that this node owns in a view, and in the
// views that come up meanwhile. It returns the last one: by that others may own
// the key.
func (n *Node) settle(ctx context.Context, sp *space, key string, v *view) (settled bool, now *view) {
	shard := shardOf(sp.keyspace, key)
	for {
		settled = n.handoff.settle(ctx, sp, key, shard)
		now = n.view.Load()
		if now == v || now.place(n.incarnation, shard) < 0 || ctx.Err() != nil {
			return settled, now
		}
		v = now
	}
}

func resultOf(e entry) result {
	if !e.there() {
		return result{entry: e}
	}
	return result{entry: e, found: true}
}

// ownResult is resultOf for what this node holds.
func ownResult(e entry) result {
	r := resultOf(e)
	r.own = true
	return r
}

// findAsPrimary answers for a key whose first owner this node is and of which
// it holds nothing.
func (n *Node) findAsPrimary(ctx context.Context, sp *space, key string, load bool) result {
	if load {
		return n.loadHere(ctx, sp, key, nil)
	}
	if r, ok := n.askCoOwners(ctx, sp, key); ok {
		return r
	}
	return result{}
}

// askCoOwners asks the other owners of a key whose shard this node has not
// filled yet, and keeps what they have. ok is false when that is nothing.
func (n *Node) askCoOwners(ctx context.Context, sp *space, key string) (r result, ok bool) {
	if n.handoff.filled(shardOf(sp.keyspace, key)) {
		return result{}, false
	}
	n.copyFromCoOwners(ctx, sp, key, false)
	if e, held := n.store.peek(sp, key); held && e.flags&flagTombstone == 0 {
		return resultOf(e), true
	}
	return result{}, false
}

// copyFromCoOwners takes over what the other owners hold of a key, the former
// owners included while the shard is being filled. Those who do not answer
// soon are left out. away says that this node was paused: then those who seem to
// be out of reach are asked as well, and what is in doubt does not count as an
// answer. It reports whether all answered.
func (n *Node) copyFromCoOwners(ctx context.Context, sp *space, key string, away bool) bool {
	shard := shardOf(sp.keyspace, key)
	v, sources := n.view.Load(), n.handoff.sources(shard, reuniteTime)
	copies := make([]copied, len(sources))
	var wait sync.WaitGroup
	for i, m := range sources {
		if away || n.peers.healthy(m) {
			wait.Go(func() {
				ctx, told, end := brief(ctx, coOwnersTime)
				defer end()
				copies[i] = n.copyFrom(ctx, m, sp, key, away, told)
			})
		}
	}
	wait.Wait()
	all, held, floor := true, false, Version{}
	for i, c := range copies {
		all, held = all && c.answered, held || c.held
		if v.holds(sources[i].Incarnation, shard) { // another one may have forgotten what it had to
			floor = later(floor, c.floor)
		}
	}
	if !held && !n.handoff.isFresh(shard) {
		// What is held here, and nowhere else, may have been deleted elsewhere
		// meanwhile, and the deletion forgotten.
		n.store.dropUnder(sp, key, floor)
	}
	return all && !(away && held && n.doubtful(sp, key, floor))
}

// doubtful reports whether what is held here of a key may have been deleted by
// an owner that has nothing of it, though another one has.
//
//  1. Two owners of three are stopped. 2. The third deletes the key and forgets
//     that, or clears the cache. 3. The two go on, and each finds at the other
//     what it holds itself.
//
// Which of the owners has seen all, only the filling of the shard tells.
func (n *Node) doubtful(sp *space, key string, floor Version) bool {
	e, ok := n.store.peek(sp, key)
	return ok && !floor.IsZero() && e.order.compare(order{floor, floor}) <= 0
}

// copied says what came of copying a key from one member.
type copied struct {
	answered bool    // or the member is gone
	held     bool    // it holds something of the key
	floor    Version // else: what stands for what it forgot
}

// copyFrom takes over what one member holds of a key. A connection that broke
// is made again: after a pause of this node all do. told hears that the answer is
// large.
func (n *Node) copyFrom(ctx context.Context, m Member, sp *space, key string, away bool, told func(mux.Reply)) copied {
	mode := getLookup
	if away {
		mode = getLeftover
	}
	for ctx.Err() == nil {
		got, err := n.callGet(ctx, m, sp, key, mode, false, told)
		if err == nil && got.held {
			from := fromOther
			if n.handoff.isFresh(shardOf(sp.keyspace, key)) {
				from = fromAhead
			}
			n.store.apply(sp, key, got.entry, from)
		}
		if err == nil || isGone(err) {
			return copied{answered: true, held: got.held, floor: got.floor}
		}
		if isFinal(err) {
			return copied{answered: isTooLarge(err)} // what cannot come here is as good as evicted
		}
		sleep(ctx, busyPause)
	}
	return copied{}
}

// A lender is a caller from another process that can load by itself: lend
// tells it to do so for a flight.
type lender struct {
	lend func(flight uint64) bool
}

// loadHere loads a key on this node, once for all who ask. from is nil for a
// caller of this process.
func (n *Node) loadHere(ctx context.Context, sp *space, key string, from *lender) result {
	f := n.flights.join(flightKey{sp.id, key}, func(f *flight) {
		f.base, f.v, f.keep = n.store.base(sp, key), n.hlc.next(), true
	})
	defer n.flights.leave(f)
	for began := false; ; began = true {
		turn := f.turn
		if !sp.canLoad() && from == nil {
			turn = nil // others may load it
		}
		select {
		case <-f.done:
			return n.outcome(sp, f, began)
		default:
		}
		select {
		case <-f.done:
			return n.outcome(sp, f, began)
		case <-ctx.Done():
			return result{err: ctx.Err()}
		case <-turn:
		}
		if sp.canLoad() {
			if !n.spawn(func(life context.Context) { n.runFlight(life, ctx, sp, key, f) }) {
				return result{err: ErrClosed}
			}
			continue
		}
		if from.lend(f.id) {
			select {
			case <-f.done:
				return n.outcome(sp, f, true)
			case <-ctx.Done(): // the one who was to load has gone
			}
		}
		f.turn <- struct{}{}
		if err := ctx.Err(); err != nil {
			return result{err: err}
		}
		return result{err: fmt.Errorf("%w: the load could not be lent", ErrUnavailable)}
	}
}

// outcome is what a flight ended with, for the caller that began the load and
// for those that share it.
func (n *Node) outcome(sp *space, f *flight, began bool) result {
	if !began {
		sp.count.coalesced.Add(1)
	}
	return f.result
}

// runFlight runs the load of a flight in this process.
func (n *Node) runFlight(life, caller context.Context, sp *space, key string, f *flight) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	defer cancel()
	stop := context.AfterFunc(life, cancel)
	defer stop()
	if !f.runs(cancel) {
		n.flights.end(f, result{err: errAllLeft})
		return
	}
	r := n.loadFlight(ctx, sp, key, f)
	if r.err != nil && life.Err() != nil {
		r.err = ErrClosed // which is why the load failed
	}
	n.flights.end(f, r)
}

// loadFlight looks once more, here and with the other owners, and then loads.
func (n *Node) loadFlight(ctx context.Context, sp *space, key string, f *flight) result {
	// 1. A caller misses. 2. An earlier flight stores its value and ends.
	// 3. The caller begins this flight: the value is there by now.
	if e, ok := n.store.peek(sp, key); ok && e.flags&flagTombstone == 0 {
		return ownResult(e)
	}
	if r, ok := n.askCoOwners(ctx, sp, key); ok {
		return r
	}
	f.base = later(f.base, n.store.base(sp, key))
	return n.finishLoad(sp, key, f, n.callLoader(ctx, sp, key))
}

// finishLoad keeps what was loaded, unless a write came meanwhile, and sends
// copies to the other owners without waiting for them.
func (n *Node) finishLoad(sp *space, key string, f *flight, l loaded) result {
	if l.err != nil {
		return result{err: l.err}
	}
	e, keep := n.entryOfLoad(l, order{f.base, f.v})
	if !keep || !n.keepFill(sp, key, &e, f) {
		e.expires = max(n.clock.Elapsed(), 1) // nobody else keeps it either
	}
	r := resultOf(e)
	r.decoded = l.decoded
	return r
}

// loadAlone loads a key for callers of this process when no owner answers.
// Nothing of it is kept.
func (n *Node) loadAlone(ctx context.Context, sp *space, key string) result {
	f := n.orphans.join(flightKey{sp.id, key}, func(*flight) {})
	defer n.orphans.leave(f)
	select {
	case <-f.turn:
		n.spawn(func(life context.Context) {
			ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
			defer cancel()
			stop := context.AfterFunc(life, cancel)
			defer stop()
			r := result{err: errAllLeft}
			if f.runs(cancel) {
				r = n.finishLoad(sp, key, f, n.callLoader(ctx, sp, key))
			}
			n.orphans.end(f, r)
		})
	default:
	}
	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
		return result{err: ctx.Err()}
	case <-n.life.Done():
		return result{err: ErrClosed}
	}
}

// A search is for a key that this node does not hold as an owner.
type search struct {
	sp     *space
	key    string
	shard  int
	load   bool  // the primary loads what nobody holds
	looked *view // by which this node has looked into its own store
}

// mode is what owners are asked for.
func (s *search) mode() uint8 {
	if s.load {
		return getLoad
	}
	return getStored
}

// fetch asks the owners for a key, and those who are about to own it when none
// of them can be reached. When nobody can the key is loaded here, for nobody
// else. Where that cannot be, they are asked again until those who died are in no
// table any more.
func (n *Node) fetch(ctx context.Context, s search) result {
	for began := n.clock.Elapsed(); ; {
		v, pauses, alone := n.view.Load(), n.pauses.look(), n.handoff.alone.Load()
		r := n.fetchOnce(ctx, s)
		if errors.Is(r.err, errNoOwner) && n.view.Load() == v && n.pauses.look() == pauses && !alone {
			r = n.askHeirs(ctx, &s, v)
		}
		if now := n.view.Load(); now.metLately(s.shard, n.pauses.glance()) {
			r = n.latest(ctx, s, now, r)
		}
		switch {
		case r.err != nil && n.life.Err() != nil:
			return result{err: ErrClosed}
		case !errors.Is(r.err, errNoOwner):
			return r
		case ctx.Err() != nil:
			return result{err: ctx.Err()}
		case n.view.Load() != v, n.pauses.look() != pauses:
			// Those who own it now have not been asked; one may be this node. Or
			// this process was stopped, and its own time was up when it went on.
			continue
		case alone, n.handoff.alone.Load():
			// All connections are closed after a pause, under the request as well.
			n.handoff.reunited(ctx)
			continue
		case s.load && s.sp.canLoad():
			return n.loadAlone(ctx, s.sp, s.key)
		case n.clock.Elapsed()-began > ownersTime || len(v.target.members) == 0:
			return r
		}
		n.awaitOther(ctx, v)
	}
}

// awaitOther waits for another view than v, for a moment.
func (n *Node) awaitOther(ctx context.Context, v *view) {
	changed := n.viewSignal.next()
	if n.view.Load() != v {
		return
	}
	enough := time.NewTimer(coOwnersTime)
	defer enough.Stop()
	select {
	case <-changed:
	case <-enough.C:
	case <-ctx.Done():
	case <-n.life.Done():
	}
}

// fetchOnce asks the owners as this node sees them now, once for all callers of
// this process.
func (n *Node) fetchOnce(ctx context.Context, s search) result {
	k := fetchKey{flightKey{s.sp.id, s.key}, s.load}
	if n.fetches.enter(s.shard, k) {
		r := result{err: ErrUnavailable} // should it panic
		defer func() { n.fetches.leave(s.shard, k, r) }()
		r = n.askOwners(ctx, s)
		return r
	}
	return n.fetches.share(ctx, s.shard, k, func(ctx context.Context) result { return n.askOwners(ctx, s) })
}

var errNoOwner = fmt.Errorf("%w: no owner of the key answers", ErrUnavailable)

// fastValue is the largest value that is handed out by the goroutine that
// reads a connection: larger ones would hold up the requests behind.
const fastValue = 32 << 10

// serveFast answers what takes no waiting, on the goroutine that reads the
// connection. What it does not answer is for serve.
func (n *Node) serveFast(req *mux.Request) (reply mux.Reply, ok bool) {
	switch req.Op {
	case opGet:
		reply, ok = n.getFast(req)
	case opPing:
		reply, ok = n.servePing(), true
	}
	if ok {
		n.hlc.follow(req.Fields.Clock)
		n.sign(&reply)
	}
	return reply, ok
}

// sign fills in what every reply says of this node.
func (n *Node) sign(reply *mux.Reply) {
	reply.Fields.Clock = n.hlc.read()
	reply.Fields.Load = uint64(n.serving.Load()) + 1
}

// getFast is serveGet for keys that are held, and for those that are not but
// need not be loaded.
func (n *Node) getFast(req *mux.Request) (mux.Reply, bool) {
	g, cache, name, err := parseGet(req.Body)
	if err != nil || g.asksHere() {
		return mux.Reply{}, false
	}
	sp := n.store.known(cache)
	if sp == nil {
		return mux.Reply{}, false
	}
	key := sp.key(string(name))
	shard := int(key.Shard)
	v := n.view.Load()
	if v.place(n.incarnation, shard) < 0 || !n.handoff.filled(shard) {
		return mux.Reply{}, false // what is held here may be outdated
	}
	var e entry
	large := false
	value := req.Scratch
	held := n.store.lru.View(key, func(v []byte, m lru.Meta) {
		e = entryOf(m, nil)
		if large = len(v) > fastValue; !large {
			value = append(value, v...)
		}
	})
	switch held = held && e.flags&flagTombstone == 0; {
	case large || !held && g.mode == getLoad:
		return mux.Reply{}, false
	case !held:
		sp.count.serverRequests.Add(1)
		return mux.Reply{Code: replyAbsent}, true
	}
	sp.count.serverRequests.Add(1)
	n.store.used(key.Hash)
	both := n.appendEntryHead(value, &e, len(value))
	return mux.Reply{Code: replyEntry, Body: both[len(value):], Tail: both[:len(value)]}, true
}

// known is [store.space] for a name that is a part of a request. Nil: there is
// none.
func (s *store) known(name []byte) *space {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[string(name)]
}

// holdsLarge reports whether the value of a key is to travel as bulk.
func (s *store) holdsLarge(sp *space, key string) (large bool) {
	s.lru.View(sp.key(key), func(value []byte, _ lru.Meta) { large = len(value) > mux.MaxWhole })
	return large
}

// serveGet answers a peer that asks for a key.
func (n *Node) serveGet(ctx context.Context, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	g, err := readGet(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(g.cache)
	if err != nil {
		return errorReply(err)
	}
	sp.count.serverRequests.Add(1)
	if g.asksHere() {
		// 1. An owner gave a key away, which was deleted since. 2. Those who did
		// so are cut off. 3. Another one owns the key by its view, as this node
		// will, and asks it. Only who was away needs what is left here.
		if g.mode != getLeftover && n.handoff.outdated(shardOf(sp.keyspace, g.key), sp, g.key) {
			return mux.Reply{Code: replyAbsent}
		}
		if e, ok := n.store.peek(sp, g.key); ok {
			return n.entryReply(&e)
		}
		return mux.Reply{Code: replyAbsent, Body: appendVersion(nil, n.store.standing(sp, g.key).order.w)}
	}
	v := n.view.Load()
	shard := shardOf(sp.keyspace, g.key)
	place := v.place(n.incarnation, shard)
	if place < 0 && req.Fields.Digest != v.digest && n.handoff.filled(shard) {
		// The asker sees an owner already in who will be one: a leaver does,
		// once it has handed over. All writes come here.
		place = v.target.position(n.incarnation, shard)
	}
	if place < 0 {
		// What is left here of an earlier ownership may be outdated.
		return n.notOwnerReply(v, shard)
	}
	settled := true
	if !n.handoff.filled(shard) {
		progress(mux.Reply{Code: progressLoading}) // the others may take their time
		settled, v = n.settle(ctx, sp, g.key, v)
		if place = v.place(n.incarnation, shard); place < 0 {
			return n.notOwnerReply(v, shard)
		}
	}
	if overCalls(ctx) && n.store.holdsLarge(sp, g.key) {
		return mux.Reply{Code: replyBulk}
	}
	if reply, ok := n.readReply(ctx, sp, g.key); ok {
		return reply
	}
	if g.mode == getStored {
		if place == 0 {
			if r, ok := n.askCoOwners(ctx, sp, g.key); ok {
				return n.resultReply(r)
			}
		}
		if !settled {
			return errorReply(fmt.Errorf("%w: the shard is not filled yet", ErrUnavailable))
		}
		return mux.Reply{Code: replyAbsent}
	}
	progress(mux.Reply{Code: progressLoading})
	if place > 0 && !g.asked {
		// Rather the load of an owner that comes before this one: the asker
		// may just not reach it.
		if r := n.askThese(ctx, sp, g.key, getLoad, true, ownersBefore(v, n.incarnation, shard), nil); !errors.Is(r.err, errNoOwner) {
			return n.resultReply(r)
		}
	}
	var from *lender
	if g.canLoad {
		from = &lender{lend: func(id uint64) bool {
			return progress(mux.Reply{Code: progressLend, Body: appendLend(nil, id)})
		}}
	}
	if !sp.canLoad() && from == nil {
		return mux.Reply{Code: replyAbsent} // neither here nor there can it be loaded
	}
	return n.resultReply(n.loadHere(ctx, sp, g.key, from))
}

// largeValues holds buffers for values that travel as bulk: to make room for
// one each time costs as much as to copy it.
var largeValues = sync.Pool{New: func() any { return new([]byte) }}

// readReply answers with what this node holds of a key. ok is false when that
// is nothing.
func (n *Node) readReply(ctx context.Context, sp *space, key string) (reply mux.Reply, ok bool) {
	if overCalls(ctx) || !n.store.holdsLarge(sp, key) {
		e, ok := n.store.get(sp, key)
		return n.entryReply(&e), ok && e.flags&flagTombstone == 0
	}
	buffer := largeValues.Get().(*[]byte)
	e, ok := n.store.getTo((*buffer)[:0], sp, key)
	free := func() {
		if ok {
			*buffer = e.value
		}
		largeValues.Put(buffer)
	}
	if !ok || e.flags&flagTombstone != 0 {
		free()
		return mux.Reply{}, false
	}
	reply = n.entryReply(&e)
	reply.Free = free
	return reply, true
}

// ownersBefore lists the owners of a shard that come before a member.
func ownersBefore(v *view, member uint64, shard int) []Member {
	owners := v.ownersOf(shard)
	if i := slices.IndexFunc(owners, func(m Member) bool { return m.Incarnation == member }); i >= 0 {
		return owners[:i]
	}
	return owners
}

// serveLent takes what a peer loaded for a flight of this node.
func (n *Node) serveLent(req mux.Request) mux.Reply {
	m, err := readLent(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(m.cache)
	if err != nil {
		return errorReply(err)
	}
	f := n.flights.lent(m.flight)
	if f == nil || f.key != (flightKey{sp.id, m.key}) {
		return mux.Reply{Code: replyAbsent} // all who waited have gone
	}
	m.loaded.value = bytes.Clone(m.loaded.value) // the request ends before those who wait read it
	n.flights.end(f, n.finishLoad(sp, m.key, f, m.loaded))
	return mux.Reply{}
}
