package peercache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
)

// peerIdle is how long the connections to somebody who is in no view, such as
// a dead member that gossip still tries to reach, are kept without use.
const peerIdle = time.Minute

// peers holds the connections that this node makes to others. It is the
// network side of gossip.
type peers struct {
	n    *Node
	gate gate // requests under way to all

	known atomic.Pointer[map[uint64]*peer] // a copy of byIncarnation; never changed, but replaced with mu held

	mu            sync.Mutex
	byIncarnation map[uint64]*peer // guarded by mu
	closed        bool             // guarded by mu
}

var _ gossip.Link = (*peers)(nil)

// A peer is one other process, by incarnation.
type peer struct {
	incarnation uint64
	addr        string
	calls       connector
	bulk        connector // what is large, so that it holds up no calls
	gossip      connector
	large       *semaphore.Weighted // bytes of large writes under way to it
	health      health
	gone        atomic.Bool // its process was found not to be there
	route       route
	gate        gate          // requests under way to it
	lead        atomic.Int64  // milliseconds that its clock is ahead of Elapsed of this node; 0: not known
	used        time.Duration // guarded by peers.mu; when somebody wanted it last
}

func newPeers(n *Node) *peers {
	p := &peers{n: n, gate: gate{most: maxCallsPerNode}, byIncarnation: make(map[uint64]*peer)}
	p.publishLocked()
	return p
}

// find returns the peer of an incarnation, or nil when nobody has wanted it
// yet. It takes no lock, and does not count as a use.
func (p *peers) find(incarnation uint64) *peer { return (*p.known.Load())[incarnation] }

// publishLocked shows find what byIncarnation holds.
func (p *peers) publishLocked() {
	known := maps.Clone(p.byIncarnation)
	p.known.Store(&known)
}

// get returns the peer of an incarnation; addr is where it lives.
func (p *peers) get(incarnation uint64, addr string) (*peer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	r := p.byIncarnation[incarnation]
	if r == nil {
		if addr == "" {
			return nil, fmt.Errorf("peercache: the address of %016x is not known", incarnation)
		}
		r = p.newPeer(incarnation, addr)
		p.byIncarnation[incarnation] = r
		p.publishLocked()
	}
	r.used = p.n.clock.Elapsed()
	return r, nil
}

func (p *peers) newPeer(incarnation uint64, addr string) *peer {
	r := &peer{incarnation: incarnation, addr: addr, gate: gate{most: maxCallsPerPeer}, large: semaphore.NewWeighted(largeAtOnce)}
	r.calls.spawn = p.n.spawn
	r.calls.dial = func(ctx context.Context) (*mux.Conn, error) {
		conn, _, err := p.n.dialCalls(ctx, mux.PurposeCalls, incarnation, addr)
		return conn, err
	}
	r.bulk.spawn = p.n.spawn
	r.bulk.dial = func(ctx context.Context) (*mux.Conn, error) {
		conn, _, err := p.n.dialCalls(ctx, mux.PurposeBulk, incarnation, addr)
		return conn, err
	}
	r.gossip.spawn, r.gossip.eager = p.n.spawn, true
	r.gossip.dial = func(ctx context.Context) (*mux.Conn, error) {
		return p.n.dialGossip(ctx, incarnation, addr)
	}
	return r
}

// reached is called when a connection was made to a peer or by it. Others to it,
// which could not be made so far, are tried at once.
func (p *peers) reached(incarnation uint64) {
	if r := p.find(incarnation); r != nil {
		for _, c := range []*connector{&r.calls, &r.bulk, &r.gossip} {
			c.again()
		}
	}
}

// conn returns the connection for calls to a member.
func (p *peers) conn(ctx context.Context, m Member) (*mux.Conn, error) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return nil, err
	}
	return r.calls.get(ctx)
}

// follow closes the connections for calls to those that are in the view no
// more, and those for gossip to members that are lost: what was written to
// these is late for as long again as the link was cut. Gossip makes new ones, as
// it goes on trying to reach them: they may be alive after all.
func (p *peers) follow(before, v *view) {
	for _, incarnation := range v.lost(before) {
		if r := p.find(incarnation); r != nil {
			r.gossip.drop()
		}
	}
	p.mu.Lock()
	var gone []*peer
	for incarnation, r := range p.byIncarnation {
		if _, ok := v.find(incarnation); !ok {
			gone = append(gone, r)
		}
	}
	p.mu.Unlock()
	for _, r := range gone {
		r.calls.drop()
		r.bulk.drop()
	}
}

