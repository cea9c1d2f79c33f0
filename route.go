package peercache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// Requests go to a member directly. When the link to it is cut, or answers for
// it with refusals, and another member reaches it, requests go through that
// member. So a cluster in which some links are missing works like one in which
// none is, as long as the members reach each other through maxForwards others.
// And a member whose address refuses connections is gone only if no other member
// reaches it, and if it has no connection open.

const (
	maxForwards   = 3                      // members that a request may go through
	maxAsked      = 32                     // members that are asked whether they reach another one
	routeTries    = 4                      // ways to a member that one request tries
	routeTime     = 250 * time.Millisecond // how long a link is silent that is taken for cut
	searchTime    = 500 * time.Millisecond // how long other members may take to say whether they reach one
	linkPatience  = 50 * time.Millisecond  // how long a ping over a link in doubt has before others are asked
	routeCheck    = 500 * time.Millisecond // how often a link that is cut is tried
	refusedHolds  = 250 * time.Millisecond // how long nobody else is asked again about a member that refuses
	packetTimeout = time.Second            // of a packet of gossip that goes through another member
)

// A route is how requests reach a peer. It may be used concurrently.
type route struct {
	through atomic.Pointer[Member] // the member that requests go through; nil: they go directly
	heard   atomic.Int64           // clock.Elapsed when an answer last came that way; 0: never

	mu       sync.Mutex
	checking bool          // guarded by mu; a goroutine looks after the link
	refused  time.Duration // guarded by mu; clock.Elapsed when it was found out what a refusal means; 0: never
	meaning  int           // guarded by mu; what that was
	asking   chan struct{} // guarded by mu; closed when that has been found out anew; nil: nobody is at it
}

// A forward is the body of opForward: a request on its way to a member that its
// sender does not reach. The request's own body follows.
type forward struct {
	to     uint64   // incarnation of the member that the request is for
	from   Member   // the sender; Incarnation, Name and Addr travel
	passed []uint64 // incarnations of the members that it went through
	op     uint8
	digest uint64 // of the sender's tables
	clock  uint64 // the sender's
}

func (f *forward) append(b []byte) []byte {
	b = wire.AppendUint64(b, f.to)
	b = wire.AppendUint64(b, f.from.Incarnation)
	b = wire.AppendString(b, f.from.Name)
	b = wire.AppendString(b, f.from.Addr)
	b = wire.AppendUvarint(b, uint64(len(f.passed)))
	for _, incarnation := range f.passed {
		b = wire.AppendUint64(b, incarnation)
	}
	b = wire.AppendByte(b, f.op)
	b = wire.AppendUint64(b, f.digest)
	return wire.AppendUint64(b, f.clock)
}

// readForward returns what body says of a request, and the request's own body,
// which is a part of it.
func readForward(body []byte) (f forward, inner []byte, err error) {
	r := wire.NewReader(body)
	f.to = r.Uint64()
	f.from = Member{Incarnation: r.Uint64(), Name: r.String(maxNameBytes), Addr: r.String(maxAddrBytes)}
	f.passed = make([]uint64, r.Count(maxForwards, 8))
	for i := range f.passed {
		f.passed[i] = r.Uint64()
	}
	f.op, f.digest, f.clock = r.Byte(), r.Uint64(), r.Uint64()
	if f.op == opForward {
		r.Fail("operation of a forwarded request")
	}
	if err := r.Err(); err != nil {
		return f, nil, err
	}
	return f, body[len(body)-r.Len():], nil
}

// Why a member did not get the answer to a forwarded request. The numbers are
// fixed for ever.
const (
	unreachedUnsent  uint8 = iota + 1 // the request cannot have come to the member it is for
	unreachedSent                     // it may have
	unreachedGone                     // that member's process is not there
	unreachedRefused                  // the member refused it: a code and a text follow
	unreachedHeard                    // that member is there, but its address refuses connections
)

// errHeard says that a member cannot be connected to but has a connection open.
var errHeard = errors.New("peercache: it refuses connections, but is there")

// errGoneThere says that the address of a member refuses the connections of
// another one, to which the member has none open.
var errGoneThere = errors.New("peercache: it refuses another member's connections, too")

