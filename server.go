package peercache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
)

// Bounds on what strangers can make a node hold.
const (
	handshakeTimeout  = 5 * time.Second
	headerTimeout     = 5 * time.Second
	maxHeader         = 8 << 10
	maxStrangers      = 512 // connections that have not proved themselves
	maxPerPeer        = 4   // connections of one peer for one purpose; a new one beyond ends the oldest
	maxStreamsPerPeer = 16
	maxInbound        = 1 << 14               // connections of all peers
	hangupTime        = 50 * time.Millisecond // what the connections of a process that ended take to break
	maxRefusalsSaid   = 256                   // kinds of refused connections that were logged
)

// ServeHTTP takes over the connections of peers. A caller that runs the HTTP
// server mounts the node at [Config].Path:
//
//	http.Handle("/_peercache/", node)
//
// Requests for anything else below Path get status 404. The connections that
// it takes over are no longer the server's: they end with the node.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path != n.cfg.Path+connectPath:
		http.Error(w, "peercache: peers connect at "+n.cfg.Path+connectPath, http.StatusNotFound)
		return
	case n.cfg.Client || n.cfg.alone():
		http.Error(w, "peercache: this node is not reached by others", http.StatusNotFound)
		return
	}
	if err := n.inbound.reserve(); err != nil {
		n.inbound.countRefused()
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	conn, err := acceptUpgrade(w, r)
	if err != nil {
		n.inbound.release()
		if errors.Is(err, errNoHijack) {
			n.inbound.warnHijack.Do(func() { n.log.Error("peers cannot connect", "err", err) })
		}
		n.inbound.countRefused()
		return
	}
	boundUnacknowledged(conn, n.cfg.Heartbeat.Timeout)
	remote := r.RemoteAddr
	if !n.spawn(func(context.Context) { n.inbound.accept(conn, remote) }) {
		n.inbound.release()
		conn.Close()
	}
}

// serveOn serves the node on a listener of its own.
func (n *Node) serveOn(listener net.Listener) {
	if n.cfg.TLS != nil {
		listener = tls.NewListener(listener, n.cfg.TLS)
	}
	n.web = &http.Server{
		Handler:           n,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(quietWriter{n.log}, "", 0),
		ConnState:         n.inbound.watchStranger,
	}
	n.web.SetKeepAlivesEnabled(false)
	n.spawn(func(ctx context.Context) {
		if err := n.web.Serve(listener); ctx.Err() == nil {
			n.log.Error("this node accepts no connections any more", "err", err)
		}
	})
}

// quietWriter passes what net/http complains about, such as garbage on the
// port, to the log where it does not alarm.
type quietWriter struct{ log *slog.Logger }

// Write implements [io.Writer].
func (w quietWriter) Write(p []byte) (int, error) {
	w.log.Debug("http", "msg", string(p))
	return len(p), nil
}

// inbound holds the connections that others made to this node.
type inbound struct {
	n          *Node
	warnHijack sync.Once
	unasked    atomic.Int64 // connections that have not yet asked to be upgraded

	mu        sync.Mutex
	strangers int // guarded by mu, like all below
	conns     map[*inboundConn]struct{}
	refused   uint64
	said      map[string]struct{} // refusals that were logged, by host and reason
	closed    bool
}

type inboundConn struct {
	raw     net.Conn
	conn    *mux.Conn // nil during the handshake, and for streams
	peer    mux.Identity
	purpose mux.Purpose
	began   time.Time
}

func newInbound(n *Node) *inbound {
	return &inbound{n: n, conns: make(map[*inboundConn]struct{}), said: make(map[string]struct{})}
}

var (
	errStrangers = errors.New("peercache: too many connections that have not proved themselves")
	errInbound   = errors.New("peercache: too many connections")
)

// reserve makes room for one connection that has yet to prove itself.
func (in *inbound) reserve() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case in.closed:
		return ErrClosed
	case in.strangers >= maxStrangers:
		return errStrangers
	case len(in.conns) >= maxInbound:
		return errInbound
	}
	in.strangers++
	return nil
}

func (in *inbound) release() {
	in.mu.Lock()
	in.strangers--
	in.mu.Unlock()
}

