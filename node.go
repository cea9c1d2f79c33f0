package peercache

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/gossip"
)

// joinRound bounds the first attempt to reach the seeds, which Start waits
// for.
const joinRound = 5 * time.Second

// leaveTime bounds how long Shutdown waits for the others to hear of it.
const leaveTime = time.Second

// handOverTime bounds how long Shutdown waits for others to take over while they
// copy nothing.
const handOverTime = 30 * time.Second

// A Node is this process as a peer of the cluster. Make one with [Start]. All
// methods may be called concurrently, and after Close, when those that return
// an error return [ErrClosed].
type Node struct {
	cfg         Config
	incarnation uint64
	addr        string // advertised; empty for a node alone or a client
	clock       clock
	log         *slog.Logger
	web         *http.Server // nil unless the node listens itself

	view      atomic.Pointer[view]
	gossip    atomic.Pointer[gossip.Gossip]  // nil for a client, and until the node may be announced
	relayed   atomic.Pointer[[]announcement] // the members as another member told
	announced atomic.Bool                    // the members are those of gossip, not relayed
	left      atomic.Bool                    // this node has handed over what it held
	asked     atomic.Bool                    // the first round of seeds is over
	unreached atomic.Pointer[error]          // why a mounted node could not be announced when last tried
	state     atomic.Uint32                  // a MemberState
	maxSize   atomic.Int64                   // Config.MaxBytes, SetMaxBytes

	hlc           *hybridClock
	store         *store
	flights       *flights // loads for the whole cluster
	orphans       *flights // loads for this process only
	fetches       *fetches
	fills         fills
	operations    *operations
	stages        *stages
	renewals      renewals
	underway      underway
	handoff       *handoff
	vectors       *vectors
	compares      *compares
	heat          *heat
	limits        *limits
	serving       atomic.Int64 // requests of peers under way
	disagreements disagreements
	hedges        atomic.Int64
	omitted       atomic.Int64 // Stats.SyncOmitted

	partialWrites atomic.Int64 // writes of which an owner did not confirm its copy in time

	peers      *peers
	inbound    *inbound
	discovery  *discovery
	skew       skew
	pauses     pauses
	events     *eventQueue
	viewSignal signal
	kick       chan struct{}      // holds a token when the loop has to look at the members again
	flush      chan chan struct{} // as kick; closed when the loop has looked

	life     context.Context // ends at Close
	stop     context.CancelFunc
	routines sync.WaitGroup
	ending   atomic.Bool   // Shutdown or Close was called
	ended    chan struct{} // closed when that is over

	mu     sync.Mutex
	closed bool // guarded by mu: no goroutine is started any more
}

// Start starts a node, makes one round of attempts to join those whom
// [Config].Join and Discover name, and returns. The round takes 5 seconds at
// most and ends early with ctx, which bounds nothing else.
//
// Start fails when the configuration is bad (a [*ConfigError]) or the address
// to listen on cannot be had. It never fails because of peers: they are asked
// again for as long as the node lives, and [Node.Stats] tells what keeps
// which of them away.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	listener := cfg.Listener
	n, err := prepare(ctx, cfg, &listener)
	if err != nil {
		if listener != nil {
			listener.Close()
		}
		return nil, err
	}
	n.refresh()
	n.spawn(n.loop)
	n.spawn(func(ctx context.Context) { n.events.run(ctx, n.reportPanic) })
	n.spawn(n.pauses.run)
	n.spawn(func(ctx context.Context) { n.handoff.run(ctx, &n.handoff.fills) })
	n.spawn(func(ctx context.Context) { n.handoff.run(ctx, &n.handoff.mends) })
	n.spawn(n.compares.run)
	n.spawn(n.heat.run)
	n.spawn(n.limits.run)
	if listener != nil {
		n.serveOn(listener)
	}
	if err := n.joinCluster(ctx); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// prepare does what of Start needs no network but the listener, which it sets.
func prepare(ctx context.Context, cfg Config, listener *net.Listener) (*Node, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("peercache: start: %w", err)
	}
	if *listener, err = cfg.listen(ctx); err != nil {
		return nil, err
	}
	return newNode(cfg, *listener)
}

// listen opens the listener of a configuration that wants one.
func (c *Config) listen(ctx context.Context) (net.Listener, error) {
	if c.Listener != nil || c.Listen == "" {
		return c.Listener, nil
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("peercache: Listen: %w", err)
	}
	return ln, nil
}

