package mux

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Conn carries calls in both directions over one net.Conn. Safe for concurrent
// use. It ends by Close, Abort, or when the net.Conn breaks, and then takes
// its goroutines with it.
type Conn struct {
	nc     net.Conn
	opts   Options
	ctx    context.Context // of all handlers; ends with the connection
	cancel context.CancelFunc
	start  time.Time // what the times below are relative to

	wake   chan struct{} // tells an idle writer that there is something to write
	broken chan struct{} // closed once err is set
	quiet  chan struct{} // tells Drain to look again
	wg     sync.WaitGroup

	heard    atomic.Int64 // time of the last read, since start
	bytesIn  atomic.Int64
	bytesOut atomic.Int64
	framesIn atomic.Int64
	dropped  atomic.Int64 // packets

	in     inbox   // of the reading goroutine alone
	direct *direct // nil: not possible; of who set outbox.idle to false

	// mu guards what follows. It is never held while anything blocks.
	mu       sync.Mutex
	err      error // why the connection ended
	out      outbox
	calls    callTable
	served   map[uint64]*serving // the peer's requests, by call id
	held     int                 // bytes of their bodies
	draining bool                // we sent a goaway
	drained  bool                // and the peer's ack came: no request will follow
	going    bool                // the peer sent a goaway

	quietness silence

	patrolTimer *time.Timer   // nil until the first call of Try
	patrolAt    time.Duration // when it fires, since start; 0: it does not
}

// New returns a Conn over nc, which it owns from now on, and starts its
// goroutines: a reader and a writer. nc is past its handshake and has no
// deadlines set.
func New(nc net.Conn, opts Options) *Conn {
	c := &Conn{
		nc:     nc,
		opts:   opts.fill(),
		start:  time.Now(),
		wake:   make(chan struct{}, 1),
		broken: make(chan struct{}),
		quiet:  make(chan struct{}, 1),
		served: make(map[uint64]*serving),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.out.batch = 1 // 0 is none
	c.direct = newDirect(nc)
	c.in.frames = wire.NewFrameReader(nc, c.opts.MaxFrame)
	c.spawn(c.write)
	c.spawn(c.read)
	return c
}

// spawn runs f in a goroutine that Close waits for.
func (c *Conn) spawn(f func()) {
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		f()
	}()
}

// Abort breaks the connection for the given reason and fails all calls. It
// does not wait for goroutines. Nil stands for ErrClosed. Only the first
// reason counts.
func (c *Conn) Abort(err error) {
	if err == nil {
		err = ErrClosed
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	for _, t := range []*time.Timer{c.patrolTimer, c.quietness.timer} {
		if t != nil {
			t.Stop()
		}
	}
	failed := c.calls.takeAll(&c.out)
	c.out.clear()
	c.mu.Unlock()

	close(c.broken)
	c.cancel()
	for _, cl := range failed {
		cl.err = &CallError{Sent: cl.sent, Err: err}
		cl.done <- struct{}{}
	}
	// TLS would say goodbye first, and wait for a peer that may not listen.
	if n, ok := c.nc.(interface{ NetConn() net.Conn }); ok {
		n.NetConn().Close()
	}
	c.nc.Close()
}

// Close breaks the connection with ErrClosed and waits for its goroutines,
// handlers included, whose contexts it ends. Idempotent; returns nil.
func (c *Conn) Close() error {
	c.Abort(ErrClosed)
	c.wg.Wait()
	return nil
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.broken }

// Err returns why the connection has ended, or nil.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Drain tells the peer to send no more requests and waits until those under
// way are answered and the answers written, or the connection or ctx ends,
// whose error it returns. Calls of this side go on. It does not close.
func (c *Conn) Drain(ctx context.Context) error {
	c.mu.Lock()
	if !c.draining && c.err == nil {
		c.draining = true
		c.out.frame(&wire.Header{Kind: wire.KindGoaway}, nil, nil)
		c.kickLocked()
	}
	for {
		if c.err != nil {
			defer c.mu.Unlock()
			return c.err
		}
		if c.drained && len(c.served) == 0 && c.out.idle && c.out.empty() {
			c.mu.Unlock()
			c.hush() // another Drain may wait
			return nil
		}
		c.mu.Unlock()
		select {
		case <-c.quiet:
		case <-c.broken:
		case <-ctx.Done():
			c.hush()
			return ctx.Err()
		}
		c.mu.Lock()
	}
}

// hush makes Drain look again.
func (c *Conn) hush() {
	select {
	case c.quiet <- struct{}{}:
	default:
	}
}

// GoingAway reports whether the peer takes no more requests.
func (c *Conn) GoingAway() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.going
}

// SinceHeard returns how long ago bytes came from the peer, or the connection
// began.
func (c *Conn) SinceHeard() time.Duration {
	return time.Since(c.start) - time.Duration(c.heard.Load())
}

// LastHeard returns when bytes came from the peer, or the connection began.
func (c *Conn) LastHeard() time.Time {
	return c.start.Add(time.Duration(c.heard.Load()))
}

// Stats are counters of a Conn's life, and what is under way.
type Stats struct {
	FramesIn, FramesOut int64
	BytesIn, BytesOut   int64
	PacketsDropped      int64 // by Send
	Calls               int   // ours, waiting for an answer
	Serving             int   // the peer's requests, being received or served
}

// Stats returns the counters. They are not of one instant.
func (c *Conn) Stats() Stats {
	s := Stats{
		FramesIn: c.framesIn.Load(), BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
		PacketsDropped: c.dropped.Load(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.FramesOut, s.Calls, s.Serving = c.out.frames, c.calls.used, len(c.served)
	return s
}

// Send sends a one-way datagram. It never blocks: false means that the packet
// was dropped, because too many wait, it is larger than MaxWhole, or the
// connection has ended. True promises nothing. The packet is copied.
func (c *Conn) Send(packet []byte) bool {
	h := wire.Header{Kind: wire.KindPacket}
	if c.opts.PacketDigest != nil {
		h.Fields.Digest = c.opts.PacketDigest()
	}
	c.mu.Lock()
	if c.err != nil || len(packet) > MaxWhole || c.out.packets >= c.opts.MaxPackets ||
		len(c.out.buf)+len(packet) > c.opts.MaxQueue {
		c.mu.Unlock()
		c.dropped.Add(1)
		return false
	}
	c.out.packets++
	c.out.frame(&h, packet, nil)
	c.quietness.packets = true
	c.listenLocked()
	c.kickLocked()
	c.mu.Unlock()
	return true
}

// guard calls f, a function of the user's, and turns a panic or a Goexit into
// an error.
func (c *Conn) guard(f func()) (err error) {
	finished := false
	defer func() {
		if finished {
			return
		}
		v := recover()
		err = c.panicked(v)
	}()
	f()
	finished = true
	return nil
}

// panicked tells of a panic and makes an error of it.
func (c *Conn) panicked(v any) error {
	stack := debug.Stack()
	if c.opts.Panicked != nil {
		func() {
			defer func() { _ = recover() }() // nothing is left to tell
			c.opts.Panicked(v, stack)
		}()
	}
	return &panicError{v}
}

// panicError is what a panic in a function of the user's became.
type panicError struct{ value any }

func (e *panicError) Error() string {
	if e.value == nil {
		return "handler ended without an answer"
	}
	return clip(fmt.Sprintf("panic: %v", e.value))
}
