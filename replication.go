package peercache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	deliveryTimeout = 3 * time.Second       // of one attempt to bring entries to an owner, without a sign of life
	deliveryPause   = 20 * time.Millisecond // between two attempts
	maxRestamps     = 16
	followTime      = 50 * time.Millisecond // between the arrivals of a write at two owners
)

// A stamped is a write that this node has stamped, or an entry to be copied.
type stamped struct {
	sp     *space
	key    string
	op     uint64 // 0: not a write
	number uint64 // which of its stamper's writes and fills of the shard it is; 0: not known
	entry  entry
}

// stamp gives writes their versions, applies them here, and brings them to
// every other owner. This node owns all their keys.
func (n *Node) stamp(ctx context.Context, sp *space, writes []*write) {
	plain := make([]*write, 0, len(writes))
	var others []*write
	for _, w := range writes {
		if w.begun = n.operations.begin(w.op); w.begun != nil && !w.cond {
			plain = append(plain, w)
		} else {
			others = append(others, w)
		}
	}
	if len(others) == 0 {
		n.stampPlain(ctx, sp, plain)
	} else {
		n.stampBeside(ctx, sp, others, func() { n.stampPlain(ctx, sp, plain) })
	}
	for _, w := range writes {
		if w.begun != nil {
			n.operations.end(w.begun, w)
		}
	}
}

// stampBeside stamps conditional writes, and waits for those whose operation
// has begun already, while plain runs.
func (n *Node) stampBeside(ctx context.Context, sp *space, writes []*write, plain func()) {
	var wait sync.WaitGroup
	for _, w := range writes {
		wait.Go(func() {
			if w.begun != nil {
				n.stampConditional(ctx, sp, w)
			} else if n.operations.await(ctx, w) {
				n.finishForStamper(ctx, sp, w)
			}
		})
	}
	plain()
	wait.Wait()
}

// finishForStamper brings a write to the owners that its stamper may not have
// reached before it died.
func (n *Node) finishForStamper(ctx context.Context, sp *space, w *write) {
	e, ok := n.store.peek(sp, w.key)
	if !ok || e.order.w != w.version {
		return // a later write stands, here and by its own stamper elsewhere
	}
	outcome := n.spread(ctx, []stamped{{sp: sp, key: w.key, op: w.op, entry: e}})
	w.err = outcome.errorOf(0)
}

// A stamping is a plain write that this node stamps.
type stamping struct {
	write *write
	item  stamped
}

// stampPlain stamps writes whatever is there.
func (n *Node) stampPlain(ctx context.Context, sp *space, writes []*write) {
	n.settleEach(ctx, sp, writes)
	v := n.view.Load()
	pending := make([]stamping, 0, len(writes))
	for _, w := range writes {
		// To settle a key may have taken a while.
		shard := shardOf(sp.keyspace, w.key)
		if ctx.Err() != nil && !n.handoff.filled(shard) {
			w.err = ctx.Err()
			continue
		}
		if !v.owns(n.incarnation, shard) {
			w.err = errElsewhere
			continue
		}
		if w.late(n.hlc.read()) {
			w.err = errLate
			continue
		}
		s := stamping{w, stamped{sp: sp, key: w.key, op: w.op, entry: n.entryOfWrite(w)}}
		if n.stampOne(ctx, &s) {
			pending = append(pending, s)
		}
	}
	for round := 0; len(pending) > 0; round++ {
		items := make([]stamped, len(pending))
		for i := range pending {
			items[i] = pending[i].item
		}
		outcome := n.spread(ctx, items)
		var again []stamping
		for i := range pending {
			s := &pending[i]
			s.write.err = outcome.errorOf(i)
			if stamp := s.item.entry.order.w.time; outcome.refused[i] && stamp > n.hlc.read() && round < maxRestamps {
				// The clock was ahead, and has been set right.
				if n.stampOne(ctx, s) {
					again = append(again, *s)
				}
				continue
			}
			// Somebody holds something later than the stamp: move past it, or
			// the write would be acknowledged and not be there.
			if round == maxRestamps || n.followed(ctx, &s.item, outcome.above[i]) {
				continue
			}
			if w := s.write; w.late(n.hlc.read()) && w.left() && w.begun.waiting.Load() == 0 {
				// By now it is what another owner has made of it.
				w.err = fmt.Errorf("%w: whoever sent the write has given it up", ErrUnavailable)
				continue
			}
			if n.stampOne(ctx, s) {
				again = append(again, *s)
			}
		}
		pending = again
	}
}

