package memnet

import (
	"context"
	"net"
	"syscall"
	"time"
)

// dialTimeout is when Linux gives up a handshake that nobody answers.
const dialTimeout = 127 * time.Second

// DialContext connects from this host to address, host:port; the network is "tcp", "tcp4" or "tcp6", which are the same. It
// suits net/http's Transport.DialContext.
//
// An address that nobody listens on refuses with ECONNREFUSED, a host that never existed does so, too. A dial hangs while
// the link is cut in either direction, this host is paused, the other has vanished or its backlog is full: until that is
// over, ctx ends, or 127 s have passed, which is ETIMEDOUT. It takes a round trip where links have a delay. A name made with
// [Network.SetName] is tried address by address, in order, until one accepts; of the time that ctx leaves, each gets an
// equal share of what is left, but at least 2 s.
//
// Errors are *net.OpError with Op "dial" and wrap a syscall.Errno, ctx's error, or net.ErrClosed once the network is closed.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if err := checkNetwork("dial", network); err != nil {
		return nil, err
	}
	name, port, err := splitAddr(address)
	if err != nil {
		return nil, opError("dial", nil, nil, err)
	}
	if unspecified(name) {
		name = h.name
	}
	hosts, err := h.nw.resolve(name)
	if err != nil {
		return nil, opError("dial", nil, nil, err)
	}
	var first error
	for i, host := range hosts {
		c, err := h.dialShare(ctx, host, port, len(hosts)-i)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// dialShare dials the first of so many hosts that are to share the time left.
func (h *Host) dialShare(ctx context.Context, host string, port, hosts int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok && hosts > 1 {
		share := max(time.Until(end)/time.Duration(hosts), 2*time.Second)
		short, cancel := context.WithTimeout(ctx, share)
		defer cancel()
		ctx = short
	}
	return h.dial(ctx, host, port)
}

// dial waits on the network's changes and the clock until the handshake has an outcome.
func (h *Host) dial(ctx context.Context, host string, port int) (net.Conn, error) {
	nw := h.nw
	remote := makeAddr(host, port)
	handshake := -time.Nanosecond // when it ends, if nothing stops it; negative: it has not begun
	giveUp := time.Duration(0)
	for {
		if err := ctx.Err(); err != nil {
			return nil, opError("dial", nil, remote, err)
		}
		nw.mu.Lock()
		now := nw.now()
		if giveUp == 0 {
			giveUp = now + dialTimeout
		}
		if handshake < 0 {
			handshake = now + nw.delayLocked(h.name, host) + nw.delayLocked(host, h.name)
		}
		wake := giveUp
		target := nw.hosts[host]
		var l *listener
		if target != nil {
			l = target.listeners[port]
		}
		var err error
		switch {
		case nw.closed:
			err = net.ErrClosed
		case h.down:
			err = syscall.ENETUNREACH
		case now >= giveUp:
			err = syscall.ETIMEDOUT
		case h.paused || nw.cutLocked(h.name, host) || nw.cutLocked(host, h.name) || target != nil && target.vanished:
			handshake = -1
		case now < handshake:
			wake = min(handshake, giveUp)
		case l == nil || target.refuses || nw.resetsLocked(h.name, host):
			err = syscall.ECONNREFUSED
		case len(l.waiting) >= backlog:
		default:
			c, accepted := nw.newConnsLocked(h, h.nextPortLocked(), target, port)
			l.waiting = append(l.waiting, accepted)
			l.acceptable.Signal()
			nw.mu.Unlock()
			return c, nil
		}
		changed := nw.changesLocked()
		nw.mu.Unlock()
		if err != nil {
			return nil, opError("dial", nil, remote, err)
		}
		timer := time.NewTimer(wake - now)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}
