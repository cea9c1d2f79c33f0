package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	deliveryTimeout = 3 * time.Second       // of one attempt to bring entries to an owner
	deliveryPause   = 20 * time.Millisecond // between two attempts
	maxRestamps     = 16
	fillDelay       = 20 * time.Millisecond // loads are sent to the replicas together, after that
	maxFillsWaiting = 4096
)

// A stamped is a write that this node has stamped, or an entry to be copied.
type stamped struct {
	sp    *space
	key   string
	op    uint64 // 0: not a write
	entry entry
}

// stamp gives writes their versions, applies them here, and brings them to
// every other owner. This node owns all their keys.
func (n *Node) stamp(ctx context.Context, sp *space, writes []*write) {
	var fresh []*write
	var known []*write
	for _, w := range writes {
		if n.operations.begin(w.op) {
			fresh = append(fresh, w)
		} else {
			known = append(known, w)
		}
	}
	var conditional, plain []*write
	for _, w := range fresh {
		if w.cond {
			conditional = append(conditional, w)
		} else {
			plain = append(plain, w)
		}
	}
	var wait sync.WaitGroup
	if len(plain) > 0 {
		wait.Go(func() { n.stampPlain(ctx, sp, plain) })
	}
	for _, w := range conditional {
		wait.Go(func() { n.stampConditional(ctx, sp, w) })
	}
	for _, w := range known {
		wait.Go(func() {
			if n.operations.await(ctx, w) {
				n.finishForStamper(ctx, sp, w)
			}
		})
	}
	wait.Wait()
	for _, w := range fresh {
		n.operations.end(w)
	}
}

// finishForStamper brings a write to the owners that its stamper may not have
// reached before it died.
func (n *Node) finishForStamper(ctx context.Context, sp *space, w *write) {
	e, ok := n.store.peek(sp, w.key)
	if !ok || e.order.w != w.version {
		return // a later write stands, here and by its own stamper elsewhere
	}
	outcome := n.spread(ctx, []stamped{{sp, w.key, w.op, e}})
	w.err = outcome.errorOf(0)
}

