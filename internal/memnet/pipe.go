package memnet

import (
	"syscall"
	"time"
)

// link is one direction between two hosts, with its faults. Network.mu guards it.
type link struct {
	cut    bool
	resets bool
	delay  time.Duration
	jitter time.Duration
	rate   int                // bytes a second; 0: no bound
	free   time.Duration      // when all that was sent at a rate is on its way
	bytes  int64              // written to pipes of this link, ever
	pipes  map[*pipe]struct{} // of the connections that are not closed at both ends
}

type linkKey struct{ from, to string }

type segmentKind int

const (
	data       segmentKind = iota
	endOfWrite             // the source will write no more: readers get io.EOF
	endOfBoth              // the source neither writes nor reads any more: writes to it fail, too
	reset                  // the connection is broken
)

// segment is something on its way through a pipe.
type segment struct {
	kind segmentKind
	n    int           // bytes of data
	due  time.Duration // when it arrives, unless the pipe is stalled or a segment before it is due later
}

// pipe is one direction of a connection: the sender's buffer, the way, and the receiver's buffer. Network.mu guards it.
type pipe struct {
	nw       *Network
	src, dst *conn
	link     *link
	limit    int // most bytes in held

	held  buffer    // all that was written and not yet read
	ready int       // so many bytes of held have arrived
	way   []segment // what has not, in order

	gotEOF   bool          // endOfWrite has arrived
	gotClose bool          // endOfBoth has arrived
	broken   syscall.Errno // a reset has arrived, or the connection has timed out; 0: neither

	unacked unacked

	timer *time.Timer   // calls fire at armed
	armed time.Duration // zero: not at all
}

// stalledLocked tells whether nothing can arrive at present.
func (p *pipe) stalledLocked() bool {
	return p.link.cut || p.src.host.vanished || p.dst.host.vanished
}

// sendLocked puts something on its way. The caller has seen to it that b fits in.
func (p *pipe) sendLocked(kind segmentKind, b []byte) {
	if p.link.rate > 0 && len(b) > ratePiece {
		p.sendLocked(kind, b[:ratePiece])
		p.sendLocked(kind, b[ratePiece:])
		return
	}
	now := p.nw.now()
	takes := p.link.delay + p.link.crossLocked(now, len(b))
	if p.link.jitter > 0 {
		takes += time.Duration(p.nw.random.Int64N(int64(p.link.jitter)))
	}
	s := segment{kind: kind, n: len(b), due: p.sentLocked(now, now+takes)}
	p.held.write(b)
	p.link.bytes += int64(len(b))
	if len(p.way) == 0 && s.due <= now {
		p.arriveLocked(s)
		return
	}
	if i := len(p.way) - 1; i >= 0 {
		last := &p.way[i]
		if kind == data && last.kind == data && last.due == s.due {
			last.n += s.n
			return
		}
	}
	p.way = append(p.way, s)
	p.armLocked(now)
}

// breakLocked forgets what is on its way and sends a reset after it.
func (p *pipe) breakLocked() {
	p.way, p.unacked.waits = nil, false
	p.sendLocked(reset, nil)
}

// settleLocked lets everything arrive that is due.
func (p *pipe) settleLocked(now time.Duration) {
	if p.stalledLocked() {
		return
	}
	for len(p.way) > 0 && p.way[0].due <= now {
		s := p.way[0]
		if len(p.way) == 1 {
			p.way = p.way[:0]
		} else {
			p.way = p.way[1:]
		}
		p.arriveLocked(s)
	}
	p.armLocked(now)
}

func (p *pipe) arriveLocked(s segment) {
	switch s.kind {
	case data:
		p.ready += s.n
	case endOfWrite:
		p.gotEOF = true
	case endOfBoth:
		p.gotEOF, p.gotClose = true, true
		p.dst.writable.Broadcast()
	case reset:
		p.failLocked(syscall.ECONNRESET)
		return
	}
	if p.dst.closed {
		p.discardLocked()
		return
	}
	p.dst.readable.Broadcast()
}

// failLocked breaks the pipe at once for its receiver, who loses what it has not read.
func (p *pipe) failLocked(err syscall.Errno) {
	p.broken = err
	p.held, p.ready, p.way = buffer{}, 0, nil
	p.dst.readable.Broadcast()
	p.dst.writable.Broadcast()
}

// discardLocked drops what has arrived at an end that is closed.
func (p *pipe) discardLocked() {
	if p.ready > 0 {
		p.held.drop(p.ready)
		p.ready = 0
		p.src.writable.Broadcast()
	}
}

func (p *pipe) readLocked(b []byte) int {
	n := p.held.read(b, p.ready)
	p.ready -= n
	p.src.writable.Broadcast()
	return n
}

// armLocked sees to it that fire is called when the first segment is due.
func (p *pipe) armLocked(now time.Duration) {
	if len(p.way) == 0 || p.way[0].due == never || p.way[0].due == p.armed || p.stalledLocked() {
		return
	}
	p.armed = p.way[0].due
	if p.timer == nil {
		p.timer = time.AfterFunc(p.armed-now, p.fire)
	} else {
		p.timer.Reset(p.armed - now)
	}
}

func (p *pipe) fire() {
	p.nw.mu.Lock()
	defer p.nw.mu.Unlock()
	p.armed = 0
	p.settleLocked(p.nw.now())
}

// forgetLocked frees the pipe when both ends are closed.
func (p *pipe) forgetLocked() {
	for _, t := range []*time.Timer{p.timer, p.unacked.timer} {
		if t != nil {
			t.Stop()
		}
	}
	p.held, p.ready, p.way = buffer{}, 0, nil
	delete(p.link.pipes, p)
}
