package groupcache

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/groupcache/consistenthash"

	"github.com/peercache/peercache"
)

const (
	defaultBasePath = "/_groupcache/"
	defaultReplicas = 50

	settleTime = 5 * time.Second  // how long a new node may take to be used when it has to do with others
	leaveTime  = 40 * time.Second // for a node to hand over; it bounds itself
	oldTime    = 10 * time.Second // for an old process to answer a client
)

// An HTTPPool makes this process a peer of those whose URLs [HTTPPool.Set]
// names. There is one in a process.
type HTTPPool struct {
	// Context makes the context of a load from a peer's request. For what
	// comes over an upgraded connection the request is one as the original
	// would have got it, without headers and remote address, and only the
	// values of the context count. Nil: the request's own.
	Context func(*http.Request) context.Context

	// Transport makes the requests of [HTTPPool.PickPeer]'s getters. Where
	// what it returns is an [http.Transport], its DialContext,
	// DialTLSContext and TLSClientConfig make the connections to peers as
	// well; of another RoundTripper these know nothing. Nil:
	// [http.DefaultTransport]. It counts as it was at the last Set.
	Transport func(context.Context) http.RoundTripper

	r    *registry
	self string
	me   peerURL
	isMe bool // self is a URL
	opts HTTPPoolOptions

	config  peercache.Config               // guarded by r.homes, like all up to mu; what Configure said
	began   bool                           // Set was called
	now     *host                          // nil: none needed yet
	failed  error                          // why there is none
	moving  bool                           // a goroutine changes what this process is in the cluster
	inbound atomic.Pointer[peercache.Node] // who gets the connections of peers; nil: nobody

	mu         sync.Mutex
	named      []string // guarded by mu, like all below; what Set said
	ring       *consistenthash.Map
	getters    map[string]*peerGetter
	transport  func(context.Context) http.RoundTripper
	secure     map[string]bool // whether an address is asked over TLS
	secureElse bool            // the same for addresses that Set did not name
	prefix     string          // of the URLs' paths
	dialBase   func(ctx context.Context, network, addr string) (net.Conn, error)
	tlsBase    *tls.Config
}

var _ PeerPicker = (*HTTPPool)(nil)

// NewHTTPPool makes the pool of this process and mounts it in
// [http.DefaultServeMux] at its base path, "/_groupcache/". self is the base
// URL at which peers reach this process, such as "http://10.0.0.1:8000".
//
// It panics when the process has a pool already.
func NewHTTPPool(self string) *HTTPPool {
	p := NewHTTPPoolOpts(self, nil)
	http.Handle(p.opts.BasePath, p)
	return p
}

// NewHTTPPoolOpts is [NewHTTPPool] with options, which may be nil, and without
// mounting: the caller does that, at the base path and outside of wrappers such
// as [http.TimeoutHandler] that do not let go of connections. It panics as well
// when the base path is none that peers could ask for: it begins with a slash
// and needs no escaping.
func NewHTTPPoolOpts(self string, o *HTTPPoolOptions) *HTTPPool {
	return std.newPool(self, o)
}

func (r *registry) newPool(self string, o *HTTPPoolOptions) *HTTPPool {
	p := &HTTPPool{r: r, self: self}
	if o != nil {
		p.opts = *o
	}
	if p.opts.BasePath == "" {
		p.opts.BasePath = defaultBasePath
	}
	if p.opts.Replicas == 0 {
		p.opts.Replicas = defaultReplicas
	}
	p.me, p.isMe = parsePeer(self)
	p.prefix = p.me.prefix
	p.nameLocked(nil)
	if why := checkBasePath(p.opts.BasePath); why != nil {
		panic("groupcache: base path " + p.opts.BasePath + ": " + why.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil {
		panic("groupcache: NewHTTPPool must be called only once")
	}
	r.registerPickerLocked(func(string) PeerPicker { return p })
	r.pool = p
	return p
}

// checkBasePath reports what keeps a base path from being asked for.
func checkBasePath(base string) error {
	unescaped := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.~/", r)
	}
	clean := path.Clean(base)
	switch {
	case !strings.HasPrefix(base, "/"):
		return errors.New("it does not begin with a slash")
	case strings.TrimSuffix(base, "/") != strings.TrimSuffix(clean, "/"):
		return errors.New("it is not the shortest way to write that path")
	case strings.IndexFunc(base, func(r rune) bool { return !unescaped(r) }) >= 0:
		return errors.New("it has a character other than letters, digits and -_.~/")
	default:
		return nil
	}
}

// Set names the peers by their base URLs, self among them where this process
// is to be one. They are where this process looks for the cluster, now and
// again and again; who is in it the members tell each other, and who has died
// they find out. What a changed list does is in the package comment.
//
// Set returns at once; the first Get waits until the peers have been asked.
func (p *HTTPPool) Set(peers ...string) {
	p.mu.Lock()
	p.nameLocked(peers)
	p.mu.Unlock()

	p.r.homes.Lock()
	defer p.r.homes.Unlock()
	if !p.began {
		p.began = true
		p.mu.Lock()
		p.dialBase, p.tlsBase = p.config.DialContext, p.config.TLS
		p.mu.Unlock()
	}
	part, some := p.part()
	switch {
	case !some:
		// Nobody but itself, and that by no URL, or nobody at all.
	case p.now == nil:
		p.beginLocked(part)
	case p.now.client == (part == asClient):
		p.now.node.Rediscover()
	case !p.moving:
		p.moving = true
		p.r.routines.Go(p.move)
	}
}

// nameLocked notes what Set said.
func (p *HTTPPool) nameLocked(peers []string) {
	if len(peers) > 0 {
		p.named = slices.Clone(peers) // none: those named before are asked for the cluster still
	}
	p.ring = consistenthash.New(p.opts.Replicas, p.opts.HashFn)
	p.ring.Add(peers...)
	p.transport = p.Transport
	p.getters = make(map[string]*peerGetter, len(peers))
	p.secure = make(map[string]bool, len(peers))
	p.secureElse = p.me.secure
	first := true
	for _, peer := range peers {
		p.getters[peer] = &peerGetter{base: peer + p.opts.BasePath, transport: p.Transport}
		u, ok := parsePeer(peer)
		if !ok {
			continue
		}
		p.secure[u.addr] = u.secure
		if first && !p.isMe {
			p.secureElse, p.prefix = u.secure, u.prefix
		}
		first = false
	}
}

// What this process is in the cluster.
const (
	asMember = iota
	asClient
)

// part returns what this process is by what Set said; some is false when that
// names nobody.
func (p *HTTPPool) part() (part int, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	part = asClient
	for _, peer := range p.named {
		u, ok := parsePeer(peer)
		switch {
		case p.isMe && (peer == p.self || ok && u.addr == p.me.addr):
			return asMember, true
		case peer != p.self:
			some = true
		}
	}
	return part, some
}

// nodePath is the base path of what peers say, as they ask for it.
func (p *HTTPPool) nodePath() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	base := p.prefix + p.opts.BasePath
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	return base
}

