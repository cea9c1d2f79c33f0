package peercache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// A process that was stopped goes on with the table that it had. The others may
// have taken it out, and have written to those who stood in for it; and nothing
// on its side tells so. What follows is how it finds back.

// stale marks all shards that this node owns as perhaps outdated, and returns
// the number of the pause.
func (h *handoff) stale() (pause uint64) {
	h.resumed.Store(int64(h.n.clock.Elapsed()))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.alone.Store(true) // first: who finds a shard stale is to wait
	h.pauses++
	v := h.n.view.Load()
	for shard := range shardCount {
		if v.holds(h.n.incarnation, shard) {
			h.state[shard].CompareAndSwap(shardFilled, shardStale)
			h.fillLocked(shard, filling{all: true, absent: true, away: true})
		}
	}
	return h.pauses
}

// reunited waits while the others are asked for after a pause.
func (h *handoff) reunited(ctx context.Context) {
	for h.alone.Load() {
		met := h.met.next()
		if !h.alone.Load() {
			return
		}
		select {
		case <-met: // perhaps of an earlier pause
		case <-ctx.Done():
			return
		case <-h.n.life.Done():
			return
		}
	}
}

// reunite waits after a pause until this node and all others see the same
// owners: until then what is written goes to others, who may be members that
// this node has not heard of. It does not notice by itself that it was taken out
// of the tables, for its own has not changed. before are those who were members
// by its end.
func (h *handoff) reunite(ctx context.Context, pause uint64, before []uint64) {
	ctx, cancel := context.WithTimeout(ctx, reuniteTime)
	defer cancel()
	if h.agree(ctx) {
		// Whoever comes first may know nothing of a key. The owner that does
		// comes moments later, unless it died meanwhile.
		ctx, cancel := context.WithTimeout(ctx, reuniteRest)
		defer cancel()
		h.awaitView(ctx, func(v *view) bool {
			return !slices.ContainsFunc(before, func(incarnation uint64) bool {
				_, back := v.find(incarnation)
				return !back
			})
		})
	}
	h.mu.Lock()
	if h.pauses == pause { // else there was another one, which is waited for by itself
		h.alone.Store(false)
	}
	h.mu.Unlock()
	h.met.fire()
	h.wakeUp()
}

// agree waits until all members that live see the table that this node sees.
// It returns false when ctx has ended, or when there is nobody.
func (h *handoff) agree(ctx context.Context) bool {
	d := h.n.discovery
	joined, asked := d.joined.Load(), make(chan struct{})
	if !h.n.spawn(func(life context.Context) {
		defer close(asked)
		d.round(life)
	}) {
		return false
	}
	unasked := asked
	for ctx.Err() == nil {
		changed := h.n.viewSignal.next()
		v := h.n.view.Load()
		others, agreed := h.agreed(ctx, v)
		if others && agreed {
			return true
		}
		if !others && unasked == nil && d.joined.Load() == joined {
			return false
		}
		again := time.NewTimer(pauseBeat)
		select {
		case <-changed:
		case <-unasked:
			unasked = nil
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
	}
	return false
}

// agreed reports whether there are other members in a view, and whether all of
// them see its table. Those that are gone have no say.
//
//  1. This process is stopped. 2. All others are replaced, one by one. 3. It
//     goes on, and has a table of members who are gone.
//
// Nobody disagrees then, and those who know better are still to be found.
func (h *handoff) agreed(ctx context.Context, v *view) (others, agreed bool) {
	ctx, cancel := context.WithTimeout(ctx, coOwnersTime)
	defer cancel()
	var differ, living atomic.Bool
	var wait sync.WaitGroup
	for _, m := range v.members {
		if m.Incarnation == h.n.incarnation {
			continue
		}
		wait.Go(func() {
			reply, err := h.n.peers.call(ctx, m.Member, mux.Request{Op: opPing}, nil)
			if isGone(err) {
				return
			}
			living.Store(true)
			if err != nil || reply.Fields.Digest != v.digest {
				differ.Store(true)
				cancel()
			}
		})
	}
	wait.Wait()
	return living.Load(), !differ.Load()
}

// awaitView waits for a view that something holds of.
func (h *handoff) awaitView(ctx context.Context, holds func(*view) bool) {
	for ctx.Err() == nil {
		changed := h.n.viewSignal.next()
		if holds(h.n.view.Load()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// wasAway reports whether a shard is to be filled since this node was paused, a
// moment ago.
func (h *handoff) wasAway(shard int) bool {
	f := h.fillingOf(shard)
	return f != nil && f.away && h.sinceResumed() <= reuniteTime
}

// sinceResumed returns how long ago the last pause ended.
func (h *handoff) sinceResumed() time.Duration {
	return h.n.clock.Elapsed() - time.Duration(h.resumed.Load())
}