// stampOne stamps a write and applies it here. It returns false when that
// failed.
func (n *Node) stampOne(ctx context.Context, s *stamping) bool {
	if s.write.err = n.applyOwn(ctx, &s.item); s.write.err != nil {
		return false
	}
	s.write.version = s.item.entry.order.w
	return true
}

// settleEach settles what this node holds of the keys that are written, so
// that their stamps go past what others know and this node has yet to learn.
func (n *Node) settleEach(ctx context.Context, sp *space, writes []*write) {
	var wait sync.WaitGroup
	var limit chan struct{}
	for _, w := range writes {
		if shard := shardOf(sp.keyspace, w.key); !n.handoff.filled(shard) {
			if limit == nil {
				limit = make(chan struct{}, loadsAtOnce)
			}
			limit <- struct{}{}
			wait.Go(func() {
				defer func() { <-limit }()
				n.handoff.settle(ctx, sp, w.key, shard)
			})
		}
	}
	if limit != nil {
		wait.Wait()
	}
}

// followed reports whether nothing that other owners hold makes it necessary
// to stamp a write anew. It need not be when a later write of the key, or a
// Clear, has come since: this node applied its own first, where it could be
// seen, and then the later one.
//
//  1. A write is stamped here, and waits for a silent owner. 2. It is read, and
//     replaced by a conditional write. 3. The owner wakes up, and gets the
//     conditional write first. 4. It says that it holds something later.
//
// A stamp past that would undo the conditional write.
func (n *Node) followed(ctx context.Context, it *stamped, above []outranked) bool {
	if n.store.clearedSince(it.sp, it.key, it.entry.order.w) {
		return true
	}
	for _, a := range above {
		if !a.entry {
			return false // a floor or a stage, not a write that is there
		}
		// The later write may be on its way to this node still.
		for until := n.clock.Elapsed() + followTime; ; {
			held := n.store.standing(it.sp, it.key)
			if held.order.compare(a.by) >= 0 {
				break
			}
			if n.clock.Elapsed() > until || ctx.Err() != nil {
				return false
			}
			sleep(ctx, busyPause)
		}
	}
	return true
}

func (n *Node) entryOfWrite(w *write) entry {
	e := entry{flags: w.flags, tag: w.tag, value: w.value}
	switch {
	case w.flags&flagTombstone != 0:
		e.expires = n.clock.Elapsed() + tombstoneTime
	case w.ttl > 0:
		e.expires = n.clock.Elapsed() + min(w.ttl, maxTTL)
	}
	return e
}

// applyOwn stamps a write and applies it here, past all that this node holds.
func (n *Node) applyOwn(ctx context.Context, w *stamped) error {
	for {
		stamp := n.hlc.next()
		w.entry.order = order{stamp, stamp}
		held, applied, err := n.store.apply(w.sp, w.key, w.entry, fromRequest)
		if errors.Is(err, errClock) {
			continue // the clock has been set back since
		}
		if err != nil {
			return err
		}
		if applied {
			// After it was applied: who copies the shard is told of the number
			// first and of the entry then.
			w.number = n.vectors.number(shardOf(w.sp.keyspace, w.key))
			return nil
		}
		if !n.acceptSoon(ctx, held.order.latest()) {
			return n.clockFault(n.stamperOf(held.order), held.order.latest())
		}
	}
}

// spread brings entries to all other owners in the current and target tables,
// and waits until every one has confirmed, refused a connection, or is in the
// view no more. When ctx ends first the rest goes on in the background.
func (n *Node) spread(ctx context.Context, items []stamped) *spreadOutcome {
	outcome := new(spreadOutcome)
	sent := make(sentTo)
	for {
		n.handoff.reunited(ctx) // this process may have been stopped, and be in no table
		// The tables are read again before the end: an owner that appeared
		// while the others were being told has not got it from anybody.
		deliveries := n.deliveriesFor(items, sent)
		if len(deliveries) == 0 {
			return outcome
		}
		late := func(d *delivery) { n.standIn(items, d, sent) }
		n.deliver(ctx, deliveries, outcome, late)
		if ctx.Err() != nil {
			n.partialWrites.Add(int64(len(outcome.missing)))
			return outcome
		}
	}
}

