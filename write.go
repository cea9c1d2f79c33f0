package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	// attemptTime is the budget of one attempt at a write. Its owner does not
	// apply it later than that, so that after it another owner may be asked.
	attemptTime = 2500 * time.Millisecond
	// ownersTime is how long a call waits for other owners of its key while none
	// answers: who died in silence is out of all tables within three seconds, and
	// those who take over need a moment.
	ownersTime = 5 * time.Second
	busyPause  = 5 * time.Millisecond
	viewPause  = 20 * time.Millisecond // until views that differ are looked at again
	// maxReplyTime is what a reply may take on its way.
	maxReplyTime = 100 * time.Millisecond
	// writeSign is when an owner that waits for others tells who waits for it
	// that it is at it.
	writeSign = 100 * time.Millisecond
)

// A write is one key's Set or Delete on its way to an owner.
type write struct {
	key     string
	op      uint64 // the same in all attempts
	flags   uint8  // flagTombstone for a Delete
	tag     uint16
	value   []byte
	ttl     time.Duration // 0: none
	keepTTL bool          // the expiry that the key has is kept instead
	cond    bool          // only if the key's version is base
	base    Version
	until   uint64      // the clock until which an owner may stamp it for another node; 0: it is this node's
	left    func() bool // tells whether that node waits no more
	begun   *operation  // while it is stamped here

	version Version // the outcome, like err
	err     error
	early   bool             // it is asked for again after a pause: its owner has another view than this node
	lates   int              // how often in a row an owner got it too late
	tried   map[uint64]error // owners that cannot be asked for this write, by incarnation
}

var errSilent = errors.New("silent")

func newOperation() uint64 { return rand.Uint64() | 1 }

// write brings writes to the first owners of their keys that can be reached,
// and sets their outcomes. It returns when all have one.
func (n *Node) write(ctx context.Context, sp *space, writes []*write) {
	if n.life.Err() != nil {
		fail(writes, ErrClosed)
		return
	}
	if len(writes) == 0 {
		return
	}
	n.pauses.look()
	began := n.clock.Elapsed()
	most := operationTime + slowTime(sizeOf(writes))
	ownersLost := time.Duration(-1) // since when no owner has taken some of them
	defer n.failClosed(writes)
	for pending := writes; ; {
		v := n.view.Load()
		groups, early, lost := n.groupByOwner(sp, v, pending)
		pending = append(n.writeToEach(ctx, sp, groups), early...)
		if len(lost) == 0 {
			ownersLost = -1
		} else if ownersLost < 0 {
			ownersLost = n.clock.Elapsed()
		}
		if len(lost) > 0 && len(v.target.members) > 0 && n.clock.Elapsed()-ownersLost <= ownersTime && n.life.Err() == nil {
			// Others will own the keys once it is known that the owners are dead.
			n.awaitOther(ctx, v)
			pending = append(pending, n.forgetFailures(lost)...)
		}
		if len(pending) == 0 {
			return
		}
		if slices.ContainsFunc(pending, func(w *write) bool { return w.early }) {
			sleep(ctx, viewPause)
		}
		if err := ctx.Err(); err != nil {
			fail(pending, err)
			return
		}
		if n.clock.Elapsed()-began > most {
			fail(pending, fmt.Errorf("%w: the members do not agree on who owns the key", ErrUnavailable))
			return
		}
	}
}

func fail(writes []*write, err error) {
	for _, w := range writes {
		w.err = err
	}
}

// failClosed makes [ErrClosed] of what became of writes because this node was
// closed under them: all its connections are.
func (n *Node) failClosed(writes []*write) {
	if n.life.Err() == nil {
		return
	}
	for _, w := range writes {
		if errors.Is(w.err, ErrUnavailable) {
			w.err = ErrClosed
		}
	}
}

// ownerGroup is what goes to one owner in one request.
type ownerGroup struct {
	owner  Member
	writes []*write
}

