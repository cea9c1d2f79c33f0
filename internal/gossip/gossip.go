package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Gossip is this member's part in the gossip. Its methods may be called
// concurrently.
type Gossip struct {
	cfg       Config
	pace      pace
	table     *table
	transport *transport
	list      *memberlist.Memberlist
	conf      *memberlist.Config // list's own; see retune
	ctx       context.Context    // ends with Close
	cancel    context.CancelFunc
	sweeper   sweeper
	inbox     chan packet
	lost      chan string   // members heard of that are not in the list
	changed   chan struct{} // room for one

	meta  atomic.Pointer[[]byte] // what is announced
	gone  atomic.Bool            // Leave was called
	keys  atomic.Uint64          // of joins
	calls gate                   // calls to what Config holds
	ops   gate                   // our own methods that use list
	own   sync.WaitGroup         // our own goroutines

	refused atomic.Uint64 // packets and streams that check found wanting
	dropped atomic.Uint64 // packets that came too fast

	turn    chan struct{} // full while an Update or Leave is in memberlist, which waits there
	closing atomic.Bool
	done    chan struct{} // closed when Close has done its work
}

// packet is one that has arrived.
type packet struct {
	from Peer
	b    []byte
	at   time.Time
}

// inboxSize is how many packets may wait; more are dropped.
const inboxSize = 256

// Start begins to gossip, with a list of one. It returns all that is wrong
// with cfg, joined, or ErrMeta.
func Start(cfg Config) (*Gossip, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		cfg:     cfg,
		pace:    paceFor(cfg.Interval, cfg.Timeout),
		table:   newTable(cfg.Name, paceFor(cfg.Interval, cfg.Timeout)),
		inbox:   make(chan packet, inboxSize),
		lost:    make(chan string, 16),
		changed: make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	if err := g.loadMeta(); err != nil {
		return nil, err
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.transport = newTransport(g)
	g.conf = g.pace.memberlistConfig(cfg.Name, newLogger(cfg.Logger))
	g.conf.Transport = g.transport
	d := delegate{g}
	g.conf.Delegate, g.conf.Events, g.conf.Alive, g.conf.Ping = d, d, d, d
	if g.list, err = memberlist.Create(g.conf); err != nil {
		g.cancel()
		return nil, fmt.Errorf("gossip: %w", err)
	}
	// Packets are taken from here on, as memberlist has its own node now.
	g.goFunc(g.receive)
	g.goFunc(g.notify)
	g.goFunc(g.accuse)
	g.goFunc(g.meet)
	g.goFunc(g.sweep)
	return g, nil
}

func (g *Gossip) goFunc(f func()) {
	g.own.Add(1)
	go func() {
		defer g.own.Done()
		f()
	}()
}

// loadMeta takes what Config.Meta says.
func (g *Gossip) loadMeta() error {
	meta := bytes.Clone(g.cfg.Meta())
	if len(meta) > MaxMeta {
		return fmt.Errorf("%w: %d bytes", ErrMeta, len(meta))
	}
	if _, ok := g.cfg.AddrOf(meta); !ok {
		return ErrMeta
	}
	g.meta.Store(&meta)
	return nil
}

// retune sets the suspicion time for the number of members there are now. It
// is called under memberlist's lock, under which alone memberlist reads it.
func (g *Gossip) retune() {
	g.conf.SuspicionMult = g.pace.suspicionMult(g.table.known(g.pace.dead))
}

// signal makes notify call Config.Changed.
func (g *Gossip) signal() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

func (g *Gossip) notify() {
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-g.changed:
			g.cfg.Changed()
		}
	}
}

// Join exchanges the lists of all members with whoever answers at addr, a
// host:port, so that each knows whom the other knew; the rest of both sides
// hear of it by gossip. The name in addr is the Link's to look up. Join ends
// when ctx does, and in any case within some Timeouts. It returns the Link's
// error, wrapped, ctx's, or ErrClosed.
func (g *Gossip) Join(ctx context.Context, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil || strings.Contains(addr, "/") {
		return fmt.Errorf("gossip: join %q: not a host:port", addr)
	}
	return g.pushPull(ctx, Peer{Addr: addr})
}

