package peercache

import (
	"context"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// A write may be stamped until a time that its sender names, so that another owner
// can be asked after that. What is large may take longer to arrive. Its sender
// waits, as bytes flow; but these may have lain in a buffer since it gave up. So the
// owner asks, and the sender that still waits names another time.

// renewals are the large writes here that came late, and whose sender was asked.
type renewals struct {
	mu   sync.Mutex
	byOp map[uint64]chan uint64 // guarded by mu; by the id of a request's first write; each gets one time
}

// askRenewal asks the sender of a large write that came late until when it may be
// stamped, and returns that, or 0.
func (n *Node) askRenewal(ctx context.Context, op uint64, progress func(mux.Reply) bool) (until uint64) {
	answer := make(chan uint64, 1)
	r := &n.renewals
	r.mu.Lock()
	if r.byOp == nil {
		r.byOp = make(map[uint64]chan uint64)
	}
	r.byOp[op] = answer
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.byOp[op] == answer {
			delete(r.byOp, op)
		}
	}()
	late := mux.Reply{Code: progressLate}
	n.sign(&late)
	if !progress(late) {
		return 0
	}
	timer := time.NewTimer(attemptTime)
	defer timer.Stop()
	select {
	case until = <-answer:
	case <-timer.C:
	case <-ctx.Done():
	}
	return until
}

// renew tells an owner until when it may stamp a write.
func (n *Node) renew(ctx context.Context, owner Member, op, until uint64) {
	n.peers.call(ctx, owner, mux.Request{Op: opRenew, Body: wire.AppendUint64(wire.AppendUint64(nil, op), until)}, nil)
}

// serveRenew takes the answer of a write's sender.
func (n *Node) serveRenew(req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	op, until := r.Uint64(), r.Uint64()
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	n.renewals.mu.Lock()
	defer n.renewals.mu.Unlock()
	answer := n.renewals.byOp[op]
	if answer == nil {
		return mux.Reply{Code: replyAbsent}
	}
	delete(n.renewals.byOp, op)
	answer <- until
	return mux.Reply{}
}
