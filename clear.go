package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// A cache is cleared shard by shard: an owner stamps a floor, drops what is
// at or below it, and brings the floor to the other owners as it would a
// write.

// clear clears a cache in all shards. Each shard's floor is stamped by the
// first of its owners that can be reached.
func (n *Node) clear(ctx context.Context, sp *space) error {
	if n.life.Err() != nil {
		return ErrClosed
	}
	pending := make(map[int]map[uint64]error, shardCount) // shard -> owners that failed
	for shard := range shardCount {
		pending[shard] = nil
	}
	var partial *PartialWriteError
	for began := n.clock.Elapsed(); len(pending) > 0; {
		n.pauses.look()
		n.handoff.reunited(ctx)
		v := n.view.Load()
		groups, err := groupToClear(v, pending)
		switch {
		case err == nil:
		case n.life.Err() != nil:
			return ErrClosed
		case n.skew.off() && errors.Is(err, errClock):
			return err
		case len(v.target.members) == 0 || n.clock.Elapsed()-began > ownersTime:
			return err
		default: // until it is known that the owners are dead
			n.awaitOther(ctx, v)
			for shard := range pending {
				pending[shard] = nil
			}
		}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for owner, g := range groups {
			wait.Go(func() {
				err := n.clearAt(ctx, g.owner, sp, g.shards)
				mu.Lock()
				defer mu.Unlock()
				if err == nil || errors.As(err, &partial) {
					for _, shard := range g.shards {
						delete(pending, shard)
					}
					return
				}
				for _, shard := range g.shards {
					if pending[shard] == nil {
						pending[shard] = make(map[uint64]error)
					}
					pending[shard][owner] = err
				}
			})
		}
		wait.Wait()
		if err := ctx.Err(); err != nil && len(pending) > 0 {
			return err
		}
	}
	if partial != nil {
		return partial
	}
	return nil
}

// groupToClear sorts shards by the owner that is to clear them: the first that
// has not failed to. When all owners of one have there are no groups.
func groupToClear(v *view, pending map[int]map[uint64]error) (groups map[uint64]*shardGroup, err error) {
	groups = make(map[uint64]*shardGroup)
	for shard, failed := range pending {
		owners := v.ownersOf(shard)
		i := slices.IndexFunc(owners, func(m Member) bool { return failed[m.Incarnation] == nil })
		if i < 0 {
			return nil, unavailable(fmt.Sprintf("no owner of shard %d clears it", shard), owners, failed)
		}
		owner := owners[i]
		if groups[owner.Incarnation] == nil {
			groups[owner.Incarnation] = &shardGroup{owner: owner}
		}
		g := groups[owner.Incarnation]
		g.shards = append(g.shards, shard)
	}
	return groups, nil
}