// standIn sends what a silent owner has not confirmed to those who would own
// it without that one, too: there is then one copy more if the silent one is
// dead and this node dies as well. Nobody waits for that.
func (n *Node) standIn(items []stamped, silent *delivery, sent sentTo) {
	late := make([]stamped, len(silent.items))
	had := make(sentTo)
	for i, item := range silent.items {
		late[i] = items[item]
		for incarnation, all := range sent {
			if all[item] {
				had.note(incarnation, i, true)
			}
		}
	}
	v := n.view.Load()
	without := v.without(silent.to.Incarnation)
	deliveries := n.deliveriesTo(late, had, func(shard int) []taker { return keepers(v.appendMembers(nil, without, shard)) })
	for _, d := range deliveries {
		n.spawn(func(life context.Context) {
			n.bring(life, d)
		})
	}
}

// A sentTo notes, by incarnation, which items a member was sent: true if to
// keep them, false if as a former owner of their shards.
type sentTo map[uint64]map[int]bool

func (s sentTo) note(incarnation uint64, item int, kept bool) {
	if s[incarnation] == nil {
		s[incarnation] = make(map[int]bool)
	}
	s[incarnation][item] = kept
}

// lacks reports whether a taker is still to be sent an item.
func (s sentTo) lacks(t taker, item int) bool {
	kept, sent := s[t.Incarnation][item]
	return !sent || !kept && !t.former
}

// A delivery is what one member gets of some entries.
type delivery struct {
	to    taker
	op    uint8
	items []int // which of the entries
	about []int // the shards of those, if they are large
	size  int   // of body, about
	body  []byte
	stamp uint64             // the greatest of theirs
	omit  func() []byte      // the body without the values, for a member that does not take them; nil: there is none
	left  atomic.Bool        // nobody waits: there is no further attempt
	quiet bool               // it has made no progress for a while, which was told
	end   context.CancelFunc // ends the attempts, set by start
	done  chan struct{}

	above []outranked // constant after done, like err: which of items it holds something later of
	err   error       // nil: confirmed; or it is known not to be there
}

// deliveriesFor lists what has to be sent to whom beyond what was sent.
func (n *Node) deliveriesFor(items []stamped, sent sentTo) []*delivery {
	v := n.view.Load()
	if v.alone(n.incarnation) {
		return nil
	}
	now := n.clock.Now()
	return n.deliveriesTo(items, sent, func(shard int) []taker { return v.takersOf(shard, now) })
}

// deliveriesTo is deliveriesFor for any takers of a shard's writes.
func (n *Node) deliveriesTo(items []stamped, sent sentTo, takers func(shard int) []taker) []*delivery {
	var deliveries []*delivery
	for i := range items {
		for _, to := range takers(shardOf(items[i].sp.keyspace, items[i].key)) {
			if to.Incarnation == n.incarnation || !sent.lacks(to, i) {
				continue
			}
			sent.note(to.Incarnation, i, !to.former)
			d := roomFor(deliveries, to, items[i].size())
			if d == nil {
				d = &delivery{to: to, op: opApply, done: make(chan struct{})}
				deliveries = append(deliveries, d)
			}
			d.items = append(d.items, i)
			d.size += items[i].size()
			d.stamp = max(d.stamp, items[i].entry.order.latest())
		}
	}
	v := n.view.Load()
	for _, d := range deliveries {
		d.body = n.encodeApply(items, d, v.takes(d.to.Incarnation))
		if travelsAsBulk(len(d.body)) {
			for _, i := range d.items {
				d.about = append(d.about, shardOf(items[i].sp.keyspace, items[i].key))
			}
		}
		d.omit = func() []byte { return n.encodeApply(items, d, 0) }
	}
	return deliveries
}

// roomFor returns the delivery to a taker in which there is room for an entry of
// some size; nil: there is none.
func roomFor(deliveries []*delivery, to taker, size int) *delivery {
	for i := len(deliveries) - 1; i >= 0; i-- {
		if d := deliveries[i]; d.to.Incarnation == to.Incarnation && d.to.former == to.former {
			if len(d.items) < maxBatchItems && d.size+size <= maxBatchBytes {
				return d
			}
			return nil
		}
	}
	return nil
}

// size is about how much of a body the entry takes.
func (it *stamped) size() int { return 96 + len(it.sp.name) + len(it.key) + len(it.entry.value) }