// prune forgets those who are in no view and have not been wanted for a while.
func (p *peers) prune() {
	v := p.n.view.Load()
	now := p.n.clock.Elapsed()
	p.mu.Lock()
	var idle []*peer
	for incarnation, r := range p.byIncarnation {
		if _, ok := v.find(incarnation); !ok && now-r.used > peerIdle {
			delete(p.byIncarnation, incarnation)
			idle = append(idle, r)
		}
	}
	if len(idle) > 0 {
		p.publishLocked()
	}
	p.mu.Unlock()
	for _, r := range idle {
		r.close()
	}
}

func (p *peers) all() []*peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*peer, 0, len(p.byIncarnation))
	for _, r := range p.byIncarnation {
		all = append(all, r)
	}
	return all
}

// disconnect breaks all connections; they are made anew when wanted.
func (p *peers) disconnect() {
	for _, r := range p.all() {
		r.calls.drop()
		r.bulk.drop()
		r.gossip.drop()
	}
}

func (p *peers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for _, r := range p.all() {
		r.close()
	}
}

func (r *peer) close() {
	r.calls.close()
	r.bulk.close()
	r.gossip.close()
}

// members lists the members in the view other than this node.
func (p *peers) members() []Member {
	var others []Member
	for _, m := range p.n.view.Load().members {
		if m.Incarnation != p.n.incarnation {
			others = append(others, m.Member)
		}
	}
	return others
}

// knowsAddr reports whether a member other than this node lives at addr.
func (p *peers) knowsAddr(addr string) bool {
	for _, m := range p.members() {
		if m.Addr == addr {
			return true
		}
	}
	return false
}

// Send implements [gossip.Link].
func (p *peers) Send(to gossip.Peer, packet []byte) error {
	incarnation, err := parseIncarnation(to.Name)
	if err != nil {
		return err
	}
	r, err := p.get(incarnation, to.Addr)
	if err != nil {
		return err
	}
	if through := r.route.through.Load(); through != nil {
		p.sendThrough(r, through, packet)
		return nil
	}
	if err := r.gossip.send(datePacket(p.n.clock.Elapsed(), packet)); isGone(err) {
		if !r.gone.Swap(true) {
			p.n.discovery.lostSome()
		}
		return err
	}
	return nil // only silent: the heartbeats find out
}

// Open implements [gossip.Link].
func (p *peers) Open(ctx context.Context, to gossip.Peer) (net.Conn, error) {
	var incarnation uint64
	if to.Name != "" {
		var err error
		if incarnation, err = parseIncarnation(to.Name); err != nil {
			return nil, err
		}
	}
	conn, _, err := p.n.dial(ctx, mux.PurposeStream, incarnation, to.Addr)
	var refusal *mux.HandshakeError
	if errors.As(err, &refusal) && refusal.Code == mux.RefusedIncarnation {
		err = fmt.Errorf("%w: %w", gossip.ErrReplaced, err)
	}
	return conn, err
}

// A member's name in gossip is its incarnation in 16 hexadecimal digits.
func gossipName(incarnation uint64) string { return fmt.Sprintf("%016x", incarnation) }

func parseIncarnation(name string) (uint64, error) {
	incarnation, err := strconv.ParseUint(name, 16, 64)
	if err != nil || gossipName(incarnation) != name {
		return 0, fmt.Errorf("peercache: %q is not the name of a member in gossip", name)
	}
	return incarnation, nil
}

// isGone reports whether err proves that the process which was dialed is not
// there: its host refused the connection, or another one lives at its address.
func isGone(err error) bool {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return true
	}
	var refusal *mux.HandshakeError
	return errors.As(err, &refusal) && refusal.Code == mux.RefusedIncarnation
}

// isSelf reports whether err says that a node dialed itself.
func isSelf(err error) bool {
	var refusal *mux.HandshakeError
	return errors.As(err, &refusal) && refusal.Code == mux.RefusedSelf
}

// sinceHeard returns how long ago a member of a name in gossip last answered a
// call.
func (p *peers) sinceHeard(name string) time.Duration {
	if incarnation, err := parseIncarnation(name); err == nil {
		if r := p.find(incarnation); r != nil {
			since := time.Duration(math.MaxInt64)
			if conn := r.calls.live.Load(); conn != nil {
				since = conn.SinceHeard()
			}
			if heard := r.route.heard.Load(); heard != 0 {
				since = min(since, p.n.clock.Elapsed()-time.Duration(heard))
			}
			return since
		}
	}
	return math.MaxInt64
}