func newNode(cfg Config, listener net.Listener) (*Node, error) {
	n := &Node{
		cfg:    cfg,
		clock:  newSystemClock(),
		addr:   cfg.Advertise,
		log:    cfg.Logger,
		events: newEventQueue(),
		kick:   make(chan struct{}, 1),
		flush:  make(chan chan struct{}),
	}
	if c, ok := listener.(clock); ok {
		n.clock = c
	}
	if listener != nil && n.addr == "" {
		addr, err := advertised(listener.Addr())
		if err != nil {
			return nil, err
		}
		n.addr = addr
	}
	n.incarnation = newIncarnation(n.clock.Now())
	n.state.Store(uint32(MemberJoining))
	n.hlc = &hybridClock{now: n.clock.Now, incarnation: n.incarnation}
	n.store = newStore(storeShare(cfg.MaxBytes), n.clock.Elapsed, n.hlc)
	n.flights, n.orphans = newFlights(), newFlights()
	n.store.wrote = func(sp *space, key string) { n.flights.detach(flightKey{sp.id, key}) }
	n.fetches = newFetches(n)
	n.fills.n = n
	n.operations, n.stages = newOperations(n.clock.Elapsed), newStages(n.clock.Elapsed)
	n.handoff = newHandoff(n)
	n.limits = newLimits(n)
	n.vectors = &vectors{self: n.incarnation}
	n.compares, n.heat = newCompares(n), newHeat(n)
	n.store.used = n.heat.note
	n.maxSize.Store(cfg.MaxBytes)
	n.ended = make(chan struct{})
	n.life, n.stop = context.WithCancel(context.Background())
	n.log = cfg.Logger.With("node", cfg.Name, "addr", n.addr)

	if size := len(n.announcement().encode()); size > maxAnnouncement {
		return nil, &ConfigError{Faults: []string{fmt.Sprintf("Name, Zone, Advertise: together %d bytes too long to be announced", size-maxAnnouncement)}}
	}
	n.peers = newPeers(n)
	n.inbound = newInbound(n)
	n.discovery = newDiscovery(n, listener)
	n.skew.init(n.incarnation)
	n.pauses.init(n.clock, cfg.Heartbeat.Timeout/2, n.paused)
	return n, nil
}

// newIncarnation draws a number that no other start of a node has, and that
// is greater than those of earlier starts: 39 bits count 8 ms since 1970,
// 25 bits are random.
func newIncarnation(now time.Time) uint64 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	random := uint64(binary.BigEndian.Uint32(b[:])) & (1<<25 - 1)
	return uint64(now.UnixMilli()/8)<<25 | random
}

// spawn runs f in a goroutine that Close waits for. f returns soon after its
// ctx ended. After Close nothing is started and spawn returns false.
func (n *Node) spawn(f func(ctx context.Context)) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.routines.Go(func() { f(n.life) })
	return true
}

// loop is the one goroutine that changes views.
func (n *Node) loop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.kick:
			n.refresh()
		case done := <-n.flush:
			n.refresh()
			close(done)
		}
	}
}

// wake makes the loop look at the members again. It never blocks.
func (n *Node) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// refresh makes a new view if the members changed and swaps it in. It runs in
// Start before the loop exists, then only in the loop.
func (n *Node) refresh() {
	before := n.view.Load()
	after := newView(n.liveMembers(), before, n.clock.Now())
	if after == before {
		return
	}
	lost := n.handoff.follow(before, after)
	n.view.Store(after)
	if lost {
		n.forgetNear() // writes to what this node owns no more are not told to it
	}
	if len(after.lost(before)) > 0 {
		n.discovery.lostSome()
	}
	n.peers.follow(before, after)
	n.inbound.follow(before, after)
	n.tellEvents(before, after)
	n.viewSignal.fire()
	if before != nil && n.skew.follow(before, after) {
		n.clockChanged()
	}
	n.log.Info("view changed", "members", len(after.members), "digest", fmt.Sprintf("%016x", after.digest))
}

// announcement is what this node tells others about itself at this moment.
func (n *Node) announcement() *announcement {
	return &announcement{
		Member:    n.Self(),
		copies:    n.cfg.Copies,
		algorithm: ringAlgorithm,
		outside:   n.skew.off(),
		maxValue:  n.valueLimit(),
	}
}

