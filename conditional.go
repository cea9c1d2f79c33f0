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

// Conditional writes are decided by the first owner of the view alone. It
// asks the others whether they agree on who that is and hold nothing later
// than the base; who agrees stages the version to come, so that a write
// stamped elsewhere meanwhile goes past it. Then the write is committed as any
// other is.

const (
	stageTime   = 10 * time.Second // a stage that nobody committed is forgotten after that
	maxStages   = 1 << 14
	prepareTime = time.Second
)

// stages are the conditional writes that this node was asked to confirm, by
// key, and the turns of those that it decides itself.
type stages struct {
	now func() time.Duration

	mu     sync.Mutex
	staged map[flightKey]stage         // guarded by mu
	turns  map[flightKey]chan struct{} // guarded by mu; closed when the turn is over
}

type stage struct {
	op      uint64
	version Version // the version to come
	until   time.Duration
}

func newStages(now func() time.Duration) *stages {
	return &stages{now: now, staged: make(map[flightKey]stage), turns: make(map[flightKey]chan struct{})}
}

// turn waits until no other conditional write of the key is being decided
// here. The caller ends its turn with the function returned.
func (s *stages) turn(ctx context.Context, key flightKey) (end func(), err error) {
	for {
		s.mu.Lock()
		other := s.turns[key]
		if other == nil {
			mine := make(chan struct{})
			s.turns[key] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.turns, key)
				s.mu.Unlock()
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// put stages a version in place of any other: the key's first owner decides
// one write after the other, so an earlier one is over. It returns false when
// too many are staged.
func (s *stages) put(key flightKey, st stage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if len(s.staged) >= maxStages {
		for k, old := range s.staged {
			if old.until <= now {
				delete(s.staged, k)
			}
		}
		if len(s.staged) >= maxStages {
			return false
		}
	}
	st.until = now + stageTime
	s.staged[key] = st
	return true
}

// bars returns the staged version that an entry must go past, if there is one
// above it that is not its own. What the key's first owner has stamped itself
// need not: it knew of that when it decided.
func (s *stages) bars(key flightKey, op uint64, e *entry) (Version, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.staged) == 0 {
		return Version{}, false
	}
	st, ok := s.staged[key]
	if !ok || st.until <= s.now() || st.op == op || st.version.incarnation == e.order.w.incarnation || !e.order.isWrite() || e.order.w.Compare(st.version) > 0 {
		return Version{}, false
	}
	return st.version, true
}

// end forgets what an operation staged.
func (s *stages) end(key flightKey, op uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st, ok := s.staged[key]; ok && st.op == op {
		delete(s.staged, key)
	}
}

// applyStaged is store.apply for what a stamper sent: a write below a version
// that is staged has to go past it.
func (n *Node) applyStaged(sp *space, key string, op uint64, e entry) (held standing, applied bool, err error) {
	k := flightKey{sp.id, key}
	if bar, ok := n.stages.bars(k, op, &e); ok {
		return standing{order: order{bar, bar}}, false, nil
	}
	held, applied, err = n.store.apply(sp, key, e, fromRequest)
	if op != 0 {
		n.stages.end(k, op)
	}
	return held, applied, err
}

// stampConditional decides a conditional write and brings it to all owners.
func (n *Node) stampConditional(ctx context.Context, sp *space, w *write) {
	shard := shardOf(sp.keyspace, w.key)
	pauses := n.pauses.look()
	key := flightKey{sp.id, w.key}
	endTurn, err := n.stages.turn(ctx, key)
	if err != nil {
		w.err = err
		return
	}
	defer endTurn()
	if !n.handoff.settle(ctx, sp, w.key, shard) && ctx.Err() != nil {
		w.err = ctx.Err()
		return
	}
	if n.view.Load().place(n.incarnation, shard) != 0 {
		w.err = errElsewhere
		return
	}
	w.err = n.decide(ctx, sp, w, pauses)
}

var (
	// errBehind says that another owner holds something later than this node.
	errBehind = fmt.Errorf("%w: another owner holds a later version", ErrConflict)
	// errChanged says that what this node holds of a key is not what it was when
	// the condition was looked at.
	errChanged = errors.New("peercache: the key was written meanwhile")
)

// decide looks at a write's condition and commits it, unless this process was
// stopped since there were so many pauses. The condition is about the key's
// value, or that there is none, and not about how that came to be: when the key
// was written meanwhile the condition is looked at again.
//
//  1. A key is absent, and is to be written if it is. 2. It is deleted, while
//     the other owners are asked. 3. It is still absent.
func (n *Node) decide(ctx context.Context, sp *space, w *write, pauses uint64) error {
	for copied, round := false, 0; ; round++ {
		if round > maxRestamps {
			sleep(ctx, busyPause)
		}
		clock := n.hlc.read()
		base, err := n.decideOnce(ctx, sp, w, pauses)
		behind := errors.Is(err, errBehind)
		if errors.Is(err, errClock) && n.hlc.read() < clock {
			continue // it was ahead, and has been set right
		}
		switch {
		case ctx.Err() != nil && (behind || err == errChanged):
			return ctx.Err()
		case err == errChanged:
		case !behind:
			return err
		case n.store.presence(sp, w.key).order != base: // what the other owner holds has come here by now
		case !copied:
			// Something did not reach this node, a copy of a load say. The condition
			// may be about that.
			n.copyFromCoOwners(ctx, sp, w.key, true)
			copied = true
		default:
			return err
		}
	}
}

// decideOnce is decide for what this node holds of the key at the moment. base
// is the order of that.
func (n *Node) decideOnce(ctx context.Context, sp *space, w *write, pauses uint64) (base order, err error) {
	e := n.entryOfWrite(w)
	base, ok := n.meetsCondition(sp, w, &e)
	if !ok && w.base.Compare(base.v) > 0 {
		return base, errBehind
	}
	if !ok {
		return base, ErrConflict
	}
	n.acceptSoon(ctx, base.latest())
	stamp := n.hlc.next()
	e.order = order{stamp, stamp}
	if err := n.prepare(ctx, sp, w, base, stamp); err != nil {
		return base, err
	}
	if n.pauses.look() != pauses {
		return base, errEarly // the others confirmed it a while ago, and decide by themselves since
	}
	// A plain write may have come since the condition was looked at.
	held, applied, err := n.store.applyOn(sp, w.key, e, fromRequest, &base)
	if err != nil {
		return base, err
	}
	if !applied {
		if !n.hlc.accept(held.order.latest()) && held.order == base {
			return base, n.clockFault(n.stamperOf(held.order), held.order.latest())
		}
		return base, errChanged
	}
	w.version = stamp
	number := n.vectors.number(shardOf(sp.keyspace, w.key))
	return base, n.spread(ctx, []stamped{{sp: sp, key: w.key, op: w.op, number: number, entry: e}}).errorOf(0)
}

// meetsCondition reports whether the key's version is the write's base, and
// the order of what is held. With keepTTL, e gets the expiry of that.
func (n *Node) meetsCondition(sp *space, w *write, e *entry) (base order, ok bool) {
	old, held := n.store.peek(sp, w.key)
	if held && old.there() {
		if w.keepTTL {
			e.expires = old.expires
		}
		return old.order, old.version() == w.base
	}
	// Absent: deleted, expired, remembered as absent, or never there.
	return n.store.presence(sp, w.key).order, w.base.IsZero()
}

// version is the version of an entry as callers see it: that of a write is
// its stamp, that of a load when it began.
func (e *entry) version() Version { return e.order.v }

// prepare asks the other owners to confirm a conditional write. It fails with
// ErrConflict when one holds something later than the base, with errEarly when
// one sees another first owner, and with ErrUnavailable when one may be living
// and does not answer.
func (n *Node) prepare(ctx context.Context, sp *space, w *write, base order, stamp Version) error {
	var wait sync.WaitGroup
	holders := n.view.Load().holdersOf(shardOf(sp.keyspace, w.key))
	holders = slices.DeleteFunc(holders, func(m Member) bool { return m.Incarnation == n.incarnation })
	errs := make([]error, len(holders))
	body := encodePrepare(sp, w, base, stamp)
	for i, m := range holders {
		wait.Go(func() { errs[i] = n.prepareAt(ctx, m, body, stamp) })
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) prepareAt(ctx context.Context, m Member, body []byte, stamp Version) error {
	for began := n.clock.Elapsed(); ; {
		if _, living := n.view.Load().find(m.Incarnation); !living {
			return nil
		}
		attempt, cancel := context.WithTimeout(ctx, prepareTime)
		reply, err := n.peers.call(attempt, m, mux.Request{Op: opPrepare, Body: body}, nil)
		cancel()
		switch {
		case err == nil && reply.Code == replyOK:
			return nil
		case err == nil && reply.Code == replyNotOwner:
			return errEarly
		case err == nil:
			r := wire.NewReader(reply.Body)
			if e := readError(&r); errors.Is(e, ErrConflict) {
				return errBehind
			} else if errors.Is(e, errClock) && n.mayBelieve(stamp.time, reply.Fields.Clock, began) {
				break // it comes again
			} else if e != nil {
				return e
			}
			return fmt.Errorf("%w: %s does not confirm: %s", ErrUnavailable, m, replyText(reply.Code))
		case isGone(err):
			return nil
		case n.life.Err() != nil:
			return ErrClosed
		case isFinal(err):
			return finalError(m, err)
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %s does not confirm: %w", ErrUnavailable, m, ctx.Err())
		}
		sleep(ctx, deliveryPause)
	}
}

func encodePrepare(sp *space, w *write, base order, stamp Version) []byte {
	b := wire.AppendString(nil, sp.name)
	b = wire.AppendString(b, w.key)
	b = wire.AppendUint64(b, w.op)
	b = appendOrder(b, base)
	return appendVersion(b, stamp)
}

// servePrepare confirms a conditional write that another member decides.
func (n *Node) servePrepare(_ context.Context, from mux.Identity, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	cache, key, op := r.String(maxCacheName), r.String(maxKeyBytes), r.Uint64()
	base, stamp := readOrder(&r), readVersion(&r)
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(cache)
	if err != nil {
		return errorReply(err)
	}
	n.pauses.look()
	owners := n.view.Load().ownersOf(shardOf(sp.keyspace, key))
	if n.handoff.alone.Load() || len(owners) == 0 || owners[0].Incarnation != from.Incarnation {
		// It is not the first owner, or not for this node, which may have been
		// stopped while others came to own the key.
		return mux.Reply{Code: replyNotOwner}
	}
	if !n.hlc.accept(stamp.time) {
		return errorReply(n.clockFault(memberOf(from), stamp.time))
	}
	if !n.stages.put(flightKey{sp.id, key}, stage{op: op, version: stamp}) {
		return errorReply(fmt.Errorf("%w: too many conditional writes at once", ErrUnavailable))
	}
	// A floor says only that something at or below it was forgotten here; but
	// this node takes no write below it.
	held, bar := n.store.presence(sp, key), n.store.standing(sp, key).order.w
	if held.entry && held.order.compare(base) > 0 || bar.Compare(stamp) >= 0 && n.hlc.believes(bar.time) {
		n.stages.end(flightKey{sp.id, key}, op)
		return errorReply(ErrConflict)
	}
	return mux.Reply{}
}
