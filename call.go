package peercache

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const maxBusyPause = 100 * time.Millisecond // between two attempts to ask a member that has too much to do

// Bounds on the requests under way from this node. Those that a node makes to
// answer somebody else's are not held up by them: they are bounded by what
// they answer, and two nodes must not wait for each other.
const (
	maxCallsPerPeer = 2048
	maxCallsPerNode = 8192
	fairCalls       = 64 // to one peer, whatever is under way to others
)

// maxLoadSaid bounds what a peer can say of its load.
const maxLoadSaid = 1 << 20

// mayWait reports whether a request waits when too many are under way.
func mayWait(op uint8) bool {
	switch op {
	case opGet, opGetMany, opWrite, opClear:
		return true
	default:
		return false
	}
}

// A nestedKey marks the contexts of requests that are made to answer others'.
// Its value is the purpose of the connection over which that came.
type nestedKey struct{}

// nested returns a context whose requests never wait for others of this node.
func nested(ctx context.Context, purpose mux.Purpose) context.Context {
	return context.WithValue(ctx, nestedKey{}, purpose)
}

// overCalls reports whether ctx is of a request that came over a connection
// for calls, where large values are not to travel.
func overCalls(ctx context.Context) bool { return ctx.Value(nestedKey{}) == mux.PurposeCalls }

// enter waits until a request to r may be made. The caller leaves in the end.
func (p *peers) enter(ctx context.Context, r *peer, op uint8) error {
	if p.gate.wait.Load() == 0 && p.gate.try() {
		if r.gate.wait.Load() == 0 && r.gate.try() {
			return nil
		}
		p.gate.leave()
	}
	return p.enterSlowly(ctx, r, op)
}

func (p *peers) enterSlowly(ctx context.Context, r *peer, op uint8) error {
	if !mayWait(op) || ctx.Value(nestedKey{}) != nil {
		r.gate.force()
		p.gate.force()
		return nil
	}
	if err := r.gate.enter(ctx); err == errTurnedAway {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %d requests to %s are under way: %w", ErrUnavailable, maxCallsPerPeer, r.addr, err)
	}
	if r.gate.inside() <= fairCalls {
		p.gate.force()
		return nil
	}
	if err := p.gate.enter(ctx); err != nil {
		r.gate.leave()
		return fmt.Errorf("%w: %d requests to others are under way: %w", ErrUnavailable, maxCallsPerNode, err)
	}
	return nil
}

func (p *peers) leave(r *peer) {
	r.gate.leave()
	p.gate.leave()
}

// stamp fills in what every request says of this node.
func (p *peers) stamp(req *mux.Request) {
	req.Fields.Clock = p.n.hlc.read()
	req.Fields.Digest = p.n.view.Load().digest
}

// answered notes what an answer says of its sender.
func (p *peers) answered(r *peer, op uint8, reply *mux.Reply) {
	if op <= opGet && !reply.Interim { // else it took the time of a load
		r.health.observe(reply.Took)
	}
	if load := reply.Fields.Load; load > 0 {
		r.health.load.Store(int64(min(load-1, maxLoadSaid)))
	}
	p.heardClock(r, reply.Fields.Clock)
}

// heardClock notes what a peer's clock shows now.
func (p *peers) heardClock(r *peer, reading uint64) {
	p.n.hlc.follow(reading)
	r.lead.Store(int64(reading>>counterBits) - p.n.clock.Elapsed().Milliseconds())
}

// clockOf returns what a member's clock shows now at least, as far as is known
// from its answers.
func (p *peers) clockOf(m Member) (reading uint64, known bool) {
	r := p.find(m.Incarnation)
	if r == nil {
		return 0, false
	}
	lead := r.lead.Load()
	return uint64(max(lead+p.n.clock.Elapsed().Milliseconds(), 0)) << counterBits, lead != 0
}