// liveMembers lists who is in the cluster now: by gossip once this node is a
// part of it, by another member's word until then.
func (n *Node) liveMembers() []announcement {
	var members []announcement
	if !n.cfg.Client && !n.left.Load() {
		self := *n.announcement()
		if !n.announced.Load() {
			self = n.selfInView(self)
		}
		members = append(members, self)
	}
	if !n.announced.Load() {
		if relayed := n.relayed.Load(); relayed != nil {
			members = append(members, *relayed...)
		}
		return members
	}
	for _, m := range n.gossip.Load().Members() {
		incarnation, err := parseIncarnation(m.Name)
		if err != nil || incarnation == n.incarnation {
			continue
		}
		a, err := decodeAnnouncement(incarnation, m.Meta)
		if err != nil {
			n.log.Warn("member left out of the view", "member", m.Name, "err", err)
			continue
		}
		members = append(members, a)
	}
	return members
}

// setState announces another state of this node.
func (n *Node) setState(s MemberState) {
	if MemberState(n.state.Swap(uint32(s))) == s {
		return
	}
	n.reannounce()
}

// reannounce tells the others, and the own view, what changed about this node.
func (n *Node) reannounce() {
	if g := n.gossip.Load(); g != nil {
		g.Update()
	}
	n.wake()
}

// paused is called once after this node did not run for a while: the others
// may have taken it out of their tables meanwhile. All connections from
// before are closed, so that nothing they still hold is read, and the others
// are asked anew.
func (n *Node) paused(d time.Duration) {
	n.log.Warn("this process did not run for a while", "for", d)
	pause := n.handoff.stale()
	n.forgetNear()
	before := n.view.Load().lately(n.clock.Now())
	n.spawn(func(ctx context.Context) {
		n.inbound.closeAll()
		n.peers.disconnect()
		n.handoff.reunite(ctx, pause, before)
	})
}

func (n *Node) reportPanic(r any) {
	n.log.Error("panic in a callback", "panic", r)
}

// String returns the node's name and address.
func (n *Node) String() string { return n.Self().String() }

// Format prints [Node.String], whatever the verb: the configuration holds
// secrets.
func (n *Node) Format(f fmt.State, _ rune) { io.WriteString(f, n.String()) }

// Addr returns the host:port that peers dial, or "" for a node alone and for
// a client.
func (n *Node) Addr() string { return n.addr }

// Self returns this node as a member. A client's State stays MemberJoining:
// it never is one.
func (n *Node) Self() Member {
	return Member{
		Name:        n.cfg.Name,
		Addr:        n.addr,
		Zone:        n.cfg.Zone,
		Weight:      n.cfg.Weight,
		State:       MemberState(n.state.Load()),
		Incarnation: n.incarnation,
	}
}

// Members returns the members of the cluster as this node sees them, itself
// included unless it is a client, the one that started first first. The slice
// is the caller's.
func (n *Node) Members() []Member {
	v := n.view.Load()
	members := make([]Member, len(v.members))
	for i, m := range v.members {
		members[i] = m.Member
	}
	return members
}

// Owners returns the members that hold a key of the named cache now, the
// primary first. It is empty only while this node knows of no active member.
func (n *Node) Owners(cache, key string) []Member {
	v := n.view.Load()
	owners := v.current.owners(shardOf(keyspaceOf(cache), key))
	members := make([]Member, 0, len(owners))
	for _, i := range owners {
		if m, ok := v.find(v.current.member(int(i)).Incarnation); ok {
			members = append(members, m.Member)
		}
	}
	return members
}

// WaitReady waits until this node is active and holds what it owns in its
// present table; a client, until it knows the cluster. It tells of the moment
// when it returns: a later change of the cluster may give the node more to
// fetch. It returns ctx's error, or [ErrClosed].
func (n *Node) WaitReady(ctx context.Context) error {
	for {
		changed := n.viewSignal.next()
		if n.life.Err() != nil {
			return ErrClosed
		}
		if n.ready() {
			return nil
		}
		select {
		case <-changed:
		case <-n.life.Done():
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("peercache: wait until ready: %w: %s", ctx.Err(), n.unready())
		}
	}
}

// unready says for people why the node is not ready.
func (n *Node) unready() string {
	switch left := n.handoff.unfilledCount(); {
	case n.cfg.Client:
		return "no active member is known"
	case n.skew.off():
		return fmt.Sprintf("this node's clock is wrong: it is ahead of the others' by %v", n.skew.offset().Round(time.Millisecond))
	case !n.cfg.alone() && !n.announced.Load():
		return "not announced: the node does not answer at the address it would advertise"
	case left > 0:
		return fmt.Sprintf("%d shards are still to be filled", left)
	default:
		return "the node is " + n.Self().State.String()
	}
}