// watchStranger bounds the connections that have not yet asked to be upgraded
// on a listener of the node's own. It is a hook of [http.Server].
func (in *inbound) watchStranger(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if in.unasked.Add(1) > maxStrangers {
			conn.Close()
		}
	case http.StateHijacked, http.StateClosed:
		in.unasked.Add(-1)
	}
}

// accept shakes hands over a connection for which there is a reservation, and
// puts it to its purpose.
func (in *inbound) accept(raw net.Conn, remote string) {
	c := &inboundConn{raw: raw, began: time.Now()}
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		in.release()
		raw.Close()
		return
	}
	in.conns[c] = struct{}{}
	in.mu.Unlock()

	err := confirmUpgrade(raw)
	if err == nil {
		err = in.shakeHands(c)
	}
	in.release()
	if err == nil {
		err = in.putToUse(c)
	}
	if err != nil {
		in.forget(c)
		raw.Close()
		in.countRefused()
		in.tellRefused(remote, err)
	}
}

func (in *inbound) countRefused() {
	in.mu.Lock()
	in.refused++
	in.mu.Unlock()
}

// tellRefused logs that a connection was refused: the first from a host for a
// reason where it is seen, those that follow where they do not alarm.
func (in *inbound) tellRefused(remote string, err error) {
	level, code, from := slog.LevelInfo, mux.Broken, mux.Identity{}
	var refusal *mux.HandshakeError
	if errors.As(err, &refusal) {
		code, from = refusal.Code, refusal.Peer
	}
	host, _, splitErr := net.SplitHostPort(remote)
	if splitErr != nil {
		host = remote
	}
	kind := fmt.Sprintf("%s %d", host, code)
	in.mu.Lock()
	if _, known := in.said[kind]; known {
		level = slog.LevelDebug
	} else {
		if len(in.said) >= maxRefusalsSaid {
			clear(in.said)
		}
		in.said[kind] = struct{}{}
	}
	in.mu.Unlock()
	in.n.log.Log(in.n.life, level, "connection refused", "from", remote, "name", from.Name, "err", explainRefusal(err))
}

// shakeHands finds out who made a connection and for what.
func (in *inbound) shakeHands(c *inboundConn) error {
	n := in.n
	session, err := mux.ServerHandshake(c.raw, c.began.Add(handshakeTimeout), n.local(), func(peer mux.Identity, purpose mux.Purpose) error {
		switch {
		case n.life.Err() != nil:
			return mux.Refuse(mux.RefusedLeaving, "this node is closed")
		case n.gossip.Load() == nil && (purpose == mux.PurposeGossip || purpose == mux.PurposeStream):
			return mux.Refuse(mux.RefusedPurpose, errNotAnnounced.Error())
		default:
			return nil
		}
	})
	if err != nil {
		return err
	}
	n.peers.reached(session.Peer.Incarnation)
	in.mu.Lock()
	defer in.mu.Unlock()
	c.peer, c.purpose = session.Peer, session.Purpose
	return nil
}

func (in *inbound) forget(c *inboundConn) {
	in.mu.Lock()
	delete(in.conns, c)
	in.mu.Unlock()
}

// putToUse starts what a connection that proved itself is for.
func (in *inbound) putToUse(c *inboundConn) error {
	n := in.n
	var surplus *inboundConn
	switch c.purpose {
	case mux.PurposeProbe:
		in.forget(c)
		return c.raw.Close()
	case mux.PurposeStream:
		g := n.gossip.Load()
		if g == nil {
			return errNotAnnounced
		}
		surplus = in.admit(c, maxStreamsPerPeer)
		g.Stream(&streamConn{Conn: c.raw, closed: sync.OnceFunc(func() { in.forget(c) })})
	default:
		options := mux.Options{Heard: n.pauses.guard()}
		if c.purpose == mux.PurposeGossip {
			g := n.gossip.Load()
			if g == nil {
				return errNotAnnounced
			}
			from := gossip.Peer{Name: gossipName(c.peer.Incarnation), Addr: c.peer.Addr}
			var age packetAge
			options.Packet = func(dated []byte, digest uint64) {
				if packet, ok := age.fresh(n.clock.Elapsed(), dated); ok {
					n.compareTables(c.peer, digest)
					g.Packet(from, packet)
				}
			}
		} else {
			if c.purpose == mux.PurposeCalls {
				options.Fast = n.serveFast
			}
			options.Serve = func(ctx context.Context, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
				return n.serve(nested(ctx, c.purpose), c.peer, req, progress)
			}
		}
		surplus = in.admit(c, maxPerPeer)
		conn := n.newConn(c.raw, options)
		in.mu.Lock()
		c.conn = conn
		closed := in.closed
		in.mu.Unlock()
		if closed {
			conn.Abort(ErrClosed)
		}
		if !n.spawn(func(context.Context) {
			<-conn.Done()
			conn.Close()
			in.forget(c)
		}) {
			conn.Close()
			in.forget(c)
		}
	}
	if surplus != nil {
		breakConn(surplus.raw)
	}
	return nil
}

