package peercache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

const (
	dialTimeout  = 2 * time.Second // TCP, TLS, upgrade and handshake together
	dialBackoff  = 50 * time.Millisecond
	maxBackoff   = 500 * time.Millisecond
	dialHangs    = 500 * time.Millisecond // an attempt that has met no answer is begun anew after that, when there is a reason
	maxHeldBytes = 32 << 10               // packets that wait for the connection that is being made
)

// A connector keeps one connection for one purpose to one peer. It is made
// when it is wanted and made again after it broke, with growing pauses while
// that fails. It may be used concurrently.
type connector struct {
	dial  func(ctx context.Context) (*mux.Conn, error)
	spawn func(func(ctx context.Context)) bool
	eager bool // make it again as soon as it broke: whether that is refused says whether the peer is there

	live atomic.Pointer[mux.Conn] // the connection; nil: none; changed with mu held

	mu         sync.Mutex
	dialing    chan struct{} // guarded by mu, like all below; closed when the attempt under way has ended; nil: none is
	began      time.Time     // when it began
	anew       bool          // it was ended for another one to begin at once
	stepped    time.Time     // when the last attempt last heard of the other end
	cancelDial func()        // ends it; of no effect after that
	err        error         // why the last attempt failed; nil: it did not
	failures   int           // in a row
	retryAt    time.Time     // no attempt before that
	held       [][]byte      // packets for the connection that is being made
	heldSize   int
	closed     bool
}

// get returns the connection, making it if there is none. Callers that come
// while it is being made share the attempt, which their contexts do not end.
// During the pause after a failed attempt it fails at once with that error.
func (c *connector) get(ctx context.Context) (*mux.Conn, error) {
	for {
		if conn := c.live.Load(); conn != nil {
			return conn, nil
		}
		c.mu.Lock()
		if conn := c.live.Load(); conn != nil {
			c.mu.Unlock()
			return conn, nil
		}
		if err := c.startLocked(); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		dialing := c.dialing
		c.mu.Unlock()
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// want begins to make the connection if there is none, and reports whether
// there is one.
func (c *connector) want() bool {
	if c.live.Load() != nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.Load() != nil {
		return true
	}
	c.startLocked()
	return false
}

// send sends a packet, or keeps it for the connection that is being made. It
// never blocks: what does not fit is dropped. An error says that the last
// attempt to connect failed and none is due.
func (c *connector) send(packet []byte) error {
	c.mu.Lock()
	if conn := c.live.Load(); conn != nil {
		c.mu.Unlock()
		conn.Send(packet)
		return nil
	}
	defer c.mu.Unlock()
	if err := c.startLocked(); err != nil {
		return err
	}
	if c.heldSize += len(packet); c.heldSize <= maxHeldBytes {
		c.held = append(c.held, packet)
	}
	return nil
}

// startLocked begins an attempt unless one is under way or not due yet.
func (c *connector) startLocked() error {
	switch {
	case c.closed:
		return ErrClosed
	case c.dialing != nil:
		return nil
	case c.err != nil && time.Now().Before(c.retryAt):
		return c.err
	}
	dialing := make(chan struct{})
	ended, cancel := context.WithCancel(context.Background())
	if !c.spawn(func(ctx context.Context) {
		stop := context.AfterFunc(ctx, cancel)
		defer stop()
		defer cancel()
		c.attempt(ended, dialing)
	}) {
		cancel()
		return ErrClosed
	}
	c.cancelDial = cancel
	c.dialing, c.began = dialing, time.Now()
	return nil
}

func (c *connector) attempt(ctx context.Context, dialing chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.dial(context.WithValue(ctx, stepKey{}, c))

	c.mu.Lock()
	c.dialing = nil
	if err == nil {
		c.stepped = time.Now()
	}
	defer close(dialing)
	if c.anew && err != nil {
		c.anew, c.err = false, nil
		c.startLocked()
		c.mu.Unlock()
		return
	}
	c.anew = false
	held := c.held
	c.held, c.heldSize = nil, 0
	c.err = err
	if err != nil {
		c.failures++
		c.retryAt = time.Now().Add(jitter(min(dialBackoff<<min(c.failures-1, 8), maxBackoff)))
		c.mu.Unlock()
		return
	}
	c.failures = 0
	if c.closed {
		c.mu.Unlock()
		conn.Close()
		return
	}
	c.live.Store(conn)
	c.mu.Unlock()
	for _, packet := range held {
		conn.Send(packet)
	}
	if !c.spawn(func(context.Context) { c.watch(conn) }) {
		conn.Close()
	}
}

// stepKey is the key under which the context of an attempt to connect holds the
// connector that makes it.
type stepKey struct{}

// stepped notes that the other end has answered in an attempt to connect.
func stepped(ctx context.Context) {
	if c, ok := ctx.Value(stepKey{}).(*connector); ok {
		c.mu.Lock()
		c.stepped = time.Now()
		c.mu.Unlock()
	}
}

// sinceStep returns how long ago the other end gave a sign while the connection
// was made, which takes several round trips.
func (c *connector) sinceStep() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.stepped)
}

// watch waits until the connection broke and makes room for the next.
func (c *connector) watch(conn *mux.Conn) {
	<-conn.Done()
	c.mu.Lock()
	if c.live.CompareAndSwap(conn, nil) {
		if c.eager {
			c.startLocked()
		}
	}
	c.mu.Unlock()
	conn.Close()
}

// again is called when the other end has been reached in another way: what kept
// the last attempts from it is over. The pause after them ends, and an attempt
// that seems to hang is begun anew.
func (c *connector) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.live.Load() != nil:
	case c.dialing == nil:
		c.failures, c.retryAt = 0, time.Time{}
		if c.eager && c.err != nil {
			c.startLocked()
		}
	case time.Since(c.began) > dialHangs && c.stepped.Before(c.began):
		c.anew = true
		c.cancelDial()
	}
}

// drop breaks the connection; the next get makes a new one at once.
func (c *connector) drop() {
	c.mu.Lock()
	conn := c.live.Swap(nil)
	c.err = nil
	if c.cancelDial != nil {
		c.cancelDial()
	}
	c.mu.Unlock()
	if conn != nil {
		conn.Abort(mux.ErrClosed)
	}
}

// close ends the connector for good.
func (c *connector) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop()
}

// state returns the live connection, or why there is none.
func (c *connector) state() (*mux.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.live.Load(), c.err
}

// failing reports whether the last attempt to connect failed. It begins
// another in the background when one is due.
func (c *connector) failing() bool {
	if c.live.Load() != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.Load() != nil || c.err == nil {
		return false
	}
	c.startLocked()
	return true
}
