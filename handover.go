package peercache

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/peercache/peercache/internal/mux"
)

// handOver waits until every other member that will own what this node owns
// holds it. The node has announced that it is leaving.
func (h *handoff) handOver(ctx context.Context) error {
	ctx, cancel := whileMoving(ctx, handOverTime, handOverTime+slowTime(int(h.n.store.lru.Bytes())), h.outgoing)
	defer cancel()
	var wait sync.WaitGroup
	members := h.n.peers.members()
	errs := make([]error, len(members))
	for i, m := range members {
		wait.Go(func() { errs[i] = h.askSettled(ctx, m) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// outgoing grows while others copy from here.
func (h *handoff) outgoing() int64 {
	moved := h.sent.Load()
	if h.sending.Load() > 0 { // a large page takes its time on a slow link
		moved += h.n.inbound.bulkSent()
	}
	return moved
}

// incoming grows while this node copies from others.
func (h *handoff) incoming() int64 {
	moved := h.received.Load()
	for _, r := range h.n.peers.all() {
		if conn := r.bulk.live.Load(); conn != nil {
			moved += conn.Stats().BytesIn
		}
	}
	return moved
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
		case err == nil && reply.Code != replySame:
			return fmt.Errorf("peercache: %s has not taken over all shards: %w", m, replyFailure(reply))
		case isFinal(err):
			return fmt.Errorf("peercache: %s has not taken over all shards: %w", m, err)
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