// deliver runs deliveries and notes what came of them in outcome. late is
// called with those to owners that are silent.
func (n *Node) deliver(ctx context.Context, deliveries []*delivery, outcome *spreadOutcome, late func(*delivery)) {
	for _, d := range deliveries {
		n.start(d)
		defer d.leave()
	}
	patience := time.NewTimer(silence)
	defer patience.Stop()
	for _, d := range deliveries {
		if !n.await(ctx, d, patience, func() time.Duration { return n.lookQuiet(deliveries, late) }) {
			continue
		}
		select {
		case <-d.done:
			for _, a := range d.above {
				if a.fault == nil {
					outcome.outrank(d.items[a.item], a)
					continue
				}
				outcome.cause = a.fault
				if !d.to.former && d.err == nil {
					outcome.miss(d.items[a.item], d.to.Member)
				}
			}
			if d.err == nil {
				continue
			}
			outcome.cause = d.err
			if errors.Is(d.err, errClock) {
				outcome.refuse(d.items)
			}
		default:
			outcome.cause = ctx.Err()
		}
		if d.to.former {
			continue
		}
		for _, i := range d.items {
			outcome.miss(i, d.to.Member)
		}
	}
}

// await waits for a delivery. It returns false when nobody has to, because the
// delivery takes long: a joiner finds out what it missed before it is read from, and
// a former owner that its time is over. look is called when patience ends, and
// returns how long that lasts then.
func (n *Node) await(ctx context.Context, d *delivery, patience *time.Timer, look func() time.Duration) bool {
	for {
		select {
		case <-d.done:
			return true
		default:
		}
		if d.quiet && d.to.former {
			return false
		}
		if m, ok := n.view.Load().find(d.to.Incarnation); d.quiet && ok && m.State == MemberJoining {
			return false
		}
		select {
		case <-d.done:
			return true
		case <-ctx.Done():
			return true
		case <-patience.C:
			patience.Reset(look())
		}
	}
}

// lookQuiet calls late with the deliveries that have made no progress for a while,
// and returns when others may be so.
func (n *Node) lookQuiet(deliveries []*delivery, late func(*delivery)) (again time.Duration) {
	again = time.Hour
	for _, d := range deliveries {
		select {
		case <-d.done:
			continue
		default:
		}
		if d.quiet {
			continue
		}
		if rest := n.peers.quietLeft(d.to.Incarnation, travelsAsBulk(len(d.body)), silence)(); rest > 0 {
			again = min(again, rest)
			continue
		}
		d.quiet = true
		if !d.to.former {
			late(d)
		}
	}
	return again
}

// start begins to bring a delivery to its owner.
func (n *Node) start(d *delivery) {
	ctx, end := context.WithCancel(n.life)
	d.end = end
	if !n.spawn(func(context.Context) { n.runDelivery(ctx, d) }) {
		d.err = ErrClosed
		close(d.done)
	}
}

// leave ends the attempts soon, when nobody waits for them any more: so that a
// silent owner does not make its peers gather what it has not confirmed. What
// it missed it gets when the two of them compare.
func (d *delivery) leave() {
	select {
	case <-d.done:
		d.end()
	default:
		time.AfterFunc(deliveryTimeout, func() { d.left.Store(true) })
	}
}

// runDelivery tries until the owner has confirmed or refused, or is known to be
// gone. A stamp that is just too far ahead for the owner's clock is brought again
// when a moment has gone by: clocks that are right differ a little, and what this
// node believes the owner will, too.
func (n *Node) runDelivery(life context.Context, d *delivery) {
	defer close(d.done)
	for began := n.clock.Elapsed(); life.Err() == nil && !d.left.Load(); {
		if _, living := n.view.Load().find(d.to.Incarnation); !living {
			return // the table without it is what counts now
		}
		reply, err := n.bring(life, d)
		switch {
		case err == nil && reply.Code == replyOK:
			d.above, d.err = n.readApplied(life, reply.Body, d)
			return
		case isGone(err):
			return
		case err == nil:
			d.err = replyFailure(reply)
			if !errors.Is(d.err, errClock) || !n.mayBelieve(d.stamp, reply.Fields.Clock, began) {
				return
			}
		case isTooLarge(err) && d.omit != nil:
			// It keeps less than this node knows.
			d.body, d.omit = d.omit(), nil
			continue
		case isFinal(err):
			d.err = finalError(d.to.Member, err)
			return
		}
		sleep(life, deliveryPause)
	}
	d.err = ErrClosed
}

// bring makes one attempt at a delivery.
func (n *Node) bring(ctx context.Context, d *delivery) (mux.Reply, error) {
	n.underway.add(d.to.Incarnation, d.about, 1)
	defer n.underway.add(d.to.Incarnation, d.about, -1)
	return n.peers.callWithin(ctx, deliveryTimeout, d.to.Member, mux.Request{Op: d.op, Body: d.body})
}