// admit returns the oldest connection of the same peer for the same purpose
// if there are too many with c: it is most likely a dead one.
func (in *inbound) admit(c *inboundConn, most int) (surplus *inboundConn) {
	in.mu.Lock()
	defer in.mu.Unlock()
	count := 0
	for other := range in.conns {
		if other.peer.Incarnation != c.peer.Incarnation || other.purpose != c.purpose {
			continue
		}
		count++
		if other != c && (surplus == nil || other.began.Before(surplus.began)) {
			surplus = other
		}
	}
	if count <= most {
		return nil
	}
	return surplus
}

// drain answers the requests under way and takes no more.
func (in *inbound) drain(ctx context.Context) error {
	in.mu.Lock()
	var conns []*mux.Conn
	for c := range in.conns {
		if c.conn != nil && (c.purpose == mux.PurposeCalls || c.purpose == mux.PurposeBulk) {
			conns = append(conns, c.conn)
		}
	}
	in.mu.Unlock()
	var wait sync.WaitGroup
	for _, conn := range conns {
		wait.Go(func() { conn.Drain(ctx) })
	}
	wait.Wait()
	return ctx.Err()
}

// sinceBulk returns how long ago something came over the connections for bulk that a
// member made.
func (in *inbound) sinceBulk(incarnation uint64) time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	since := time.Hour
	for c := range in.conns {
		if c.conn != nil && c.purpose == mux.PurposeBulk && c.peer.Incarnation == incarnation {
			since = min(since, c.conn.SinceHeard())
		}
	}
	return since
}

// bulkSent returns how many bytes went out over the connections for bulk that there
// are.
func (in *inbound) bulkSent() (sent int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for c := range in.conns {
		if c.conn != nil && c.purpose == mux.PurposeBulk {
			sent += c.conn.Stats().BytesOut
		}
	}
	return sent
}

// closeAll breaks all connections, those in the handshake included.
func (in *inbound) closeAll() {
	in.mu.Lock()
	conns := slices.Collect(maps.Keys(in.conns))
	in.mu.Unlock()
	for _, c := range conns {
		breakConn(c.raw)
	}
}

// follow breaks the connections of members that are lost. They make new ones if
// they are there after all, and those of before may be deaf.
func (in *inbound) follow(before, after *view) {
	lost := after.lost(before)
	if len(lost) == 0 {
		return
	}
	in.mu.Lock()
	var conns []*inboundConn
	for c := range in.conns {
		if slices.Contains(lost, c.peer.Incarnation) {
			conns = append(conns, c)
		}
	}
	in.mu.Unlock()
	for _, c := range conns {
		breakConn(c.raw)
	}
}

func (in *inbound) close() {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	in.closeAll()
}

// hears reports whether a member has a connection to this node. Those of a
// process that has just ended break within moments, which are waited for.
func (in *inbound) hears(ctx context.Context, incarnation uint64) bool {
	until := time.Now().Add(hangupTime)
	for {
		open := false
		in.mu.Lock()
		for c := range in.conns {
			open = open || c.conn != nil && c.peer.Incarnation == incarnation
		}
		in.mu.Unlock()
		if !open || ctx.Err() != nil || time.Now().After(until) {
			return open
		}
		sleep(ctx, time.Millisecond)
	}
}

func (in *inbound) refusedCount() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.refused
}

// streamConn tells when gossip is done with a stream.
type streamConn struct {
	net.Conn
	closed func()
}

// Close implements [net.Conn].
func (c *streamConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