// writeToEach is writeTo for several owners at once.
func (n *Node) writeToEach(ctx context.Context, sp *space, groups []ownerGroup) (again []*write) {
	if len(groups) == 1 {
		return n.writeTo(ctx, sp, groups[0].owner, groups[0].writes)
	}
	var wait sync.WaitGroup
	left := make([][]*write, len(groups))
	for i, g := range groups {
		wait.Go(func() { left[i] = n.writeTo(ctx, sp, g.owner, g.writes) })
	}
	wait.Wait()
	return slices.Concat(left...)
}

// groupByOwner sorts writes by the owner that is to stamp them: the first that
// has not failed them. A conditional write has only the first of all. Those that
// all owners in the view have failed are lost, and say why; if that was only
// because others own the key they are to be asked again.
func (n *Node) groupByOwner(sp *space, v *view, writes []*write) (groups []ownerGroup, again, lost []*write) {
	var some [4]Member
	for _, w := range writes {
		owners := v.appendMembers(some[:0], v.current, shardOf(sp.keyspace, w.key))
		if w.cond {
			owners = owners[:min(1, len(owners))]
		}
		i := n.firstToAsk(owners, w)
		if i < 0 && w.onlyElsewhere(owners) {
			again = append(again, w)
			continue
		}
		if i < 0 {
			w.err = unavailable("no owner of the key takes the write", owners, w.tried)
			lost = append(lost, w)
			continue
		}
		j := slices.IndexFunc(groups, func(g ownerGroup) bool { return g.owner.Incarnation == owners[i].Incarnation })
		if j < 0 {
			j = len(groups)
			groups = append(groups, ownerGroup{owner: owners[i]})
		}
		groups[j].writes = append(groups[j].writes, w)
	}
	return groups, again, lost
}

// forgetFailures lets all owners be asked again for writes that none took, but
// for those who may have taken them without a word. Writes that none takes because
// this node's own clock is wrong stay lost.
func (n *Node) forgetFailures(writes []*write) []*write {
	if n.skew.off() {
		writes = slices.DeleteFunc(writes, func(w *write) bool { return errors.Is(w.err, errClock) })
	}
	for _, w := range writes {
		w.err = nil
		maps.DeleteFunc(w.tried, func(_ uint64, why error) bool { return !errors.Is(why, errSilent) })
	}
	return writes
}

// onlyElsewhere reports whether all owners of a key said that others own it:
// they see a later table, and so will this node. They are then asked anew.
func (w *write) onlyElsewhere(owners []Member) bool {
	for _, m := range owners {
		if w.tried[m.Incarnation] != errElsewhere {
			return false
		}
	}
	w.early = len(owners) > 0
	w.tried = nil
	return w.early
}

// firstToAsk returns the first owner that has not failed a write, and that
// seems to be within reach if there is such a one: what is not sent to a silent
// owner cannot be applied by it later.
func (n *Node) firstToAsk(owners []Member, w *write) int {
	first := -1
	for i, m := range owners {
		if w.tried[m.Incarnation] != nil {
			continue
		}
		if m.Incarnation == n.incarnation || n.peers.healthy(m) {
			return i
		}
		if first < 0 {
			first = i
		}
	}
	return first
}

// unavailable is an error that says what no owner did, and why each did not.
func unavailable(what string, owners []Member, tried map[uint64]error) error {
	err := fmt.Errorf("%w: %s", ErrUnavailable, what)
	for _, m := range owners {
		if why := tried[m.Incarnation]; errors.Is(why, errClock) {
			err = fmt.Errorf("%w; %s: %w", err, m, why)
		} else {
			err = fmt.Errorf("%w; %s: %v", err, m, why)
		}
	}
	return err
}

// avoid notes that an owner cannot be asked.
func (w *write) avoid(m Member, why error) {
	if w.tried == nil {
		w.tried = make(map[uint64]error)
	}
	w.tried[m.Incarnation] = why
}

// writeTo lets one owner stamp writes, and returns those for which another is
// to be asked.
func (n *Node) writeTo(ctx context.Context, sp *space, owner Member, writes []*write) (again []*write) {
	if owner.Incarnation == n.incarnation {
		n.stamp(ctx, sp, writes)
		for _, w := range writes {
			switch w.err {
			case errElsewhere:
				w.avoid(owner, errElsewhere)
			case errEarly:
				w.early = true
			default:
				continue
			}
			w.err = nil
			again = append(again, w)
		}
		return again
	}
	for chunk := range chunks(writes) {
		again = append(again, n.attempt(ctx, sp, owner, chunk)...)
	}
	return again
}

