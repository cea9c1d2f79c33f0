package memnet

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"
)

// Anonymous is the name of the host from which [Network.DialContext] dials.
const Anonymous = "anonymous"

// defaultBuffer is how many bytes a connection holds in each direction unless SetBuffer says otherwise.
const defaultBuffer = 256 << 10

// Network is a network in memory. Make one with [New]. All its methods may be called concurrently, and none of them waits
// for anything but [Network.DialContext].
type Network struct {
	start time.Time

	// mu guards all below and the state of all hosts, links, listeners and connections, so that a fault strikes at one
	// instant. It is held for no longer than it takes to copy a buffer, and never while anything waits. A host's clock may be
	// locked under it.
	mu      sync.Mutex
	hosts   map[string]*Host
	links   map[linkKey]*link
	names   map[string][]string
	delay   time.Duration // of links that are still to be made
	jitter  time.Duration // of links that are still to be made
	rate    int           // of links that are still to be made
	random  *rand.Rand    // where jitter comes from
	buffer  int
	atOnce  bool          // see SetRetransmission
	changes chan struct{} // closed at the next change that may concern dials, or ends a pause; nil: nobody waits
	closed  bool
}

// New returns a network without hosts, faults and delays. Call it inside the synctest bubble that is to use it.
func New() *Network {
	return &Network{
		start:  time.Now(),
		hosts:  make(map[string]*Host),
		links:  make(map[linkKey]*link),
		names:  make(map[string][]string),
		buffer: defaultBuffer,
		random: rand.New(rand.NewPCG(0, 0)),
	}
}

// now is the time on the network's own clock, which only goes forward.
func (nw *Network) now() time.Duration { return time.Since(nw.start) }

// Host returns the host of that name, which may be given as host:port. It makes the host where there is none.
func (nw *Network) Host(name string) *Host {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	return nw.hostLocked(hostName(name))
}

func (nw *Network) hostLocked(name string) *Host {
	h := nw.hosts[name]
	if h == nil {
		h = &Host{nw: nw, name: name, listeners: make(map[int]*listener), conns: make(map[*conn]struct{})}
		h.clock.created = time.Now()
		nw.hosts[name] = h
	}
	return h
}

// Listen listens on address, host:port, and makes the host where there is none; port 0 picks a free port. The address of a
// listener that is not closed is in use: EADDRINUSE. The listener holds at most 128 connections that are not yet accepted.
// Besides a [net.Listener] it is its host's clock and name service, with the methods of [Host]
//
//	Now() time.Time
//	Elapsed() time.Duration
//	Running(ctx context.Context) bool
//	LookupHost(ctx context.Context, name string) ([]string, error)
//
// and its connections have CloseWrite() error. Errors are *net.OpError with Op "listen".
func (nw *Network) Listen(address string) (net.Listener, error) {
	host, port, err := splitAddr(address)
	if err == nil && unspecified(host) {
		err = &net.AddrError{Err: "an address to listen on needs a host", Addr: address}
	}
	if err != nil {
		return nil, opError("listen", nil, nil, err)
	}
	return nw.Host(host).listen(port)
}

// DialContext connects to address from the host [Anonymous]; see [Host.DialContext].
func (nw *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return nw.Host(Anonymous).DialContext(ctx, network, address)
}

// SetName makes name stand for hosts, in the place of those it stood for before. Without hosts the name is not found any
// more. It acts on dials and lookups that begin later.
func (nw *Network) SetName(name string, hosts ...string) {
	list := make([]string, len(hosts))
	for i, h := range hosts {
		list[i] = hostName(h)
	}
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.names[canonical(name)] = list
}

// LookupHost returns the hosts that name stands for: those of [Network.SetName], or the name itself when it is an IP address
// or a host of this network. The caller owns the slice. Otherwise the error is a *net.DNSError with IsNotFound. No fault
// touches it. Its signature is that of [net.Resolver.LookupHost].
func (nw *Network) LookupHost(ctx context.Context, name string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	name = canonical(name)
	hosts, err := nw.resolve(name)
	if err != nil {
		return nil, err
	}
	if _, isIP := makeAddr(name, 0).(*net.TCPAddr); isIP {
		return hosts, nil
	}
	nw.mu.Lock()
	defer nw.mu.Unlock()
	if nw.names[name] == nil && nw.hosts[name] == nil {
		return nil, notFound(name)
	}
	return hosts, nil
}

// resolve returns the hosts to dial for a name, which may be unknown.
func (nw *Network) resolve(name string) ([]string, error) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	hosts, ok := nw.names[name]
	switch {
	case !ok:
		return []string{name}, nil
	case len(hosts) == 0:
		return nil, notFound(name)
	}
	return slices.Clone(hosts), nil
}

func notFound(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// SetBuffer sets how many bytes a connection holds in each direction, written and not yet read, before writes wait. It acts
// on connections made later. The default, also for n <= 0, is 256 KiB. As long as two ends have no more than that
// outstanding, both may write before they read.
func (nw *Network) SetBuffer(n int) {
	if n <= 0 {
		n = defaultBuffer
	}
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.buffer = n
}

// Open returns how many connections are open at either end or at both. It is 0 when everybody has closed theirs.
func (nw *Network) Open() int {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	ends := 0
	for _, h := range nw.hosts {
		ends += len(h.conns)
	}
	return ends / 2 // both ends are kept until both are closed
}

// Bytes returns how many bytes host from has written so far on its connections with host to, whether they arrived or not.
func (nw *Network) Bytes(from, to string) int64 {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	if l := nw.links[linkKey{hostName(from), hostName(to)}]; l != nil {
		return l.bytes
	}
	return 0
}

// Close ends all listeners, connections and dials at once, with net.ErrClosed; paused hosts resume to see it. What is begun
// later fails likewise. It returns nil. Nothing leaks when it is not called.
func (nw *Network) Close() error {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.closed = true
	for _, h := range nw.hosts {
		h.resumeLocked() // what it held back is of no use to anybody now
		for _, l := range h.listeners {
			l.closeLocked()
		}
		for c := range h.conns {
			if !c.closed {
				c.finished, c.closed = true, true
				c.closedLocked()
			}
		}
	}
	nw.changedLocked()
	return nil
}

// changesLocked returns a channel that is closed at the next change.
func (nw *Network) changesLocked() <-chan struct{} {
	if nw.changes == nil {
		nw.changes = make(chan struct{})
	}
	return nw.changes
}

// changedLocked wakes the dials that wait, and those who wait for the end of a pause.
func (nw *Network) changedLocked() {
	if nw.changes != nil {
		close(nw.changes)
		nw.changes = nil
	}
}
