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
