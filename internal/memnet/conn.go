package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a connection.
type conn struct {
	nw            *Network
	host          *Host
	peer          *conn
	local, remote net.Addr
	in, out       *pipe

	// Network.mu guards all below and is the lock of both conditions.
	readable, writable          sync.Cond
	readDeadline, writeDeadline deadline

	writing    bool // a Write is under way; others wait, so that their bytes are not mixed
	finished   bool // CloseWrite was called
	closed     bool // Close was called or the host crashed: no call gets any further
	userClosed bool // Close was called

	userTimeout        time.Duration // see SetUserTimeout
	saidEOF, saidClose bool          // the peer was sent endOfWrite, endOfBoth
}

// newConnsLocked returns the two ends of a connection from (host, port) a to b.
func (nw *Network) newConnsLocked(a *Host, aPort int, b *Host, bPort int) (*conn, *conn) {
	x := &conn{nw: nw, host: a, local: makeAddr(a.name, aPort), remote: makeAddr(b.name, bPort)}
	y := &conn{nw: nw, host: b, local: x.remote, remote: x.local}
	x.peer, y.peer = y, x
	there := nw.newPipeLocked(x, y)
	back := nw.newPipeLocked(y, x)
	x.out, y.in = there, there
	y.out, x.in = back, back
	for _, c := range []*conn{x, y} {
		c.readable.L, c.writable.L = &nw.mu, &nw.mu
		c.readDeadline.nw, c.readDeadline.cond = nw, &c.readable
		c.writeDeadline.nw, c.writeDeadline.cond = nw, &c.writable
		c.host.conns[c] = struct{}{}
	}
	return x, y
}

func (nw *Network) newPipeLocked(src, dst *conn) *pipe {
	p := &pipe{nw: nw, src: src, dst: dst, link: nw.linkLocked(src.host.name, dst.host.name), limit: nw.buffer}
	p.link.pipes[p] = struct{}{}
	return p
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) Read(b []byte) (int, error) {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.error("read", net.ErrClosed)
		case c.readDeadline.expired:
			return 0, c.error("read", os.ErrDeadlineExceeded)
		case len(b) == 0:
			return 0, nil
		case c.host.paused:
		case c.in.broken != 0:
			return 0, c.error("read", c.in.broken)
		case c.in.ready > 0:
			return c.in.readLocked(b), nil
		case c.in.gotEOF:
			return 0, io.EOF
		}
		c.readable.Wait()
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	n, mine := 0, false
	defer func() {
		if mine {
			c.writing = false
			c.writable.Broadcast()
		}
	}()
	for {
		switch {
		case c.closed:
			return n, c.error("write", net.ErrClosed)
		case c.writeDeadline.expired:
			return n, c.error("write", os.ErrDeadlineExceeded)
		case c.finished:
			return n, c.error("write", syscall.EPIPE)
		case c.host.paused:
		case c.in.broken != 0:
			return n, c.error("write", c.in.broken)
		case c.in.gotClose:
			return n, c.error("write", syscall.EPIPE)
		case c.writing && !mine:
		default:
			c.writing, mine = true, true
			if k := min(len(b)-n, c.out.limit-c.out.held.n); k > 0 {
				c.out.sendLocked(data, b[n:n+k])
				n += k
			}
			if n == len(b) {
				return n, nil
			}
			if c.out.held.n < c.out.limit {
				continue // the peer is closed and has dropped it already
			}
		}
		c.writable.Wait()
	}
}

// CloseWrite ends the stream to the peer, as [net.TCPConn.CloseWrite] does: the peer reads what was written and then
// io.EOF, and can still be read from.
func (c *conn) CloseWrite() error {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	if c.closed {
		return c.error("close", net.ErrClosed)
	}
	c.finished = true
	c.sayLocked()
	c.writable.Broadcast()
	return nil
}

// Close ends the connection and the calls that wait for it. It never waits: the network delivers what was written.
func (c *conn) Close() error {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	if c.userClosed {
		return c.error("close", net.ErrClosed)
	}
	c.userClosed = true
	if !c.closed {
		c.finished, c.closed = true, true
		c.sayLocked()
		c.closedLocked()
	}
	return nil
}

// sayLocked tells the peer what it has not been told, which a paused host leaves for later.
func (c *conn) sayLocked() {
	if c.host.paused {
		return
	}
	if c.finished && !c.saidEOF {
		c.saidEOF = true
		c.out.sendLocked(endOfWrite, nil)
	}
	if c.closed && !c.saidClose {
		c.saidClose = true
		c.out.sendLocked(endOfBoth, nil)
	}
}

// killLocked closes the end as the kernel does when the process has died: with a reset where the process had not read all,
// in order otherwise.
func (c *conn) killLocked() {
	if c.closed {
		return
	}
	c.finished, c.closed = true, true
	if c.in.ready > 0 {
		c.breakLocked()
	} else {
		c.sayLocked()
	}
	c.closedLocked()
}

// breakLocked resets the connection for the peer.
func (c *conn) breakLocked() {
	c.saidEOF, c.saidClose = true, true
	c.out.breakLocked()
}

// closedLocked does what is left to do when closed was set.
func (c *conn) closedLocked() {
	c.readDeadline.stopLocked()
	c.writeDeadline.stopLocked()
	c.in.discardLocked()
	c.wakeLocked()
	if c.peer.closed {
		for _, end := range []*conn{c, c.peer} {
			end.in.forgetLocked()
			delete(end.host.conns, end)
		}
	}
}

func (c *conn) wakeLocked() {
	c.readable.Broadcast()
	c.writable.Broadcast()
}

func (c *conn) error(op string, err error) error {
	return opError(op, c.local, c.remote, err)
}

func (c *conn) SetDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline, &c.writeDeadline)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.readDeadline)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadlines(t, &c.writeDeadline)
}

func (c *conn) setDeadlines(t time.Time, deadlines ...*deadline) error {
	c.nw.mu.Lock()
	defer c.nw.mu.Unlock()
	if c.closed {
		return c.error("set", net.ErrClosed)
	}
	for _, d := range deadlines {
		d.setLocked(t)
	}
	return nil
}

// deadline ends the calls that wait for cond. Network.mu guards it.
type deadline struct {
	nw      *Network
	cond    *sync.Cond
	expired bool
	set     bool
	at      time.Duration // on the network's clock, which unlike the wall clock only goes forward
	timer   *time.Timer
}

func (d *deadline) setLocked(t time.Time) {
	d.stopLocked()
	d.expired = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.expired = true
		d.cond.Broadcast()
		return
	}
	d.set, d.at = true, d.nw.now()+left
	if d.timer == nil {
		d.timer = time.AfterFunc(left, d.fire)
	} else {
		d.timer.Reset(left)
	}
}

func (d *deadline) stopLocked() {
	d.set = false
	if d.timer != nil {
		d.timer.Stop()
	}
}

// fire may be the call of an earlier deadline that could not be stopped any more.
func (d *deadline) fire() {
	d.nw.mu.Lock()
	defer d.nw.mu.Unlock()
	if d.set && d.nw.now() >= d.at {
		d.expired = true
		d.cond.Broadcast()
	}
}
