package memnet

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

// backlog is how many connections a listener holds that were not accepted yet.
const backlog = 128

// listener is a net.Listener. Its methods Now, Elapsed and Running are its host's clock: a program that is given the listener
// and finds them there can use that clock, and so sees the pauses and the skew of its host.
type listener struct {
	host *Host
	port int
	addr net.Addr

	// Network.mu guards all below and is the lock of the condition.
	acceptable sync.Cond
	waiting    []*conn
	closed     bool // Close was called or the host crashed: nothing more is accepted
	userClosed bool // Close was called
}

func (l *listener) Addr() net.Addr { return l.addr }

// Now is [Host.Now] of the listener's host.
func (l *listener) Now() time.Time { return l.host.Now() }

// Elapsed is [Host.Elapsed] of the listener's host.
func (l *listener) Elapsed() time.Duration { return l.host.Elapsed() }

// Running is [Host.Running] of the listener's host.
func (l *listener) Running(ctx context.Context) bool { return l.host.Running(ctx) }

// LookupHost is [Network.LookupHost].
func (l *listener) LookupHost(ctx context.Context, name string) ([]string, error) {
	return l.host.nw.LookupHost(ctx, name)
}

func (l *listener) Accept() (net.Conn, error) {
	nw := l.host.nw
	nw.mu.Lock()
	defer nw.mu.Unlock()
	for {
		switch {
		case l.closed:
			return nil, opError("accept", nil, l.addr, net.ErrClosed)
		case !l.host.paused && len(l.waiting) > 0:
			if len(l.waiting) == backlog {
				nw.changedLocked()
			}
			c := l.waiting[0]
			l.waiting = l.waiting[1:]
			return c, nil
		}
		l.acceptable.Wait()
	}
}

// Close ends the calls of Accept and resets the connections that were not accepted.
func (l *listener) Close() error {
	nw := l.host.nw
	nw.mu.Lock()
	defer nw.mu.Unlock()
	if l.userClosed {
		return opError("close", nil, l.addr, net.ErrClosed)
	}
	l.userClosed = true
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	l.acceptable.Broadcast()
	if !l.host.paused {
		l.removeLocked()
	}
}

// removeLocked makes the network see that the listener is closed.
func (l *listener) removeLocked() {
	delete(l.host.listeners, l.port)
	for _, c := range l.waiting {
		if !c.closed {
			c.closed, c.userClosed = true, true
			c.breakLocked()
			c.closedLocked()
		}
	}
	l.waiting = nil
	l.host.nw.changedLocked()
}

// listenLocked makes a listener on the host; port 0 picks one.
func (h *Host) listenLocked(port int) (net.Listener, error) {
	h.restartLocked()
	if port == 0 {
		for port == 0 || h.listeners[port] != nil {
			port = h.nextPortLocked()
		}
	}
	addr := makeAddr(h.name, port)
	if h.listeners[port] != nil {
		return nil, opError("listen", nil, addr, syscall.EADDRINUSE)
	}
	l := &listener{host: h, port: port, addr: addr}
	l.acceptable.L = &h.nw.mu
	h.listeners[port] = l
	h.nw.changedLocked()
	return l, nil
}