// call asks a member something. told, if not nil, is called with interim
// replies.
func (p *peers) call(ctx context.Context, m Member, req mux.Request, told func(mux.Reply)) (mux.Reply, error) {
	r := p.find(m.Incarnation)
	if r == nil {
		var err error
		if r, err = p.get(m.Incarnation, m.Addr); err != nil {
			return mux.Reply{}, &mux.CallError{Err: err}
		}
	}
	if err := p.enter(ctx, r, req.Op); err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	defer p.leave(r)
	if watched(req.Op) {
		defer p.watchLink(m, len(req.Body)+len(req.Tail))()
	}
	for range routeTries {
		if reply, ok, err := p.callRouted(ctx, r, &req, told); ok {
			return reply, err
		}
		reply, err := p.callDirect(ctx, r, req, told)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return reply, err
		}
		meaning := p.lookForRefused(ctx, m, r)
		if meaning == refusedGone {
			return reply, err
		}
		if meaning == refusedHeard {
			break
		}
	}
	return mux.Reply{}, &mux.CallError{Err: fmt.Errorf("%w: %s: %w", ErrUnavailable, m, errHeard)}
}

// watched reports whether the link to a member is checked while a request takes
// long. Reads look for another owner instead, and some are meant to take long.
func watched(op uint8) bool {
	switch op {
	case opView, opPing, opGet, opGetMany, opSettled:
		return false
	default:
		return true
	}
}

// callDirect is call over the link to the member, whatever its route.
func (p *peers) callDirect(ctx context.Context, r *peer, req mux.Request, told func(mux.Reply)) (mux.Reply, error) {
	way := &r.calls
	if req.Op == opSync || travelsAsBulk(len(req.Body)+len(req.Tail)) {
		way = &r.bulk
	}
	for pause := busyPause; ; pause = min(2*pause, maxBusyPause) {
		conn, err := way.get(ctx)
		if err != nil {
			return mux.Reply{}, &mux.CallError{Err: err}
		}
		reply, err := p.callOn(ctx, conn, r, req, told)
		if !isBusy(err) || req.Op != opGet && req.Op != opGetMany {
			return reply, err
		}
		if sleep(ctx, pause); ctx.Err() != nil {
			return mux.Reply{}, &mux.CallError{Err: fmt.Errorf("%w: %s has too much to do: %w", ErrUnavailable, r.addr, ctx.Err())}
		}
	}
}

func (p *peers) callOn(ctx context.Context, conn *mux.Conn, r *peer, req mux.Request, told func(mux.Reply)) (mux.Reply, error) {
	p.stamp(&req)
	if req.Op == opGet {
		r.health.asked.Add(1)
	}
	reply, err := conn.Call(ctx, req, told)
	if err == nil {
		p.answered(r, req.Op, &reply)
		if reply.Code == replyBulk {
			return p.callBulk(ctx, r, req, told)
		}
	}
	return reply, err
}

// callBulk repeats a request to which the answer is too large for the
// connection for calls. It ends when nothing more comes; told, if not nil, hears at
// once that the answer is on its way.
func (p *peers) callBulk(ctx context.Context, r *peer, req mux.Request, told func(mux.Reply)) (mux.Reply, error) {
	if told != nil {
		told(mux.Reply{Code: progressBulk})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := newQuietTimer(bulkSilence, p.quietLeft(r.incarnation, true, bulkSilence), cancel)
	defer quiet.stop()
	conn, err := r.bulk.get(ctx)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	reply, err := conn.Call(ctx, req, func(progress mux.Reply) {
		quiet.stop() // it loads the key once more: what it held is gone
		if told != nil {
			told(progress)
		}
	})
	if quiet.struck() {
		p.suspect(Member{Incarnation: r.incarnation, Addr: r.addr})
	}
	if err == nil {
		p.heardClock(r, reply.Fields.Clock)
	}
	return reply, err
}

// isBusy reports whether err says that a member has too much to do to look at
// a request.
func isBusy(err error) bool {
	var remote *mux.RemoteError
	return errors.As(err, &remote) && remote.Code == wire.CodeBusy
}
