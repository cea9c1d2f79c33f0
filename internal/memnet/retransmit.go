package memnet

import (
	"math"
	"syscall"
	"time"
)

// TCP sends again what is not acknowledged, at times that double (RFC 6298): on Linux 200 ms beyond the round trip after the
// first sending, and two minutes apart at most.
const (
	firstTimeout = 200 * time.Millisecond
	maxTimeout   = 120 * time.Second
)

// never is when a segment arrives that was lost and is not sent again yet.
const never time.Duration = math.MaxInt64

// SetRetransmission says whether a connection that a cut has caught waits for TCP's next retransmission when the cut is
// healed. The default is that it does: the longer bytes were outstanding, the longer after the heal it stays deaf, up to as
// long again, two minutes at most. A cut in one direction has the same effect on what is sent in the other, 200 ms after the
// first byte whose acknowledgement got lost. Other connections are not affected, and neither is one that carried nothing
// meanwhile. With false all that was held up arrives when its direction is healed. It acts on what is sent from now on.
func (nw *Network) SetRetransmission(on bool) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.atOnce = !on
}

// unacked is what the sender of a pipe waits for. Network.mu guards it.
type unacked struct {
	waits bool          // something was sent that was lost, or its acknowledgement was
	since time.Duration // when the first of that was sent
	next  time.Duration // when it is sent again for good: never while the link is cut
	timer *time.Timer   // of the sender's user timeout; nil: not used yet
}

// cutLocked tells whether what is sent now gets lost, or its acknowledgement.
func (p *pipe) cutLocked() bool { return p.stalledLocked() || p.dst.out.link.cut }

// sentLocked notes that a segment is sent which would arrive at due, and returns when it does.
func (p *pipe) sentLocked(now, due time.Duration) time.Duration {
	p.acknowledgedLocked(now)
	u := &p.unacked
	late := now-u.since >= p.timeoutLocked() // the window has shrunk to what is outstanding
	switch cut := p.cutLocked(); {
	case cut && !u.waits:
		p.lostLocked(now)
	case cut && late && !p.nw.atOnce:
		return never
	case u.waits && !cut && !p.nw.atOnce:
		return max(due, u.next+p.link.delay)
	}
	if p.stalledLocked() {
		return never
	}
	return due
}

// lostLocked notes that something was lost.
func (p *pipe) lostLocked(now time.Duration) {
	if !p.unacked.waits {
		p.unacked.waits, p.unacked.since = true, now
		p.armUserTimeoutLocked(now)
	}
	p.unacked.next = never
}

// acknowledgedLocked ends the wait when all was sent again.
func (p *pipe) acknowledgedLocked(now time.Duration) {
	if p.unacked.waits && p.unacked.next <= now {
		p.unacked.waits = false
	}
}

// brokenOffLocked is called when a direction of the pipe's connection was cut: its own, which loses all that is on the way,
// or the other, which loses acknowledgements.
func (p *pipe) brokenOffLocked(now time.Duration) {
	p.acknowledgedLocked(now)
	if p.unacked.waits {
		again := p.unacked.next + p.link.delay
		for i := range p.way {
			if p.way[i].due >= again {
				p.way[i].due = never
			}
		}
		p.unacked.next = never
	}
	if p.stalledLocked() && len(p.way) > 0 {
		for i := range p.way {
			p.way[i].due = never
		}
		p.lostLocked(now)
	}
}

// healedLocked is called when a direction of the pipe's connection is no longer cut.
func (p *pipe) healedLocked(now time.Duration) {
	if p.stalledLocked() || p.cutLocked() && !p.nw.atOnce {
		return
	}
	again := now
	if p.unacked.waits && !p.cutLocked() {
		if !p.nw.atOnce {
			again = p.retransmissionLocked(now)
		}
		p.unacked.next = again
	}
	for i := range p.way {
		if p.way[i].due == never {
			p.way[i].due = again + p.link.delay
		}
	}
	p.settleLocked(now)
}

// timeoutLocked is how long the sender waits before it sends something again for the first time.
func (p *pipe) timeoutLocked() time.Duration {
	return firstTimeout + p.link.delay + p.dst.out.link.delay
}

// retransmissionLocked returns when the sender sends again next.
func (p *pipe) retransmissionLocked(now time.Duration) time.Duration {
	at, timeout := p.unacked.since, p.timeoutLocked()
	for {
		if at += timeout; at >= now {
			return at
		}
		timeout = min(2*timeout, maxTimeout)
	}
}

// SetUserTimeout is TCP_USER_TIMEOUT: when what was sent is not acknowledged for d, reads and writes fail with ETIMEDOUT. The
// other end is reset once the link is whole. Zero, as a negative d, means no limit, which is the default.
func (c *conn) SetUserTimeout(d time.Duration) error {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	if c.closed {
		return c.error("set", syscall.EINVAL)
	}
	c.userTimeout = max(d, 0)
	c.out.armUserTimeoutLocked(c.nw.now())
	return nil
}

func (p *pipe) armUserTimeoutLocked(now time.Duration) {
	u := &p.unacked
	if u.timer != nil {
		u.timer.Stop()
	}
	if !u.waits || p.src.userTimeout <= 0 || p.src.in.broken != 0 {
		return
	}
	left := max(u.since+p.src.userTimeout-now, 0)
	if u.timer == nil {
		u.timer = time.AfterFunc(left, p.fireUserTimeout)
	} else {
		u.timer.Reset(left)
	}
}

// fireUserTimeout may be the call of an earlier timer that could not be stopped any more.
func (p *pipe) fireUserTimeout() {
	p.nw.mu.Lock()
	defer p.nw.mu.Unlock()
	now := p.nw.now()
	p.settleLocked(now)
	p.acknowledgedLocked(now)
	c := p.src
	if !p.unacked.waits || c.userTimeout <= 0 || now-p.unacked.since < c.userTimeout || c.in.broken != 0 {
		return
	}
	c.in.failLocked(syscall.ETIMEDOUT)
	c.breakLocked()
}

// Waiting returns how many connections between two hosts, open at both ends, have sent something that waits for TCP's next
// retransmission, because of a cut that may be healed by now.
func (nw *Network) Waiting(a, b string) int {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	now := nw.now()
	conns := make(map[*pipe]bool) // by the pipe from a to b
	for _, key := range []linkKey{{hostName(a), hostName(b)}, {hostName(b), hostName(a)}} {
		if l := nw.links[key]; l != nil {
			for p := range l.pipes {
				p.acknowledgedLocked(now)
				if p.unacked.waits && !p.src.closed && !p.dst.closed && p.src.in.broken == 0 {
					if key.from != hostName(a) {
						p = p.dst.out
					}
					conns[p] = true
				}
			}
		}
	}
	return len(conns)
}