// discover is the node's Discover: the addresses of whom Set named. What is no
// URL stays as it is, so that the node's Stats tell of it.
func (p *HTTPPool) discover(context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := make([]string, len(p.named))
	for i, peer := range p.named {
		addrs[i] = peer
		if u, ok := parsePeer(peer); ok {
			addrs[i] = u.addr
		}
	}
	return addrs, nil
}

// startLocked starts a node for a part in the cluster.
func (p *HTTPPool) startLocked(part int) (*host, error) {
	cfg := p.config
	cfg.Listen, cfg.Listener, cfg.Join, cfg.TLS = "", nil, nil, nil
	cfg.Path, cfg.Discover, cfg.DialContext = p.nodePath(), p.discover, p.dial
	cfg.Client, cfg.Advertise = part == asClient, ""
	if part == asMember {
		cfg.Advertise = p.me.addr
	}
	h, err := p.r.newHostLocked(cfg, p)
	if p.failed = err; err != nil {
		return nil, err
	}
	if part == asMember {
		p.inbound.Store(h.node)
	}
	return h, nil
}

// beginLocked starts the first node of the pool.
func (p *HTTPPool) beginLocked(part int) {
	if h, err := p.startLocked(part); err == nil {
		p.now = h
		p.r.moveLocked(h)
		p.r.endSoloLocked()
	}
}

// move makes this process a member that was a client, or the other way round,
// until it is what the last Set said. The node before goes on until the new
// one is ready.
func (p *HTTPPool) move() {
	for {
		p.r.homes.Lock()
		part, some := p.part()
		before := p.now
		if !some || before.client == (part == asClient) || p.r.life.Err() != nil {
			p.moving = false
			p.r.homes.Unlock()
			return
		}
		next, err := p.startLocked(part)
		if err != nil {
			p.moving = false
			p.r.homes.Unlock()
			return
		}
		p.r.homes.Unlock()

		ctx, cancel := context.WithTimeout(p.r.life, settleTime)
		next.node.WaitReady(ctx)
		cancel()

		p.r.homes.Lock()
		p.now = next
		p.r.moveLocked(next)
		p.r.homes.Unlock()

		ctx, cancel = context.WithTimeout(p.r.life, leaveTime)
		before.node.Shutdown(ctx)
		cancel()
		p.inbound.CompareAndSwap(before.node, nil)
	}
}

// PickPeer returns the peer that the original would ask for a key, by its ring
// over whom [HTTPPool.Set] named, and true unless that is this process. The
// getter asks by the original's protocol, which old and new processes answer.
// Groups do not use it.
func (p *HTTPPool) PickPeer(key string) (ProtoGetter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring.IsEmpty() {
		return nil, false
	}
	if peer := p.ring.Get(key); peer != p.self {
		return p.getters[peer], true
	}
	return nil, false
}

// askOld asks the peer that the original would ask, as the original would. It
// is for a client that no owner answers: those whom Set named may all be old
// processes, or be about to become a cluster.
func (p *HTTPPool) askOld(ctx context.Context, g *Group, key string) (value string, ok bool) {
	peer, ok := p.PickPeer(key)
	if !ok {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, oldTime)
	defer cancel()
	return g.askPeer(ctx, peer, key)
}