// stampPlain stamps writes whatever is there.
func (n *Node) stampPlain(ctx context.Context, sp *space, writes []*write) {
	items := make([]stamped, 0, len(writes))
	index := make([]*write, 0, len(writes))
	for _, w := range writes {
		e := n.entryOfWrite(w)
		if w.err = n.applyOwn(sp, w.key, &e); w.err != nil {
			continue
		}
		w.version = e.order.w
		items = append(items, stamped{sp, w.key, w.op, e})
		index = append(index, w)
	}
	for round := 0; ; round++ {
		outcome := n.spread(ctx, items)
		if len(outcome.higher) == 0 || round == maxRestamps {
			for i, w := range index {
				w.err = outcome.errorOf(i)
			}
			return
		}
		// Somebody holds something later than the stamp: move past it, or the
		// write would be acknowledged and not be there.
		for i := range outcome.higher {
			w := index[i]
			if w.err = n.applyOwn(sp, w.key, &items[i].entry); w.err == nil {
				w.version = items[i].entry.order.w
			}
		}
	}
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

// applyOwn stamps an entry and applies it here, past all that this node holds.
func (n *Node) applyOwn(sp *space, key string, e *entry) error {
	for {
		stamp := n.hlc.next()
		e.order = order{stamp, stamp}
		held, applied, err := n.store.apply(sp, key, *e, fromRequest)
		if err != nil {
			return err
		}
		if applied {
			return nil
		}
		if !n.hlc.observe(held.v.time) || !n.hlc.observe(held.w.time) {
			return fmt.Errorf("%w: the key's version is from a clock that is far ahead", ErrUnavailable)
		}
	}
}

// spreadOutcome says what became of entries that were sent to their other
// owners.
type spreadOutcome struct {
	higher  map[int]bool     // items of which some owner holds something later
	missing map[int][]Member // items that owners which may be living did not confirm
	cause   error            // why the waiting for those ended
}

func (o *spreadOutcome) errorOf(i int) error {
	if len(o.missing[i]) == 0 {
		return nil
	}
	return &PartialWriteError{Missing: o.missing[i], Err: o.cause}
}

// spread brings entries to all other owners in the current and target tables,
// and waits until every one has confirmed, refused a connection, or is in the
// view no more. When ctx ends first the rest goes on in the background.
func (n *Node) spread(ctx context.Context, items []stamped) *spreadOutcome {
	outcome := &spreadOutcome{higher: make(map[int]bool), missing: make(map[int][]Member)}
	sent := make(map[uint64]map[int]bool) // by incarnation: the items that it was sent
	for {
		// The tables are read again before the end: an owner that appeared
		// while the others were being told has not got it from anybody.
		deliveries := n.deliveriesFor(items, sent)
		if len(deliveries) == 0 {
			return outcome
		}
		n.deliver(ctx, deliveries, outcome)
		if ctx.Err() != nil {
			return outcome
		}
	}
}

// A delivery is what one owner gets of some entries.
type delivery struct {
	to    Member
	op    uint8
	items []int // which of the entries
	body  []byte
	done  chan struct{}

	higher []int // constant after done, like err: which of items it holds something later of
	err    error // nil: confirmed; or it is known not to be there
}

// deliveriesFor lists what has to be sent to whom beyond what was sent.
func (n *Node) deliveriesFor(items []stamped, sent map[uint64]map[int]bool) []*delivery {
	v := n.view.Load()
	var deliveries []*delivery
	for i := range items {
		for _, m := range v.holdersOf(shardOf(items[i].sp.keyspace, items[i].key)) {
			if m.Incarnation == n.incarnation || sent[m.Incarnation][i] {
				continue
			}
			if sent[m.Incarnation] == nil {
				sent[m.Incarnation] = make(map[int]bool)
			}
			sent[m.Incarnation][i] = true
			j := slices.IndexFunc(deliveries, func(d *delivery) bool { return d.to.Incarnation == m.Incarnation })
			if j < 0 {
				j = len(deliveries)
				deliveries = append(deliveries, &delivery{to: m, op: opApply, done: make(chan struct{})})
			}
			deliveries[j].items = append(deliveries[j].items, i)
		}
	}
	for _, d := range deliveries {
		d.body = n.encodeApply(items, d.items)
	}
	return deliveries
}

// deliver runs deliveries and notes what came of them in outcome.
func (n *Node) deliver(ctx context.Context, deliveries []*delivery, outcome *spreadOutcome) {
	for _, d := range deliveries {
		if !n.spawn(func(life context.Context) { n.runDelivery(life, d) }) {
			d.err = ErrClosed
			close(d.done)
		}
	}
	for _, d := range deliveries {
		select {
		case <-d.done:
		case <-ctx.Done():
		}
		select {
		case <-d.done:
			for _, i := range d.higher {
				outcome.higher[d.items[i]] = true
			}
			if d.err == nil {
				continue
			}
			outcome.cause = d.err
		default:
			outcome.cause = ctx.Err()
		}
		for _, i := range d.items {
			outcome.missing[i] = append(outcome.missing[i], d.to)
		}
	}
}

// runDelivery tries until the owner has confirmed or is known to be gone.
func (n *Node) runDelivery(life context.Context, d *delivery) {
	defer close(d.done)
	for life.Err() == nil {
		if _, living := n.view.Load().find(d.to.Incarnation); !living {
			return // the table without it is what counts now
		}
		ctx, cancel := context.WithTimeout(life, deliveryTimeout)
		reply, err := n.peers.call(ctx, d.to, mux.Request{Op: d.op, Body: d.body}, nil)
		cancel()
		switch {
		case err == nil && reply.Code == replyOK:
			d.higher, d.err = n.readApplied(reply.Body, len(d.items))
			return
		case isGone(err):
			return
		case err == nil && reply.Code == replyError:
			d.err = replyFailure(reply)
			return
		}
		sleep(life, deliveryPause)
	}
	d.err = ErrClosed
}

// encodeApply is the body of opApply: entries of any caches.
func (n *Node) encodeApply(items []stamped, which []int) []byte {
	size := 16
	for _, i := range which {
		size += 96 + len(items[i].key) + len(items[i].entry.value)
	}
	t := n.timer(0)
	b := wire.AppendUvarint(make([]byte, 0, size), uint64(len(which)))
	for _, i := range which {
		it := &items[i]
		b = wire.AppendString(b, it.sp.name)
		b = wire.AppendString(b, it.key)
		b = wire.AppendUint64(b, it.op)
		b = t.appendEntry(b, &it.entry)
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
	count := r.Count(maxBatchItems, 20)
	var higher []byte
	var highers uint64
	var news []stamped
	for i := range count {
		cache, key, op := r.String(maxCacheName), r.String(maxKeyBytes), r.Uint64()
		e := t.readEntry(&r)
		if r.Err() != nil {
			break
		}
		sp, err := n.store.space(cache)
		if err != nil {
			return errorReply(err)
		}
		if !n.hlc.observe(e.order.v.time) {
			return errorReply(fmt.Errorf("%w: the stamp is from a clock that is far ahead", ErrUnavailable))
		}
		held, applied, err := n.applyStaged(sp, key, op, e)
		if err != nil {
			return errorReply(err)
		}
		if op != 0 && applied && n.operations.applied(op, e.order.w) {
			news = append(news, stamped{sp, key, op, e})
		}
		if !applied && op != 0 {
			highers++
			higher = wire.AppendUvarint(higher, uint64(i))
			higher = appendOrder(higher, held)
		}
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	if len(news) > 0 && req.Fields.Digest != n.view.Load().digest {
		sent := make(map[uint64]map[int]bool)
		sent[from.Incarnation] = make(map[int]bool)
		for i := range news {
			sent[from.Incarnation][i] = true
		}
		n.deliver(ctx, n.deliveriesFor(news, sent), &spreadOutcome{higher: make(map[int]bool), missing: make(map[int][]Member)})
	}
	return mux.Reply{Body: append(wire.AppendUvarint(nil, highers), higher...)}
}

// readApplied reads the reply to opApply and moves the clock past what the
// other owner holds.
func (n *Node) readApplied(body []byte, count int) (higher []int, err error) {
	r := wire.NewReader(body)
	for range r.Count(count, 18) {
		i := int(r.Uvarint())
		held := readOrder(&r)
		if i >= count {
			return nil, errors.New("peercache: reply to opApply names an entry that was not sent")
		}
		n.hlc.observe(held.w.time)
		n.hlc.observe(held.v.time)
		higher = append(higher, i)
	}
	return higher, r.End()
}

// fills gathers what was loaded and sends it to the other owners a moment
// later, many entries together. Nobody waits for that, and nothing is sent
// twice: a copy that gets lost is loaded again, or found by the next sync.
type fills struct {
	n *Node

	mu      sync.Mutex
	waiting []stamped // guarded by mu
	timer   bool      // guarded by mu: a flush is due
}

func (f *fills) add(sp *space, key string, e entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) >= maxFillsWaiting {
		return
	}
	f.waiting = append(f.waiting, stamped{sp: sp, key: key, entry: e})
	if !f.timer {
		f.timer = f.n.spawn(f.flush)
	}
}

func (f *fills) flush(ctx context.Context) {
	sleep(ctx, fillDelay)
	f.mu.Lock()
	items := f.waiting
	f.waiting, f.timer = nil, false
	f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	for len(items) > 0 {
		size, i := 0, 0
		for ; i < len(items) && (i == 0 || size < maxBatchBytes); i++ {
			size += len(items[i].key) + len(items[i].entry.value)
		}
		f.send(ctx, items[:i])
		items = items[i:]
	}
}

func (f *fills) send(ctx context.Context, items []stamped) {
	for _, d := range f.n.deliveriesFor(items, make(map[uint64]map[int]bool)) {
		f.n.spawn(func(context.Context) {
			ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
			defer cancel()
			f.n.peers.call(ctx, d.to, mux.Request{Op: opApply, Body: d.body}, nil)
		})
	}
}