// pushPull does one exchange. Memberlist's Join takes "name/address" and hands
// the name on to the transport, so the name is a key for what else there is to
// know.
func (g *Gossip) pushPull(ctx context.Context, to Peer) error {
	if !g.ops.enter() {
		return ErrClosed
	}
	defer g.ops.leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(g.ctx, cancel)
	defer stop()

	who := to.Addr
	if who == "" {
		who = to.Name
	}
	key := who + "#" + strconv.FormatUint(g.keys.Add(1), 10)
	j := &join{ctx: ctx, to: to}
	t := g.transport
	t.mu.Lock()
	t.joins[key] = j
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.joins, key)
		t.mu.Unlock()
	}()

	_, err := g.list.Join([]string{key + "/" + dummyAddr})
	switch {
	case err == nil:
		return nil
	case g.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		err = ctx.Err()
	case j.err != nil:
		err = j.err
	default:
		if first := errors.Unwrap(err); first != nil {
			err = first // the only one of a list of errors
		}
	}
	return fmt.Errorf("gossip: join %s: %w", who, err)
}

// Members returns the live members, by name: this one included, until it
// leaves.
func (g *Gossip) Members() []Member { return g.table.live() }

// Update announces new metadata of this member: Config.Meta is called, and
// gossip tells the others; it does not wait for that. It returns ErrMeta, with
// the old metadata kept, or ErrClosed. After Leave it does nothing.
func (g *Gossip) Update() error {
	if !g.ops.enter() {
		return ErrClosed
	}
	defer g.ops.leave()
	// Memberlist reads its own node without a lock here, so two at a time
	// would race; and after Leave it forgets its own node some day, and would
	// panic.
	g.turn <- struct{}{}
	defer func() { <-g.turn }()
	if g.gone.Load() {
		return nil
	}
	if err := g.loadMeta(); err != nil {
		return err
	}
	// UpdateNode takes the next incarnation number before it takes the lock. If
	// in between an accusation is refuted, with the number after and the old
	// metadata, the update is dropped as outdated: so look, and try again.
	for range 10 {
		_ = g.list.UpdateNode(time.Nanosecond) // waits no longer; its one error says so
		if g.table.announces(g.cfg.Name, *g.meta.Load()) {
			break
		}
	}
	return nil
}

// Leave tells the others that this member goes. It returns when each of them
// was sent that, or when it has been sent as often as gossip sends anything,
// when ctx ends (with its error), or after Timeout. The member answers probes
// until Close, but is in nobody's list any more, not in its own either.
func (g *Gossip) Leave(ctx context.Context) error {
	if !g.ops.enter() { // after its shutdown, memberlist's Leave panics
		return ErrClosed
	}
	defer g.ops.leave()
	g.turn <- struct{}{}
	g.gone.Store(true)
	_ = g.list.Leave(time.Nanosecond) // waits no longer; its one error says so
	<-g.turn

	timeout := time.NewTimer(g.cfg.Timeout)
	defer timeout.Stop()
	tick := time.NewTicker(2 * g.pace.gossip)
	defer tick.Stop()
	for before := 0; ; {
		sent, all := g.transport.leaveTold(g.table.live())
		if all || sent > 0 && sent == before { // two rounds without it came after its last
			return nil
		}
		before = sent
		select {
		case <-tick.C:
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("gossip: leave: %w", ctx.Err())
		case <-g.ctx.Done():
			return ErrClosed
		}
	}
}

// Stats counts what did not get through, since Start.
type Stats struct {
	// Refused counts packets and streams that were malformed.
	Refused uint64
	// Dropped counts packets that were not looked at because too many came.
	Dropped uint64
}

// Stats returns the counts as they are now.
func (g *Gossip) Stats() Stats { return Stats{g.refused.Load(), g.dropped.Load()} }

// Packet delivers a packet that came from a peer over the Link. It never
// blocks and keeps nothing of b; a packet that is too large or too many is
// dropped. From.Name must be what the connection's handshake has proved.
func (g *Gossip) Packet(from Peer, b []byte) {
	if g.ctx.Err() != nil {
		return
	}
	if len(b) > MaxPacket {
		g.refused.Add(1)
		return
	}
	if len(g.inbox) < cap(g.inbox) { // else save the copy
		select {
		case g.inbox <- packet{from, bytes.Clone(b), time.Now()}:
			return
		default:
		}
	}
	g.dropped.Add(1)
}