// encodeApply is the body of opApply: whether they go to a former owner, and
// entries of any caches, without those values of which there are more bytes than
// most.
func (n *Node) encodeApply(items []stamped, d *delivery, most int) []byte {
	size := 16
	for _, i := range d.items {
		size += items[i].size()
	}
	t := n.timer(0)
	b := wire.AppendBool(make([]byte, 0, size), d.to.former)
	b = wire.AppendUvarint(b, uint64(len(d.items)))
	for _, i := range d.items {
		it := &items[i]
		b = wire.AppendString(b, it.sp.name)
		b = wire.AppendString(b, it.key)
		b = wire.AppendUint64(b, it.op)
		b = wire.AppendUvarint(b, it.number)
		e := omitted(it.entry, most)
		b = t.appendEntry(b, &e)
	}
	return b
}

// serveApply takes entries that another owner has stamped or loaded. The reply
// names those of which this node holds something later. When the sender sees
// other tables, writes go on to those owners that it may not know of yet: this
// node may have given them their copy before the write.
func (n *Node) serveApply(ctx context.Context, from mux.Identity, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	t := n.timer(from.Incarnation)
	former, count := r.Bool(), r.Count(maxBatchItems, 20)
	var higher []byte
	var highers uint64
	var news []stamped
	for i := range count {
		cache, key := r.String(maxCacheName), r.String(maxKeyBytes)
		it := stamped{key: key, op: r.Uint64(), number: r.Uvarint(), entry: t.readEntry(&r)}
		if r.Err() != nil {
			break
		}
		var err error
		if it.sp, err = n.store.space(cache); err != nil {
			return errorReply(err)
		}
		if !n.hlc.accept(it.entry.order.latest()) {
			return errorReply(n.clockFault(memberOf(from), it.entry.order.latest()))
		}
		held, applied := n.applyFrom(&it, former)
		if applied && it.op != 0 && n.operations.applied(it.op, it.entry.order.w) {
			news = append(news, it)
		}
		if !applied && (it.op != 0 || held.floor) {
			highers++
			higher = wire.AppendUvarint(higher, uint64(i))
			higher = wire.AppendBool(higher, held.entry)
			higher = appendOrder(higher, held.order)
		}
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	if len(news) > 0 && req.Fields.Digest != n.view.Load().digest {
		sent := make(sentTo)
		for i := range news {
			sent.note(from.Incarnation, i, true)
		}
		n.deliver(ctx, n.deliveriesFor(news, sent), new(spreadOutcome), func(*delivery) {})
	}
	return mux.Reply{Body: append(wire.AppendUvarint(nil, highers), higher...)}
}

// applyFrom applies what its stamper, or who loaded it, sent; former if to a
// former owner.
func (n *Node) applyFrom(it *stamped, former bool) (held standing, applied bool) {
	shard := shardOf(it.sp.keyspace, it.key)
	n.handoff.keepForAWhile(shard, it.sp, it.key, former)
	held, applied, err := n.applyStaged(it.sp, it.key, it.op, it.entry)
	if err != nil && !errors.Is(err, errClock) {
		// It cannot be held here, where there is less memory than at its
		// stamper, or smaller values are kept: it is as good as evicted.
		n.store.forgo(it.sp, it.key, it.entry.order)
		applied = true
	}
	// What a floor or a stage keeps out comes again with a later stamp, or its
	// stamper dies: then it is missing here.
	if applied || held.entry && held.order.compare(it.entry.order) >= 0 {
		n.handoff.cameMeanwhile(shard, it.sp, it.key, it.entry.order.v.incarnation, it.number)
		n.vectors.saw(shard, it.entry.order.v.incarnation, it.number)
	}
	return held, applied
}

// readApplied reads the reply to opApply and moves the clock past what the
// other owner holds.
func (n *Node) readApplied(ctx context.Context, body []byte, d *delivery) (above []outranked, err error) {
	r := wire.NewReader(body)
	for range r.Count(len(d.items), 19) {
		a := outranked{item: int(r.Uvarint()), at: d.to.Member, entry: r.Bool(), by: readOrder(&r)}
		if a.item >= len(d.items) {
			return nil, errors.New("peercache: reply to opApply names an entry that was not sent")
		}
		if !n.acceptSoon(ctx, a.by.latest()) {
			a.fault = n.clockFault(n.stamperOf(a.by), a.by.latest())
		}
		above = append(above, a)
	}
	return above, r.End()
}