// unreachedReply says why a forwarded request was not answered.
func unreachedReply(err error) mux.Reply {
	var remote *mux.RemoteError
	var call *mux.CallError
	var b []byte
	switch {
	case errors.Is(err, errHeard):
		b = wire.AppendByte(b, unreachedHeard)
	case isGone(err):
		b = wire.AppendByte(b, unreachedGone)
	case errors.As(err, &remote):
		b = wire.AppendByte(b, unreachedRefused)
		b = wire.AppendByte(b, uint8(remote.Code))
	case errors.As(err, &call) && !call.Sent:
		b = wire.AppendByte(b, unreachedUnsent)
	default:
		b = wire.AppendByte(b, unreachedSent)
	}
	return mux.Reply{Code: replyUnreached, Body: wire.AppendString(b, clip(err.Error()))}
}

// errUnreached says that a member that was to forward a request did not reach
// the one it is for.
var errUnreached = errors.New("peercache: not reached through another member either")

// readUnreached is the error that unreachedReply was made of, as the sender of
// the request sees it.
func readUnreached(through Member, reply *mux.Reply) error {
	r := wire.NewReader(reply.Body)
	kind := r.Byte()
	var code uint8
	if kind == unreachedRefused {
		code = r.Byte()
	}
	text := r.String(maxErrorText)
	err := fmt.Errorf("%w: %s says: %s", errUnreached, through, text)
	if r.End() != nil {
		kind = unreachedSent
	}
	switch kind {
	case unreachedUnsent:
		return &mux.CallError{Err: err}
	case unreachedGone:
		return &mux.CallError{Err: fmt.Errorf("%w: %w", err, errGoneThere)}
	case unreachedHeard:
		return &mux.CallError{Err: fmt.Errorf("%w: %w", err, errHeard)}
	case unreachedRefused:
		return &mux.RemoteError{Code: wire.ErrorCode(code), Text: text}
	default:
		return &mux.CallError{Sent: true, Err: err}
	}
}

// callThrough asks a member something through another one. An error never says
// that the member is gone.
func (p *peers) callThrough(ctx context.Context, through Member, f forward, r *peer, body []byte, told func(mux.Reply)) (mux.Reply, error) {
	relay, err := p.get(through.Incarnation, through.Addr)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	f.to = r.incarnation
	req := mux.Request{Op: opForward, Body: f.append(make([]byte, 0, 128+len(body)))}
	if len(body) <= mux.MaxWhole/2 {
		req.Body = append(req.Body, body...)
	} else {
		req.Tail = body
	}
	way := &relay.bulk // it holds up none of the calls that are meant for the other one
	if f.op == opPing || f.op == opPacket {
		way = &relay.calls
	}
	conn, err := way.get(ctx)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: fmt.Errorf("%w: %s: %v", errUnreached, through, err)}
	}
	p.stamp(&req)
	reply, err := conn.Call(ctx, req, told)
	var remote *mux.RemoteError
	switch {
	case errors.As(err, &remote): // the other one's, not that of the member that is asked
		return mux.Reply{}, &mux.CallError{Sent: !remote.Refused(), Err: fmt.Errorf("%w: %s: %v", errUnreached, through, err)}
	case err != nil:
		return reply, err
	}
	p.heardClock(relay, reply.Fields.Clock)
	switch {
	case reply.Code == replyUnreached:
		return mux.Reply{}, readUnreached(through, &reply)
	case reply.Code == replyUnsupported || reply.Code == replyMalformed || f.op == opPing && reply.Code != replyOK:
		return mux.Reply{}, &mux.CallError{Err: fmt.Errorf("%w: %s: %s", errUnreached, through, replyText(reply.Code))}
	}
	r.route.heard.Store(int64(p.n.clock.Elapsed()))
	return reply, nil
}

// newForward describes a request of this node.
func (p *peers) newForward(req *mux.Request) forward {
	return forward{from: p.n.Self(), op: req.Op, digest: p.n.view.Load().digest, clock: p.n.hlc.read()}
}