func (n *Node) ready() bool {
	v := n.view.Load()
	if n.cfg.Client {
		return len(v.current.members) > 0
	}
	_, owns := v.current.index(n.incarnation)
	return owns && MemberState(n.state.Load()) == MemberActive && n.handoff.unfilledCount() == 0
}

// Rediscover asks Join and Discover now instead of at the next regular time.
// It returns at once.
func (n *Node) Rediscover() { n.discovery.wakeUp() }

// SetMaxBytes changes [Config].MaxBytes of a running node.
func (n *Node) SetMaxBytes(size int64) error {
	if size < minMaxBytes {
		return fmt.Errorf("peercache: SetMaxBytes: %d is less than %d", size, minMaxBytes)
	}
	if n.life.Err() != nil {
		return ErrClosed
	}
	n.maxSize.Store(size)
	n.store.lru.SetMaxBytes(storeShare(size))
	n.shareNear()
	n.reannounce() // how large a value may be
	return nil
}

// storeShare is what of MaxBytes is for the store; nearShare is for decoded
// values; the rest is for what is on its way.
func storeShare(maxBytes int64) int64 { return maxBytes / 16 * 13 }

func nearShare(maxBytes int64) int64 { return maxBytes / 8 }

// faces lists the caches that this process has made.
func (n *Node) faces() []*face {
	var faces []*face
	for _, sp := range n.store.spaces() {
		if f := sp.face.Load(); f != nil {
			faces = append(faces, f)
		}
	}
	return faces
}

// shareNear divides the room for decoded values among the caches.
func (n *Node) shareNear() {
	faces := n.faces()
	for _, f := range faces {
		f.resize(nearShare(n.maxSize.Load()) / int64(len(faces)))
	}
}

func (n *Node) forgetNear() {
	for _, f := range n.faces() {
		f.forgetAll()
	}
}

// Shutdown leaves the cluster: it waits until the members that will own what
// this node owns hold it, for as long as they copy it and 30 seconds more at most,
// takes the node out of every table, finishes the requests under way, and closes it. The error says which
// members did not take over in time. When ctx ends first the node is closed at
// once and ctx's error returned; a Close meanwhile does the same with
// [ErrClosed]. Further calls of Shutdown or Close wait for the first to end and
// return nil.
func (n *Node) Shutdown(ctx context.Context) error {
	if !n.ending.CompareAndSwap(false, true) {
		<-n.ended
		return nil
	}
	defer close(n.ended)
	defer n.close()
	if n.life.Err() != nil {
		return nil
	}
	return n.leave(ctx)
}

// leave is the graceful part of Shutdown.
func (n *Node) leave(ctx context.Context) error {
	n.setState(MemberLeaving)
	g := n.gossip.Load()
	if g == nil {
		return nil
	}
	leaving, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(n.life, cancel)
	defer stop()
	within := func(d time.Duration, f func(context.Context) error) error {
		bound, cancel := context.WithTimeout(leaving, d)
		defer cancel()
		return f(bound)
	}
	n.refreshed(leaving)
	handover := n.handoff.handOver(leaving)
	// From here on the others may write without this node. So it takes itself
	// out of its own table first, and asks them as a client does.
	n.left.Store(len(n.peers.members()) > 0)
	n.refreshed(leaving)
	failed := within(leaveTime, g.Leave) != nil
	within(leaveTime, n.inbound.drain)
	within(leaveTime, n.fills.drain) // what was loaded until now
	switch {
	case ctx.Err() != nil && (failed || handover != nil):
		return fmt.Errorf("peercache: shutdown: %w", ctx.Err())
	case n.life.Err() != nil && (failed || handover != nil):
		return ErrClosed
	default:
		return handover
	}
}

// Close stops the node at once, as a crash would: the others find out by
// themselves. It waits until everything that the node started has ended, so
// it must not be called by an [Events] callback. It returns nil; further calls
// do nothing.
func (n *Node) Close() error {
	n.stop() // ends a Shutdown under way
	if !n.ending.CompareAndSwap(false, true) {
		<-n.ended
		return nil
	}
	defer close(n.ended)
	n.close()
	return nil
}

func (n *Node) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stop()
	if n.web != nil {
		n.web.Close()
	}
	for _, f := range n.faces() {
		f.resize(0) // a closed node answers nothing any more
	}
	n.peers.close()
	n.inbound.close()
	if g := n.gossip.Load(); g != nil {
		g.Close()
	}
	n.routines.Wait()
	if g := n.gossip.Load(); g != nil {
		g.Close() // a node that announced itself just now
	}
	n.viewSignal.fire()
}

var _ http.Handler = (*Node)(nil)