// chunks cuts writes into requests of bounded size.
func chunks(writes []*write) func(yield func([]*write) bool) {
	return func(yield func([]*write) bool) {
		for len(writes) > 0 {
			size, i := 0, 0
			for ; i < len(writes) && i < maxBatchItems && (i == 0 || size+writes[i].size() <= maxBatchBytes); i++ {
				size += writes[i].size()
			}
			if !yield(writes[:i]) {
				return
			}
			writes = writes[i:]
		}
	}
}

// size is about how much of a body a write takes.
func (w *write) size() int { return 64 + len(w.key) + len(w.value) }

// sizeOf is that of several.
func sizeOf(writes []*write) (size int) {
	for _, w := range writes {
		size += w.size()
	}
	return size
}

// attempt asks one owner to stamp writes until it answered, or provably has
// not and will not.
func (n *Node) attempt(ctx context.Context, sp *space, owner Member, writes []*write) (again []*write) {
	size := sizeOf(writes)
	large := travelsAsBulk(size)
	if large {
		done, err := n.peers.turn(ctx, owner, size)
		if err != nil {
			fail(writes, err)
			return nil
		}
		defer done()
	}
	budget := attemptTime
	if deadline, ok := ctx.Deadline(); ok {
		budget = min(budget, time.Until(deadline))
	}
	// The budget bounds the silence of the owner, and when it may apply the
	// writes; once it said that it is at it, it is waited for. It is not silent
	// while large writes arrive there.
	ended, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := newQuietTimer(budget, n.peers.quietLeft(owner.Incarnation, large, budget), cancel)
	defer silent.stop()
	body := encodeWrites(sp, writes, n.untilAt(owner, budget))
	maybeSent := false
	var heard atomic.Bool
	for pause := busyPause; ; pause = min(2*pause, maxBusyPause) {
		reply, err := n.peers.call(ended, owner, mux.Request{Op: opWrite, Body: body}, func(r mux.Reply) {
			if r.Code == progressLate {
				// No other owner is asked before the time that it is given now.
				n.hlc.follow(r.Fields.Clock)
				until := n.untilAt(owner, budget)
				silent.again(budget)
				n.spawn(func(context.Context) { n.renew(ended, owner, writes[0].op, until) })
				return
			}
			heard.Store(true)
			silent.stop()
		})
		var call *mux.CallError
		var remote *mux.RemoteError
		switch {
		case err == nil:
			return n.takeOutcomes(owner, writes, reply)
		case n.life.Err() != nil:
			fail(writes, ErrClosed)
			return nil
		case errors.As(err, &remote) && !remote.Refused() || isTooLarge(err):
			fail(writes, finalError(owner, err))
			return nil
		case errors.As(err, &call) && call.Sent:
			// It may have been read. Only the owner can tell: it is asked
			// again, and knows the operation by its id.
			maybeSent = true
		}
		_, living := n.view.Load().find(owner.Incarnation)
		gone := isGone(err) || isFinal(err) || writes[0].cond && !living // another owner may know the operation
		// Only the first owner decides a conditional write: there is no other
		// to ask, and a connection that failed is made again.
		if (gone || !maybeSent && remote == nil && !writes[0].cond) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			for _, w := range writes {
				if w.cond && maybeSent {
					w.err = fmt.Errorf("%w: %s died with the write; whether it was applied is not known", ErrUnavailable, owner)
					continue
				}
				w.avoid(owner, err)
				again = append(again, w)
			}
			return again
		}
		if ended.Err() != nil {
			if ctx.Err() == nil {
				n.peers.suspect(owner)
			}
			for _, w := range writes {
				if w.cond {
					w.err = fmt.Errorf("%w: %s is silent", ErrUnavailable, owner)
					continue
				}
				w.avoid(owner, fmt.Errorf("%w for %v", errSilent, budget))
				again = append(again, w)
			}
			return again
		}
		if heard.Swap(false) {
			silent.again(budget) // what it said before is of no use any more
		}
		sleep(ended, pause)
	}
}