// clearAt lets one owner clear shards.
func (n *Node) clearAt(ctx context.Context, owner Member, sp *space, shards []int) error {
	if owner.Incarnation == n.incarnation {
		return n.stampClear(ctx, sp, shards, Version{})
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	until := Version{time: n.untilAt(owner, attemptTime)}
	reply, err := n.peers.call(ctx, owner, mux.Request{Op: opClear, Body: encodeShards(sp.name, until, shards)}, nil)
	if err != nil {
		return err
	}
	if clock := reply.Fields.Clock; reply.Code != replyOK && !n.isClock(clock) {
		return n.clockFault(owner, clock)
	}
	if reply.Code != replyOK {
		return replyFailure(reply)
	}
	r := wire.NewReader(reply.Body)
	if r.Bool() {
		return readPartial(&r)
	}
	return r.End()
}

// encodeShards is the body of opFloor, and of opClear: in place of the floor
// that has the time until which one may be stamped.
func encodeShards(cache string, floor Version, shards []int) []byte {
	b := wire.AppendString(nil, cache)
	b = appendVersion(b, floor)
	b = wire.AppendUvarint(b, uint64(len(shards)))
	for _, shard := range shards {
		b = wire.AppendUint16(b, uint16(shard))
	}
	return b
}

func (n *Node) decodeShards(body []byte) (sp *space, floor Version, shards []int, err error) {
	r := wire.NewReader(body)
	cache := r.String(maxCacheName)
	floor = readVersion(&r)
	shards = make([]int, r.Count(shardCount, 2))
	for i := range shards {
		if shards[i] = int(r.Uint16()); shards[i] >= shardCount {
			r.Fail("shard")
		}
	}
	if err := r.End(); err != nil {
		return nil, floor, nil, err
	}
	sp, err = n.store.space(cache)
	return sp, floor, shards, err
}

// serveClear clears shards that this node owns for a peer.
func (n *Node) serveClear(ctx context.Context, req mux.Request) mux.Reply {
	sp, until, shards, err := n.decodeShards(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	v := n.view.Load()
	for _, shard := range shards {
		if !v.owns(n.incarnation, shard) {
			return errorReply(fmt.Errorf("%w: not an owner of shard %d", ErrUnavailable, shard))
		}
	}
	err = n.stampClear(ctx, sp, shards, until)
	var partial *PartialWriteError
	switch {
	case errors.As(err, &partial):
		return mux.Reply{Body: appendPartial(wire.AppendBool(nil, true), partial)}
	case err != nil:
		return errorReply(err)
	default:
		return mux.Reply{Body: wire.AppendBool(nil, false)}
	}
}

// stampClear stamps one floor for shards, applies it and brings it to their
// other owners. After until, if that is not zero, it does not.
//
//  1. A Clear is on its way to a slow owner, and asked of another one. 2. That
//     one acknowledges it, and later writes are. 3. The slow one gets it.
func (n *Node) stampClear(ctx context.Context, sp *space, shards []int, until Version) error {
	if n.handoff.reunited(ctx); ctx.Err() != nil {
		return ctx.Err() // by this node's table it may reach nobody who counts
	}
	n.hearClocks(ctx, shards)
	floor := n.hlc.next()
	if !until.IsZero() && floor.time > until.time {
		return fmt.Errorf("%w: the clear: %w", ErrUnavailable, errLate)
	}
	n.clearHere(sp, floor, shards)
	sent := make(sentTo)
	for {
		groups := n.takersOfShards(shards, sent)
		if len(groups) == 0 {
			return nil
		}
		var missing []Member
		var cause error
		deliveries := make([]*delivery, 0, len(groups))
		for _, g := range groups {
			d := &delivery{to: g.to, op: opFloor, body: encodeShards(sp.name, floor, g.shards), stamp: floor.time, done: make(chan struct{})}
			deliveries = append(deliveries, d)
			n.start(d)
			defer d.leave()
		}
		patience, cancel := context.WithTimeout(ctx, silence)
		defer cancel()
		for _, d := range deliveries {
			if d.to.former {
				select {
				case <-d.done:
				case <-patience.Done():
				}
				continue
			}
			select {
			case <-d.done:
				if d.err != nil {
					missing, cause = append(missing, d.to.Member), d.err
				}
			case <-ctx.Done():
				missing, cause = append(missing, d.to.Member), ctx.Err()
			}
		}
		if errors.Is(cause, errClock) && floor.time > n.hlc.read() {
			return n.stampClear(ctx, sp, shards, until) // the clock was ahead, and has been set right
		}
		if len(missing) > 0 {
			return &PartialWriteError{Missing: missing, Err: cause}
		}
	}
}

// hearClocks asks the other holders of shards that are not filled here, so that
// the clock of this node is past theirs.
//
//  1. Another owner, whose clock is ahead, stamps a write. 2. It does not come
//     here. 3. This node stamps a Clear.
//
// The Clear would be older than the write.
func (n *Node) hearClocks(ctx context.Context, shards []int) {
	unfilled := slices.DeleteFunc(slices.Clone(shards), n.handoff.filled)
	ctx, cancel := context.WithTimeout(ctx, coOwnersTime)
	defer cancel()
	var wait sync.WaitGroup
	for _, g := range n.takersOfShards(unfilled, make(sentTo)) {
		wait.Go(func() {
			// The clock is in every reply. It may have been moved by a stamp.
			if reply, err := n.peers.call(ctx, g.to.Member, mux.Request{Op: opPing}, nil); err == nil {
				n.hlc.accept(reply.Fields.Clock)
			}
		})
	}
	wait.Wait()
}

// A takerGroup is what one member gets.
type takerGroup struct {
	to     taker
	shards []int
}

// takersOfShards lists who gets what is said of shards, and of which ones, as
// far as it was not sent to them yet.
func (n *Node) takersOfShards(shards []int, sent sentTo) (groups []*takerGroup) {
	v, now := n.view.Load(), n.clock.Now()
	for _, shard := range shards {
		for _, to := range v.takersOf(shard, now) {
			if to.Incarnation == n.incarnation || !sent.lacks(to, shard) {
				continue
			}
			sent.note(to.Incarnation, shard, !to.former)
			i := slices.IndexFunc(groups, func(g *takerGroup) bool {
				return g.to.Incarnation == to.Incarnation && g.to.former == to.former
			})
			if i < 0 {
				i = len(groups)
				groups = append(groups, &takerGroup{to: to})
			}
			groups[i].shards = append(groups[i].shards, shard)
		}
	}
	return groups
}

// serveFloor takes clear floors that another owner stamped.
func (n *Node) serveFloor(from mux.Identity, req mux.Request) mux.Reply {
	sp, floor, shards, err := n.decodeShards(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	if !n.hlc.accept(floor.time) {
		return errorReply(n.clockFault(memberOf(from), floor.time))
	}
	n.clearHere(sp, floor, shards)
	return mux.Reply{Body: wire.AppendUvarint(nil, 0)}
}

// clearHere applies a floor in shards, and drops what was derived from the
// values before.
func (n *Node) clearHere(sp *space, floor Version, shards []int) {
	cleared := make(map[int]bool, len(shards))
	for _, shard := range shards {
		if n.store.clear(sp, shard, floor) {
			cleared[shard] = true
			n.vectors.touch(shard)
		}
	}
	if len(cleared) == 0 {
		return
	}
	if f := sp.face.Load(); f != nil {
		f.forgetAll()
	}
	n.flights.detachSpace(sp.id, func(key string) bool { return cleared[shardOf(sp.keyspace, key)] })
}
