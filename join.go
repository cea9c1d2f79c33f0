package peercache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
)

const (
	firstCheck  = 20 * time.Millisecond // after a mounted node did not reach itself; doubles up to lastCheck
	lastCheck   = 2 * time.Second
	mostJoining = 10 * time.Minute
	maxJoining  = 30 * time.Second // for so long nothing may come of what is to be filled; after that a node that could not fill all its shards asks the others for what it lacks
)

var errNotAnnounced = errors.New("peercache: this node is not yet a part of the cluster")

// joinCluster makes the node a part of the cluster, or its client. It waits
// for one round of seeds or for the end of ctx; the rest goes on in the
// background.
func (n *Node) joinCluster(ctx context.Context) error {
	if n.cfg.alone() {
		n.setState(MemberActive)
		n.refresh()
		return nil
	}
	if n.cfg.listens() {
		if err := n.announce(); err != nil {
			return err
		}
		n.announced.Store(true)
	} else {
		n.spawn(n.followRelayed)
	}
	firstRound := make(chan struct{})
	n.spawn(func(ctx context.Context) {
		n.joinOnce(ctx)
		close(firstRound)
		n.discovery.run(ctx)
	})
	if !n.cfg.listens() && !n.cfg.Client {
		n.spawn(n.awaitAnnounce)
	}
	// A Discover or DialContext that does not heed its context holds up the
	// round, but not Start.
	ctx, cancel := context.WithTimeout(ctx, joinRound)
	defer cancel()
	select {
	case <-firstRound:
	case <-ctx.Done():
	}
	return nil
}

// joinOnce asks all seeds once. A node that is announced becomes active after
// that: at once when nobody answered, else when it holds what it will own.
func (n *Node) joinOnce(ctx context.Context) {
	round, cancel := context.WithTimeout(ctx, joinRound)
	defer cancel()
	n.discovery.round(round)
	n.asked.Store(true)
	n.refreshed(round)
	if n.announced.Load() && ctx.Err() == nil {
		n.activate()
	}
	n.refreshed(round)
}

// activate makes a node active that has joined. It does not wait for that
// when there are shards to be filled first.
func (n *Node) activate() {
	if n.handoff.unfilledCount() == 0 {
		n.becomeActive()
		return
	}
	n.spawn(func(ctx context.Context) {
		ctx, cancel := whileMoving(ctx, maxJoining, mostJoining, n.handoff.incoming)
		defer cancel()
		for ctx.Err() == nil {
			changed := n.viewSignal.next()
			if n.handoff.unfilledCount() == 0 {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		// What was written meanwhile and did not get through to this node.
		n.compares.catchUp(ctx)
		if n.life.Err() == nil {
			n.becomeActive()
		}
	})
}

// refreshed waits until the loop has looked at the members.
func (n *Node) refreshed(ctx context.Context) {
	done := make(chan struct{})
	select {
	case n.flush <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// becomeActive ends the joining of this node, unless it is leaving already.
func (n *Node) becomeActive() {
	if n.state.CompareAndSwap(uint32(MemberJoining), uint32(MemberActive)) {
		n.reannounce()
	}
}

// announce starts gossip: from now on the others can learn of this node.
func (n *Node) announce() error {
	g, err := gossip.Start(gossip.Config{
		Name: gossipName(n.incarnation),
		Meta: func() []byte { return n.announcement().encode() },
		AddrOf: func(meta []byte) (string, bool) {
			a, err := decodeAnnouncement(0, meta)
			return a.Addr, err == nil
		},
		Link:       n.peers,
		Interval:   n.cfg.Heartbeat.Interval,
		Timeout:    n.cfg.Heartbeat.Timeout,
		Changed:    n.wake,
		Now:        n.clock.Now,
		Running:    n.clock.Running,
		Offset:     n.compareClock,
		Suspected:  n.peers.suspected,
		SinceHeard: n.peers.sinceHeard,
		Logger:     n.log,
	})
	if err != nil {
		return fmt.Errorf("peercache: gossip: %w", err)
	}
	n.gossip.Store(g)
	if n.life.Err() != nil {
		g.Close()
	}
	return nil
}

// compareClock notes how far a member's clock is ahead of this node's.
func (n *Node) compareClock(name string, offset, rtt time.Duration) {
	incarnation, err := parseIncarnation(name)
	if err != nil {
		return
	}
	if n.skew.observe(incarnation, offset, rtt) {
		n.clockChanged()
	}
}

// clockChanged tells everybody that this node's clock is now off, or is not
// any more.
func (n *Node) clockChanged() {
	if ahead := n.skew.offset().Round(time.Millisecond); n.skew.off() {
		n.log.Warn("this node's clock is wrong: it owns no shards until that is right", "ahead", ahead)
	} else {
		n.log.Warn("this node's clock is right again", "ahead", ahead)
	}
	n.reannounce()
}

// awaitAnnounce announces a node that the caller serves, once its own
// incarnation answers at the address that it would announce.
func (n *Node) awaitAnnounce(ctx context.Context) {
	for wait := firstCheck; ; wait = min(2*wait, lastCheck) {
		err := n.reachSelf(ctx)
		if ctx.Err() != nil {
			return
		}
		before := n.unreached.Swap(&err)
		if err == nil {
			break
		}
		if before == nil || !sameFault(*before, err) {
			n.log.Warn("not announced: this node does not answer at the address it would advertise", "err", err)
		}
		sleep(ctx, jitter(wait))
	}
	if err := n.announce(); err != nil {
		n.unreached.Store(&err)
		n.log.Error("not announced", "err", err)
		return
	}
	n.discovery.round(ctx)
	n.meetsNobody()
	n.announced.Store(true)
	n.refreshed(ctx)
	n.activate()
}

// reachSelf connects to the advertised address and succeeds when this very
// node answers.
func (n *Node) reachSelf(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, _, err := n.dial(ctx, mux.PurposeProbe, n.incarnation, n.addr)
	if err != nil {
		return fmt.Errorf("peercache: Advertise %s: %w", n.addr, err)
	}
	conn.Close() // the other end has done so already
	return nil
}

// join joins whoever answers at addr.
func (n *Node) join(ctx context.Context, addr string) error {
	if g := n.gossip.Load(); g != nil {
		return g.Join(ctx, addr)
	}
	return n.joinRelayed(ctx, addr)
}