// callRouted asks a member something through the one that its route names, if
// there is such a one. ok is false when the request is to go directly.
func (p *peers) callRouted(ctx context.Context, r *peer, req *mux.Request, told func(mux.Reply)) (reply mux.Reply, ok bool, err error) {
	through := r.route.through.Load()
	if through == nil {
		return mux.Reply{}, false, nil
	}
	reply, err = p.callThrough(ctx, *through, p.newForward(req), r, whole(req), told)
	var call *mux.CallError
	if errors.As(err, &call) && ctx.Err() == nil {
		r.route.through.CompareAndSwap(through, nil) // followLink looks for another one
		if !call.Sent {
			return mux.Reply{}, false, nil
		}
	}
	return reply, true, err
}

// whole is the body of a request in one piece.
func whole(req *mux.Request) []byte {
	if len(req.Tail) == 0 {
		return req.Body
	}
	return slices.Concat(req.Body, req.Tail)
}

// serveForward answers a request that came through other members, or sends it
// on.
func (n *Node) serveForward(ctx context.Context, from mux.Identity, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	f, body, err := readForward(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	inner := mux.Request{Op: f.op, Body: body}
	inner.Fields = req.Fields
	inner.Fields.Digest, inner.Fields.Clock = f.digest, f.clock
	if f.to == n.incarnation {
		if m, ok := n.view.Load().find(f.from.Incarnation); ok {
			n.peers.checkLink(m.Member) // what one direction is cut for the other mostly is as well
		}
		return n.serve(ctx, mux.Identity{Incarnation: f.from.Incarnation, Name: f.from.Name, Addr: f.from.Addr}, inner, progress)
	}
	if len(f.passed) == 0 {
		f.from = Member{Incarnation: from.Incarnation, Name: from.Name, Addr: from.Addr}
	}
	m, ok := n.view.Load().find(f.to)
	if !ok {
		return unreachedReply(&mux.CallError{Err: fmt.Errorf("no member %016x", f.to)})
	}
	reply, err := n.peers.forward(ctx, m.Member, f, body, func(r mux.Reply) { progress(r) })
	if err != nil {
		return unreachedReply(err)
	}
	return reply
}

// forward sends a request of another member on: directly, or through a member
// that it has not gone through yet.
func (p *peers) forward(ctx context.Context, m Member, f forward, body []byte, told func(mux.Reply)) (mux.Reply, error) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	r.gate.force()
	p.gate.force()
	defer p.leave(r)
	f.to, f.passed = m.Incarnation, append(f.passed, p.n.incarnation)
	through := r.route.through.Load()
	if through == nil {
		req := mux.Request{Op: opForward, Body: append(f.append(make([]byte, 0, 128+len(body))), body...)}
		defer p.watchLink(m, len(body))()
		reply, err := p.callDirect(ctx, r, req, told)
		switch {
		case isGone(err) && p.n.inbound.hears(ctx, m.Incarnation):
			err = &mux.CallError{Err: errHeard}
		case err != nil && ctx.Err() != nil:
			p.checkLink(m) // it is silent
		}
		return reply, err
	}
	if len(f.passed) >= maxForwards || through.Incarnation == f.from.Incarnation || slices.Contains(f.passed, through.Incarnation) {
		return mux.Reply{}, &mux.CallError{Err: fmt.Errorf("%w: %s reaches it through %s", errUnreached, p.n, through)}
	}
	reply, err := p.callThrough(ctx, *through, f, r, body, told)
	var call *mux.CallError
	if errors.As(err, &call) && ctx.Err() == nil {
		r.route.through.CompareAndSwap(through, nil)
	}
	return reply, err
}

