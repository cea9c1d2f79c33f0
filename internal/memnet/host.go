package memnet

import (
	"context"
	"net"
	"syscall"
	"time"
)

// Host is one machine of a [Network] with one process on it: a name, listeners, connections, a clock and the faults that
// strike all of them together. Make one with [Network.Host]. Its methods may be called concurrently.
type Host struct {
	nw    *Network
	name  string
	clock clock

	// Network.mu guards all below.
	listeners map[int]*listener
	conns     map[*conn]struct{} // ends at this host of connections that are not closed at both ends
	lastPort  int
	paused    bool
	refuses   bool
	down      bool // crashed or vanished
	vanished  bool
}

// Name returns the name of the host, without a port.
func (h *Host) Name() string { return h.name }

// Listen listens on a port of the host. The address is host:port with this host's name, or without a host (":7600"); port 0
// picks a free port. The listener is as from [Network.Listen]. A host that is down is restarted first.
func (h *Host) Listen(address string) (net.Listener, error) {
	host, port, err := splitAddr(address)
	if err != nil {
		return nil, opError("listen", nil, nil, err)
	}
	if unspecified(host) {
		host = h.name
	}
	if host != h.name {
		return nil, opError("listen", nil, makeAddr(host, port), syscall.EADDRNOTAVAIL)
	}
	return h.listen(port)
}

func (h *Host) listen(port int) (net.Listener, error) {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	if h.nw.closed {
		return nil, opError("listen", nil, makeAddr(h.name, port), net.ErrClosed)
	}
	return h.listenLocked(port)
}

// Now returns the host's wall clock: the time of package time plus what [Host.SetSkew] set. While the host is paused it is
// the instant of the pause, and after that it jumps to the present. The result has no monotonic clock reading. Deadlines
// of connections count in the time of package time, whatever the skew.
func (h *Host) Now() time.Time { return h.clock.now() }

// Elapsed returns the time since the host was made. It ignores skew and never goes back. As a clock that runs on in suspend
// it counts the time of a pause, but an observer inside sees it only afterwards: it stands still while the host is paused
// and jumps by the length of the pause when it resumes.
func (h *Host) Elapsed() time.Duration { return h.clock.elapsed() }

// Running returns true at once unless the host is paused. If it is, Running waits until that is over, because of
// [Host.Resume], a crash or [Network.Close], or until ctx ends, and returns false. A program that calls it before it acts
// stands still as a stopped process does, whatever timers it has.
func (h *Host) Running(ctx context.Context) bool {
	for waited := false; ; waited = true {
		h.nw.mu.Lock()
		if !h.paused {
			h.nw.mu.Unlock()
			return !waited
		}
		changed := h.nw.changesLocked()
		h.nw.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// SetSkew sets the host's wall clock d ahead, or behind when d is negative. Only [Host.Now] shows it.
func (h *Host) SetSkew(d time.Duration) { h.clock.setSkew(d) }

// Pause freezes the host as SIGSTOP or a suspended virtual machine would: its reads, writes, dials and accepts wait and its
// clock stands still. Its kernel lives on: connections to it are made, as many as a backlog of 128 holds, and answered by
// nobody; bytes sent to it are taken until the connection's buffer is full; bytes that it wrote before are delivered.
//
// The host's goroutines cannot be stopped, and neither can their timers; those that ask [Host.Running] stand still. So a
// deadline, a context that ends and a Close still end their own calls on the paused host, but the rest of the network learns
// nothing of it before [Host.Resume]. Pausing a paused host does nothing.
func (h *Host) Pause() {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	if !h.paused && !h.down {
		h.paused = true
		h.clock.pause()
	}
}

// Resume ends a pause: the clock jumps to the present, then calls that waited go on, and the peers see what was closed
// meanwhile.
func (h *Host) Resume() {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	h.resumeLocked()
}

func (h *Host) resumeLocked() {
	if !h.paused {
		return
	}
	h.paused = false
	h.clock.resume()
	for c := range h.conns {
		c.sayLocked()
		c.wakeLocked()
	}
	for _, l := range h.listeners {
		l.acceptable.Broadcast()
		if l.closed {
			l.removeLocked()
		}
	}
	h.nw.changedLocked()
}

// Crash ends everything on the host as kill -9 would. Its listeners are gone and dials to it are refused at once. Its
// connections end: what it had written is still delivered, then the peer gets io.EOF, or at once ECONNRESET where the host
// had not read all it had received. A pause is over.
//
// The process that crashed goes on inside the test, and gets errors from all it does with the network: net.ErrClosed from
// its connections and listeners, ENETUNREACH from its dials. That lasts until [Host.Restart] or a new Listen, so whoever
// crashes a host should have ended the old process before.
func (h *Host) Crash() {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	h.downLocked()
	for c := range h.conns {
		c.killLocked()
	}
}

// Vanish takes the host off the network as a power loss would. For itself it is as [Host.Crash]; its peers are told nothing:
// their connections stall, and their dials hang. When the host is restarted the connections left over from before are reset.
func (h *Host) Vanish() {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	now := h.nw.now()
	for c := range h.conns {
		c.in.settleLocked(now)
		c.out.settleLocked(now)
	}
	h.vanished = true
	h.downLocked()
	for c := range h.conns {
		c.in.brokenOffLocked(now)
		c.saidEOF, c.saidClose = true, true
		if !c.closed {
			c.finished, c.closed = true, true
			c.closedLocked()
		}
	}
}

func (h *Host) downLocked() {
	h.resumeLocked()
	h.down = true
	for _, l := range h.listeners {
		l.closeLocked()
	}
	h.nw.changedLocked()
}

// Restart brings a host back that has crashed or vanished, with nothing left of before but its name and clock. Listening on
// the host does so, too. A host that is up stays as it is.
func (h *Host) Restart() {
	h.nw.mu.Lock()
	defer h.nw.mu.Unlock()
	h.restartLocked()
}

func (h *Host) restartLocked() {
	if !h.down {
		return
	}
	if h.vanished {
		h.vanished = false
		for c := range h.conns {
			c.breakLocked()
		}
	}
	h.down = false
	h.nw.changedLocked()
}

// LookupHost is [Network.LookupHost].
func (h *Host) LookupHost(ctx context.Context, name string) ([]string, error) {
	return h.nw.LookupHost(ctx, name)
}

// nextPortLocked returns the ephemeral port after the last one.
func (h *Host) nextPortLocked() int {
	const first, last = 49152, 65535
	h.lastPort++
	if h.lastPort < first || h.lastPort > last {
		h.lastPort = first
	}
	return h.lastPort
}
