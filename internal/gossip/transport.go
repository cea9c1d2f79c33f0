package gossip

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's way out, over Config.Link. Packets and streams are
// routed by the Name of an Address, never by its Addr.
type transport struct {
	g       *Gossip
	packets chan *memberlist.Packet // unbuffered: who sends knows that the packet before is done with
	accepts chan net.Conn           // has room for every stream there may be
	streams streamSet

	mu    sync.Mutex
	pings []pingSent       // guarded by mu; those that somebody may wait for, by time
	joins map[string]*join // guarded by mu; by key, which is no name
	told  map[string]int   // guarded by mu; packets that say that we left, by whom they were sent to
}

// pingSent is a ping of ours, or one that we relayed.
type pingSent struct {
	seq uint32
	at  time.Time
}

// maxPings bounds the pings that wait for an answer: memberlist spends a
// goroutine on each that it relays.
const maxPings = 512

// join is one push/pull under way.
type join struct {
	ctx context.Context
	to  Peer
	err error // why the stream could not be opened; set before memberlist's Join returns
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(g *Gossip) *transport {
	return &transport{
		g:       g,
		packets: make(chan *memberlist.Packet),
		accepts: make(chan net.Conn, MaxStreams),
		joins:   make(map[string]*join),
		told:    make(map[string]int),
	}
}

// FinalAdvertiseAddr returns the address that every member announces.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return dummyIP, dummyPort, nil
}

// errUnnamed is returned for what memberlist would send without a name, which
// it is configured not to do.
var errUnnamed = errors.New("gossip: no name to send to")

// WriteTo is not used: memberlist prefers WriteToAddress.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Now(), errUnnamed }

// DialTimeout is not used: memberlist prefers DialAddressTimeout.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errUnnamed }

// errStopped is returned for a packet that waited while this process was
// stopped.
var errStopped = errors.New("gossip: this process was stopped")

// WriteToAddress sends a packet. A Link's error becomes a net.OpError, which
// is what memberlist takes for a failed probe; any other error it takes for a
// fault of its own and suspects nobody, which is right when we are closing, and
// when the time for the answer has passed while this process was stopped.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	stopped := t.g.stopped()
	now := time.Now()
	t.note(b, a.Name, now)
	if !t.g.calls.enter() {
		return now, ErrClosed
	}
	defer t.g.calls.leave()
	if !isName(a.Name) || a.Name == t.g.cfg.Name {
		return now, nil // an answer to somebody who gave a wrong name
	}
	to := Peer{Name: a.Name, Addr: t.g.table.addr(a.Name)}
	if err := t.g.cfg.Link.Send(to, b); err != nil {
		return now, &net.OpError{Op: "write", Net: "udp", Addr: to.logAddr(), Err: err}
	}
	if stopped {
		return now, errStopped
	}
	return now, nil
}

// note remembers what Close and Leave need to know of a packet. It is called
// before the gate: a ping is noted, or its sender is told that we are closing.
func (t *transport) note(b []byte, to string, now time.Time) {
	_ = check(b, func(m message) {
		t.g.table.learn(m)
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case m.kind == kindPing:
			t.expireLocked(now)
			t.pings = append(t.pings, pingSent{uint32(m.seq), now})
			t.g.table.asked(to, now)
		case m.left && string(m.node) == t.g.cfg.Name:
			t.told[to]++
		}
	})
}

// expireLocked drops the pings that nobody waits for any more.
func (t *transport) expireLocked(now time.Time) {
	longest := max(maxAwareness*t.g.pace.interval, t.g.pace.ack)
	i := 0
	for i < len(t.pings) && now.Sub(t.pings[i].at) > longest {
		i++
	}
	t.pings = append(t.pings[:0], t.pings[i:]...)
}

// busy reports whether so many pings wait for an answer that no more should be
// relayed.
func (t *transport) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expireLocked(time.Now())
	return len(t.pings) >= maxPings
}

// leaveTold returns how many packets that say that we left were sent, and
// whether each of the members was sent one.
func (t *transport) leaveTold(members []Member) (sent int, all bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.told {
		sent += n
	}
	for _, m := range members {
		if t.told[m.Name] == 0 {
			return sent, false
		}
	}
	return sent, true
}

// DialAddressTimeout opens a stream to a member, or for a join.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	t.g.stopped()
	ctx, to := t.g.ctx, Peer{Name: a.Name}
	t.mu.Lock()
	j := t.joins[a.Name]
	t.mu.Unlock()
	if j != nil {
		ctx, to = j.ctx, j.to
	} else {
		to.Addr = t.g.table.addr(a.Name)
	}
	conn, err := t.open(ctx, to, timeout)
	if err != nil {
		if j != nil {
			j.err = err
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: to.logAddr(), Err: err}
	}
	if j != nil {
		// The join's end cuts the exchange short.
		stop := context.AfterFunc(ctx, func() { conn.Conn.Close() })
		inner := conn.close
		conn.close = func() error { stop(); return inner() }
	}
	return conn, nil
}

func (t *transport) open(ctx context.Context, to Peer, timeout time.Duration) (*stream, error) {
	if !t.g.calls.enter() {
		return nil, ErrClosed
	}
	defer t.g.calls.leave()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := t.g.cfg.Link.Open(ctx, to)
	if err != nil {
		return nil, err
	}
	s, ok := t.streams.add(t.g, conn, to.logAddr())
	if !ok {
		return nil, errors.New("gossip: too many streams")
	}
	return s, nil
}

// PacketCh is where memberlist gets packets from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh is where memberlist gets streams from. It is never closed:
// memberlist would handle a nil connection.
func (t *transport) StreamCh() <-chan net.Conn { return t.accepts }

// Shutdown does nothing: Close has done it.
func (t *transport) Shutdown() error { return nil }

// release ends every wait of memberlist's for the answer to a ping, by giving
// it the answer. It is called when no packet comes in any more and the gate is
// closed, before memberlist's own shutdown, while packets are still read.
//
// The prober waits for the answer to its ping for up to maxAwareness
// intervals, and a goroutine per relayed ping for the ack time. Both noted
// their ping before they began to wait. The first barrier makes sure that a
// relaying under way has noted its own; the last, that all answers have been
// handed on.
func (t *transport) release() {
	const barrier = 0 // a sequence number that is never used: they begin with 1
	t.inject(barrier)
	t.mu.Lock()
	pings := t.pings
	t.pings = nil
	t.mu.Unlock()
	for _, p := range pings {
		t.inject(p.seq)
	}
	t.inject(barrier)
}

func (t *transport) inject(seq uint32) {
	t.packets <- &memberlist.Packet{Buf: ackPacket(seq), From: logAddr("self"), Timestamp: time.Now()}
}