// findThrough asks the other members whether they reach one. It returns the first
// that does, or nil when all have said no or searchTime is over. gone says then
// that as far as the others know the member's process is not there; those that were
// silent before have no say.
func (p *peers) findThrough(ctx context.Context, m Member, r *peer) (through *Member, gone bool) {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	others := slices.DeleteFunc(p.members(), func(o Member) bool { return o.Incarnation == m.Incarnation })
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	others = others[:min(len(others), maxAsked)]
	f := p.newForward(&mux.Request{Op: opPing})
	answers := make(chan error, len(others))
	asked := 0
	var found atomic.Pointer[Member]
	gone = true
	for _, o := range others {
		other, err := p.get(o.Incarnation, o.Addr)
		switch {
		case err != nil || other.health.silent.Load():
			continue
		case other.route.through.Load() != nil:
			gone = false // it may reach the member, but a way through two is found by the first of them
			continue
		}
		asked++
		if !p.n.spawn(func(context.Context) {
			_, err := p.callThrough(ctx, o, f, r, nil, nil)
			if err == nil {
				found.CompareAndSwap(nil, &o)
			} else if ctx.Err() != nil && found.Load() == nil {
				p.suspect(o)
			}
			if conn, refused := other.calls.state(); conn == nil && isGone(refused) {
				err = errGoneThere // so is that one
			}
			answers <- err
		}) {
			answers <- ErrClosed
		}
	}
	for range asked {
		err := <-answers
		if through := found.Load(); through != nil {
			return through, false
		}
		gone = gone && errors.Is(err, errGoneThere)
	}
	return nil, gone
}

// What is known of a member whose address refuses connections.
const (
	refusedGone    = iota // its process is not there
	refusedReached        // its route names a way to it, or it takes connections again
	refusedHeard          // it is there, or may be, and nobody knows a way to it
)

// lookForRefused finds out what it means that the address of a member refuses
// connections. A process that is gone keeps no connection open, and no other
// member reaches it.
func (p *peers) lookForRefused(ctx context.Context, m Member, r *peer) int {
	for {
		r.route.mu.Lock()
		switch {
		case r.route.through.Load() != nil || r.calls.live.Load() != nil:
			r.route.mu.Unlock()
			return refusedReached
		case r.route.refused != 0 && p.n.clock.Elapsed()-r.route.refused < refusedHolds:
			defer r.route.mu.Unlock()
			return r.route.meaning
		case r.route.asking == nil:
			asking := make(chan struct{})
			if !p.n.spawn(func(ctx context.Context) { p.askAboutRefused(ctx, m, r, asking) }) {
				r.route.mu.Unlock()
				return refusedHeard
			}
			r.route.asking = asking
		}
		asking := r.route.asking
		r.route.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return refusedHeard
		}
	}
}

// askAboutRefused finds out what lookForRefused wants to know, and closes asking.
func (p *peers) askAboutRefused(ctx context.Context, m Member, r *peer, asking chan struct{}) {
	through, gone := p.findThrough(ctx, m, r)
	meaning := refusedHeard
	if gone && !p.n.inbound.hears(ctx, m.Incarnation) {
		meaning = refusedGone
	}
	if through != nil {
		p.setThrough(m, r, through)
	}
	r.route.mu.Lock()
	defer r.route.mu.Unlock()
	if through == nil {
		r.route.refused, r.route.meaning = max(p.n.clock.Elapsed(), 1), meaning
	}
	r.route.asking = nil
	close(asking)
}

// setThrough sends what is for a member through another one, until it is reached
// directly again.
func (p *peers) setThrough(m Member, r *peer, through *Member) {
	r.route.mu.Lock()
	first := r.route.through.Swap(through) == nil
	p.followLocked(m, r)
	r.route.mu.Unlock()
	if first {
		p.n.log.Warn("a member is not reached directly", "member", m.String(), "through", through.String())
	}
	// What is under way is asked again.
	r.calls.drop()
	if conn := r.bulk.live.Load(); conn == nil || conn.SinceHeard() >= routeTime {
		r.bulk.drop()
	}
}

// bulkPatience is routeTime, and silence, where something large is on its way, which
// holds up what comes after it on a slow link.
const bulkPatience = time.Second

// watchLink has the link to a member checked while a request of some size takes
// longer than silence. The caller ends that with the function returned.
func (p *peers) watchLink(m Member, size int) (stop func()) {
	patience := silence
	if travelsAsBulk(size) {
		patience = bulkPatience
	}
	w := &linkWatch{p: p, m: m}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(patience, w.check)
	return w.stop
}

// A linkWatch is a request that takes its time.
type linkWatch struct {
	p *peers
	m Member

	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil after stop
}

func (w *linkWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.p.checkLink(w.m)
		w.timer.Reset(silence)
	}
}

func (w *linkWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.timer = nil
}