// receive checks packets and hands them to memberlist.
func (g *Gossip) receive() {
	var objection objection
	for {
		select {
		case <-g.ctx.Done():
			return
		case p := <-g.inbox:
			relay, doubted, unheard := false, false, false
			if check(p.b, func(m message) {
				relay = relay || m.kind == kindIndirectPing
				doubted = g.doubt(&m) || doubted
				g.table.learn(m)
				g.relayed(m)
				unheard = string(m.node) == g.cfg.Name && objection.unheard(m, p.at, g.pace) || unheard
			}) != nil {
				g.refused.Add(1)
				continue
			}
			if doubted {
				seal(p.b)
			}
			if relay && g.transport.busy() {
				g.dropped.Add(1)
				continue
			}
			g.heard(p.from)
			select {
			case <-g.ctx.Done():
				return
			case g.transport.packets <- &memberlist.Packet{
				Buf: p.b, From: p.from.logAddr(), Timestamp: p.at,
			}:
			}
			if unheard {
				_ = g.Update() // announces this member with a greater incarnation
			}
		}
	}
}

// heard deals with a sender that should not be there, or not for long. Gossip
// told it so once, perhaps at a time when it could not listen, and memberlist
// tells a suspect only when it next probes it, and a dead member never.
func (g *Gossip) heard(from Peer) {
	if !isName(from.Name) || from.Name == g.cfg.Name {
		return
	}
	lost, accusation := g.table.heard(from.Name, from.Addr)
	if accusation != nil {
		g.send(from.Name, accusation) // it objects, by gossip
	}
	if lost {
		select {
		case g.lost <- from.Name:
		default:
		}
	}
}

// stopped waits while this process is stopped, and reports whether it was.
// Memberlist's timers run on then. But its prober and its gossip send before
// they judge, hold no lock meanwhile, and so stand still here.
func (g *Gossip) stopped() bool {
	if !g.calls.enter() {
		return false
	}
	defer g.calls.leave()
	return !g.cfg.Running(g.ctx)
}

// send sends a packet to a member, unless we are closing.
func (g *Gossip) send(name string, b []byte) {
	g.stopped()
	if g.calls.enter() {
		defer g.calls.leave()
		_ = g.cfg.Link.Send(Peer{Name: name, Addr: g.table.addr(name)}, b)
	}
}

// Stream delivers a stream that a peer opened over the Link. It never blocks;
// the connection is Gossip's to close.
func (g *Gossip) Stream(conn net.Conn) {
	// Close empties the channel after the last Stream has ended.
	if !g.ops.enter() {
		conn.Close()
		return
	}
	defer g.ops.leave()
	if s, ok := g.transport.streams.add(g, conn, "accepted"); ok {
		g.transport.accepts <- s // has room for all that the set lets in
	}
}

// Close ends the gossip at once, as a crash would; to go in order, call Leave
// before. It is idempotent, and returns when the work is done, to the second
// caller too. Then no goroutine of ours is left, none of memberlist's waits
// for anything, and nothing that Config holds is called any more.
//
// Memberlist's own shutdown waits for nothing. So Close ends, in this order,
// whatever one of its goroutines may be waiting for: streams to be opened,
// read or written; answers to pings; and then its tickers and channels, which
// its shutdown ends itself. Timers of suspicions may run after it: they find a
// list that nobody reads.
func (g *Gossip) Close() {
	if g.closing.CompareAndSwap(false, true) {
		g.shutdown()
	}
	<-g.done
}

func (g *Gossip) shutdown() {
	defer close(g.done)
	g.ops.close()
	g.calls.close()
	g.cancel()
	g.transport.streams.cut()
	g.ops.wait()
	g.own.Wait()
	g.transport.release()
	_ = g.list.Shutdown() // cannot fail: the transport's does not
	for {
		select {
		case s := <-g.transport.accepts: // one that memberlist did not get to
			s.Close()
			continue
		default:
		}
		break
	}
	g.transport.streams.wait()
	g.calls.wait()
}