// takeOutcomes sets what an owner answered.
func (n *Node) takeOutcomes(owner Member, writes []*write, reply mux.Reply) (again []*write) {
	r := wire.NewReader(reply.Body)
	if reply.Code != replyOK || r.Count(maxBatchItems, 1) != len(writes) {
		fail(writes, fmt.Errorf("%w: %s answers a write: %s", ErrUnavailable, owner, replyText(reply.Code)))
		return nil
	}
	for _, w := range writes {
		w.early = false
		lates := w.lates
		w.lates = 0
		switch kind := r.Byte(); kind {
		case outcomeDone:
			w.version = readVersion(&r)
		case outcomePartial:
			w.version = readVersion(&r)
			w.err = readPartial(&r)
		case outcomeElsewhere:
			w.avoid(owner, errElsewhere)
			again = append(again, w)
		case outcomeLate:
			again = append(again, w)
			if clock := reply.Fields.Clock; !n.isClock(clock) {
				w.avoid(owner, n.clockFault(owner, clock))
				continue
			}
			w.lates = lates + 1
			w.early = lates > 0 // the first time it was because of its clock, which is known now
		case outcomeEarly:
			w.early = true
			again = append(again, w)
		default:
			if w.err = readError(&r); w.err == nil {
				w.err = fmt.Errorf("%w: %s answers a write with outcome %d", ErrUnavailable, owner, kind)
			}
		}
	}
	if r.End() != nil {
		fail(writes, fmt.Errorf("%w: %s answers a write with something malformed", ErrUnavailable, owner))
		return nil
	}
	return again
}

// Outcomes of one write in the reply to opWrite. The numbers are fixed for
// ever.
const (
	outcomeDone      uint8 = iota + 1 // its version follows
	outcomePartial                    // its version and the missing members follow
	outcomeElsewhere                  // this node does not own the key
	outcomeError                      // an error follows
	outcomeLate                       // not applied: this node's clock is past the time in which it may be
	outcomeEarly                      // not applied: this node and the sender, or another owner, see different tables
)

const (
	writeKeepTTL = 1 << iota
	writeConditional
)

func encodeWrites(sp *space, writes []*write, until uint64) []byte {
	b := wire.AppendString(make([]byte, 0, 64+sizeOf(writes)), sp.name)
	b = wire.AppendUint64(b, until)
	b = wire.AppendUvarint(b, uint64(len(writes)))
	for _, w := range writes {
		var options uint8
		if w.keepTTL {
			options |= writeKeepTTL
		}
		if w.cond {
			options |= writeConditional
		}
		b = wire.AppendByte(b, options)
		b = wire.AppendUint64(b, w.op)
		b = wire.AppendString(b, w.key)
		b = wire.AppendByte(b, w.flags)
		b = wire.AppendUint16(b, w.tag)
		b = wire.AppendDuration(b, w.ttl)
		if w.cond {
			b = appendVersion(b, w.base)
		}
		b = wire.AppendBytes(b, w.value)
	}
	return b
}

func decodeWrites(body []byte) (cache string, until uint64, writes []*write, err error) {
	r := wire.NewReader(body)
	cache, until = r.String(maxCacheName), r.Uint64()
	writes = make([]*write, r.Count(maxBatchItems, 14))
	for i := range writes {
		options := r.Byte()
		w := &write{keepTTL: options&writeKeepTTL != 0, cond: options&writeConditional != 0}
		w.op, w.key, w.flags, w.tag, w.ttl = r.Uint64(), r.String(maxKeyBytes), r.Byte()&flagTombstone, r.Uint16(), r.Duration()
		if w.cond {
			w.base = readVersion(&r)
		}
		w.value = r.Bytes(maxValueLimit)
		writes[i] = w
	}
	return cache, until, writes, r.End()
}