// suspected has the link to a member checked whose name in gossip is given.
func (p *peers) suspected(name string) {
	if incarnation, err := parseIncarnation(name); err == nil {
		if m, ok := p.n.view.Load().find(incarnation); ok {
			p.checkLink(m.Member)
		}
	}
}

// checkLink finds out in the background whether the link to a member is cut,
// unless something came over it just now. While it is, another member through
// which the member is reached is looked for, and the link is tried again.
func (p *peers) checkLink(m Member) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return
	}
	if r.calls.live.Load() != nil && r.route.through.Load() == nil && r.sinceHeard() < silence {
		return
	}
	r.route.mu.Lock()
	defer r.route.mu.Unlock()
	p.followLocked(m, r)
}

// followLocked sees to it that a goroutine looks after the link to a member.
func (p *peers) followLocked(m Member, r *peer) {
	if !r.route.checking {
		r.route.checking = p.n.spawn(func(ctx context.Context) { p.followLink(ctx, m, r) })
	}
}

// followLink runs until a member answers directly or is in the view no more.
func (p *peers) followLink(ctx context.Context, m Member, r *peer) {
	defer func() {
		r.route.mu.Lock()
		defer r.route.mu.Unlock()
		r.route.checking = false
		r.route.through.Store(nil)
	}()
	for ctx.Err() == nil {
		if _, ok := p.n.view.Load().find(m.Incarnation); !ok {
			return
		}
		asked := time.Now()
		answered := make(chan error, 1)
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		if !p.n.spawn(func(context.Context) {
			_, err := p.callDirect(ping, r, mux.Request{Op: opPing}, nil)
			answered <- err
		}) {
			cancel()
			return
		}
		ended, err := waitError(answered, linkPatience)
		through := r.route.through.Load()
		if through != nil && !p.leadsTo(ctx, *through, r) {
			r.route.through.CompareAndSwap(through, nil)
			through = nil
		}
		switch {
		case ended && err == nil || through != nil:
		case errors.Is(err, syscall.ECONNREFUSED):
			p.lookForRefused(ctx, m, r)
		default:
			through, _ := p.findThrough(ctx, m, r)
			if through == nil {
				break
			}
			// It is there, and answers somebody who has asked it later.
			if !ended {
				limit := routeTime
				if p.n.inbound.sinceBulk(m.Incarnation) < silence {
					limit = bulkPatience // its answer lies behind something large
				}
				ended, err = waitError(answered, limit-time.Since(asked))
			}
			conn := r.calls.live.Load()
			if err != nil || !ended && (conn == nil || r.sinceHeard() >= time.Since(asked)) {
				p.setThrough(m, r, through)
			}
		}
		if !ended {
			err = <-answered
		}
		cancel()
		if err == nil {
			if r.route.through.Load() != nil {
				p.n.log.Info("a member is reached directly again", "member", m.String())
			}
			return
		}
		sleep(ctx, jitter(routeCheck))
	}
}

// leadsTo reports whether a member is reached through another one.
func (p *peers) leadsTo(ctx context.Context, through Member, r *peer) bool {
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	_, err := p.callThrough(ctx, through, p.newForward(&mux.Request{Op: opPing}), r, nil, nil)
	return err == nil
}

// waitError waits for an error, for a while.
func waitError(errs <-chan error, d time.Duration) (came bool, err error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err := <-errs:
		return true, err
	case <-timer.C:
		return false, nil
	}
}

// sendThrough sends a packet of gossip through another member, as well as it can.
func (p *peers) sendThrough(r *peer, through *Member, packet []byte) {
	p.n.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, packetTimeout)
		defer cancel()
		p.callThrough(ctx, *through, p.newForward(&mux.Request{Op: opPacket}), r, packet, nil)
	})
}

// servePacket takes a packet of gossip that came through another member.
func (n *Node) servePacket(from mux.Identity, req mux.Request) mux.Reply {
	g := n.gossip.Load()
	if g == nil {
		return mux.Reply{Code: replyUnsupported}
	}
	g.Packet(gossip.Peer{Name: gossipName(from.Incarnation), Addr: from.Addr}, req.Body)
	return mux.Reply{}
}
