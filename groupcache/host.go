package groupcache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache"
)

const (
	leastBytes    = 64 << 10 // of a node
	maxValueBytes = 16 << 20 // peercache.Config.MaxValueBytes when it is not given
	maxCacheName  = 255

	lookEvery = 2 * time.Millisecond // whether a new node has met others
)

// A host is a node with the groups that are on it.
type host struct {
	node     *peercache.Node
	pool     *HTTPPool // nil: the node alone
	client   bool
	least    int64 // peercache.Config.MaxBytes, to which groups add
	maxValue int64
	met      chan struct{} // closed when the peers were asked, or need not be
	isMet    atomic.Bool   // the same, for those who ask all the time

	mu    sync.Mutex
	bytes int64 // guarded by mu; of the groups
}

// newHostLocked starts a node. It does not wait for peers.
func (r *registry) newHostLocked(cfg peercache.Config, pool *HTTPPool) (*host, error) {
	h := &host{pool: pool, client: cfg.Client, least: cfg.MaxBytes, maxValue: int64(cfg.MaxValueBytes), met: make(chan struct{})}
	if h.maxValue == 0 {
		h.maxValue = maxValueBytes
	}
	cfg.MaxBytes = max(leastBytes, cfg.MaxBytes)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if discover := cfg.Discover; discover != nil {
		// Start waits for the first round, which this begins; a program that
		// names its peers does not.
		cfg.Discover = func(c context.Context) ([]string, error) {
			cancel()
			return discover(c)
		}
	}
	node, err := peercache.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	h.node = node
	r.countLocked()
	if pool == nil {
		h.endMeet()
	} else {
		r.routines.Go(func() { h.meet(r.life) })
	}
	return h, nil
}

// meet closes met once the node knows whom to ask for keys, or that nobody is
// there.
func (h *host) meet(life context.Context) {
	defer h.endMeet()
	late := time.NewTimer(settleTime)
	defer late.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !h.hasMet() {
		select {
		case <-look.C:
		case <-late.C:
			return
		case <-life.Done():
			return
		}
	}
}

func (h *host) endMeet() {
	h.isMet.Store(true)
	close(h.met)
}

// awaitMet waits until the peers were asked. The error is ctx's.
func (h *host) awaitMet(ctx context.Context) error {
	if h.isMet.Load() {
		return nil
	}
	select {
	case <-h.met:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *host) hasMet() bool {
	if len(h.node.Owners("", "")) > 0 {
		return true // itself, when it has met nobody
	}
	if !h.client {
		return false
	}
	seeds := h.node.Stats().Seeds // empty until all were asked
	for _, s := range seeds {
		if s.Err == nil {
			return false // it is there, and will be a member in a moment
		}
	}
	return len(seeds) > 0
}

// take makes a group's cache on the node.
func (h *host) take(g *Group) *home {
	m := &home{group: g, host: h}
	h.mu.Lock()
	h.bytes += max(g.cacheBytes, 0)
	m.err = h.node.SetMaxBytes(max(leastBytes, h.least+h.bytes))
	h.mu.Unlock()
	if m.err == nil {
		m.cache, m.err = peercache.New(h.node, cacheName(g.name), m.options())
	}
	if m.err != nil {
		m.err = fmt.Errorf("groupcache: group %q: %w", g.name, m.err)
	}
	return m
}

// mostValue is the size above which the node keeps no value.
func (h *host) mostValue() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int(min(h.maxValue, max(leastBytes, h.least+h.bytes)/4))
}

// cacheName is the name of a group's cache: its own, where a cache may have it.
func cacheName(group string) string {
	if group != "" && len(group) <= maxCacheName {
		return group
	}
	sum := sha256.Sum256([]byte(group))
	return "groupcache\x00" + hex.EncodeToString(sum[:])
}

// A home is a group on one node. A group moves to another one when its process
// becomes a part of the cluster, or is no part of it any more.
type home struct {
	group *Group
	host  *host
	cache *peercache.Cache[string] // nil beside err
	err   error

	mu      sync.Mutex
	counted peercache.CacheStats // guarded by mu; what is in Group.Stats already
}

// options are those of the group's cache.
func (h *home) options() peercache.Options[string] {
	o := h.group.opts
	options := peercache.Options[string]{
		Load:        h.load,
		LoadTimeout: o.LoadTimeout,
		TTL:         o.TTL,
		NegativeTTL: o.NegativeTTL,
		NearTTL:     o.NearTTL,
		MaxBytes:    h.group.cacheBytes,
		Errors:      o.Errors,
	}
	if options.LoadTimeout == 0 {
		options.LoadTimeout = defaultLoadTimeout
	}
	if h.group.cacheBytes <= 0 {
		options.MaxBytes = 0
		options.TTLFor = func(string, string) time.Duration { return -1 }
	} else if o.TTLFor != nil {
		options.TTLFor = o.TTLFor
	}
	return options
}

// count adds to the group's Stats what the node has counted since.
func (h *home) count() {
	if h.cache == nil {
		return
	}
	now := h.cache.Stats()
	h.mu.Lock()
	defer h.mu.Unlock()
	stats := &h.group.Stats
	stats.ServerRequests.Add(max(0, now.ServerRequests-h.counted.ServerRequests))
	stats.PeerErrors.Add(max(0, now.PeerErrors-h.counted.PeerErrors))
	h.counted.ServerRequests = max(now.ServerRequests, h.counted.ServerRequests)
	h.counted.PeerErrors = max(now.PeerErrors, h.counted.PeerErrors)
}