// serveWrite stamps writes for a peer.
func (n *Node) serveWrite(ctx context.Context, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	cache, until, writes, err := decodeWrites(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(cache)
	if err != nil {
		return errorReply(err)
	}
	sp.count.serverRequests.Add(1)
	// 1. The sender gave up on this node and asked another one, whose write
	// was overwritten since. 2. This node goes on, with the frame of before.
	// It must not apply it then.
	// What it applied before then it knows by its id, and answers for.
	known := slices.ContainsFunc(writes, func(w *write) bool { return n.operations.knows(w.op) })
	if n.hlc.read() > until && !overCalls(ctx) && !known && len(writes) > 0 {
		until = max(until, n.askRenewal(ctx, writes[0].op, progress))
	}
	late := n.hlc.read() > until
	left := func() bool { return ctx.Err() != nil }
	sign := time.AfterFunc(writeSign, func() { progress(mux.Reply{Code: progressLoading}) })
	defer sign.Stop()
	v := n.view.Load()
	var mine []*write
	for _, w := range writes {
		switch tooLarge := n.checkWrite(w.key, w.value); {
		case tooLarge != nil:
			w.err = tooLarge // its sender knows other members
		case late && !n.operations.knows(w.op):
			w.err = errLate
		case !v.owns(n.incarnation, shardOf(sp.keyspace, w.key)):
			w.err = errElsewhere
		case w.cond && req.Fields.Digest != v.digest && !n.operations.knows(w.op):
			// 1. This node was cut off or paused, and sees itself alone. 2. The
			// others have another first owner by now. 3. Somebody asks this one
			// still. Both would decide.
			w.err = errEarly
		default:
			w.until, w.left = until, left
			mine = append(mine, w)
		}
	}
	stamping, cancel := n.stamping(ctx, len(req.Body))
	defer cancel()
	n.stamp(stamping, sp, mine)
	return writeReply(writes)
}

// late reports whether the node that sent a write may have asked another owner
// to stamp it.
func (w *write) late(now uint64) bool { return w.until != 0 && now > w.until }

// stamping returns the context of writes, of some size, that are stamped for a peer: a broken
// connection does not end them, for the peer asks again, and they end early
// enough for the reply to be there before the peer's caller gives up.
func (n *Node) stamping(ctx context.Context, size int) (context.Context, context.CancelFunc) {
	left := operationTime + slowTime(size)
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), left-min(left/8, maxReplyTime))
	stop := context.AfterFunc(n.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

var (
	errElsewhere = errors.New("peercache: not an owner in its own table")
	errLate      = errors.New("peercache: the write came too late")
	errEarly     = errors.New("peercache: the sender, or another owner, sees another table")
)

func writeReply(writes []*write) mux.Reply {
	b := wire.AppendUvarint(nil, uint64(len(writes)))
	for _, w := range writes {
		var partial *PartialWriteError
		switch {
		case w.err == nil:
			b = appendVersion(wire.AppendByte(b, outcomeDone), w.version)
		case errors.As(w.err, &partial):
			b = appendVersion(wire.AppendByte(b, outcomePartial), w.version)
			b = appendPartial(b, partial)
		case errors.Is(w.err, errLate):
			b = wire.AppendByte(b, outcomeLate)
		case errors.Is(w.err, errEarly):
			b = wire.AppendByte(b, outcomeEarly)
		case errors.Is(w.err, errElsewhere):
			b = wire.AppendByte(b, outcomeElsewhere)
		default:
			b = appendError(wire.AppendByte(b, outcomeError), w.err)
		}
	}
	return mux.Reply{Body: b}
}

func appendPartial(b []byte, e *PartialWriteError) []byte {
	b = wire.AppendUvarint(b, uint64(len(e.Missing)))
	for _, m := range e.Missing {
		b = wire.AppendUint64(b, m.Incarnation)
		b = wire.AppendString(b, m.Name)
		b = wire.AppendString(b, m.Addr)
	}
	return wire.AppendString(b, clip(e.Err.Error()))
}

func readPartial(r *wire.Reader) *PartialWriteError {
	e := &PartialWriteError{Missing: make([]Member, r.Count(2*maxCopies, 10))}
	for i := range e.Missing {
		e.Missing[i] = Member{Incarnation: r.Uint64(), Name: r.String(maxNameBytes), Addr: r.String(maxAddrBytes)}
	}
	e.Err = &remoteError{nil, r.String(maxErrorText)}
	return e
}
