package groupcache

import (
	"context"
	"fmt"
	"time"

	"github.com/peercache/peercache"
)

// What is in this file the original does not have.

// GroupOptions are the options of [NewGroupWithOptions]. The zero GroupOptions
// are those of [NewGroup]. They are each process's own: what counts for a value
// is what the process that loads it was given.
type GroupOptions struct {
	// TTL is how long a loaded value is kept. 0: until it has to make room.
	TTL time.Duration

	// TTLFor says it for each loaded value. 0: TTL; negative: it is not kept.
	TTLFor func(key, value string) time.Duration

	// NegativeTTL is how long it is remembered that the getter returned
	// [peercache.ErrNotFound]. 0: not at all.
	NegativeTTL time.Duration

	// NearTTL lets this process keep copies of hot keys that others own, as
	// the original always does: they may be older than what the cluster holds
	// by at most NearTTL. 0: none are kept.
	NearTTL time.Duration

	// LoadTimeout bounds one run of the getter. 0: ten minutes.
	LoadTimeout time.Duration

	// Errors are errors of the getter that keep their identity for
	// [errors.Is] when another process ran it. For them the getter is not run
	// again in this process.
	Errors []error
}

// NewGroupWithOptions is [NewGroup] with more to say. What is wrong with the
// options is the error of every Get.
func NewGroupWithOptions(name string, cacheBytes int64, getter Getter, opts GroupOptions) *Group {
	return std.newGroup(name, cacheBytes, getter, opts)
}

// Set writes the value of a key, for all processes: when it returns nil, every
// living owner of the key has it. It keeps nothing of value. Options are those
// of [peercache.Cache.Set], as are the errors; without WithTTL the value is
// kept for [GroupOptions].TTL.
func (g *Group) Set(ctx context.Context, key string, value []byte, opts ...peercache.SetOption) error {
	return g.onHome(func(h *home) error { return h.cache.Set(ctx, key, string(value), opts...) })
}

// Remove deletes keys, for all processes: when it returns nil, no living owner
// has them, and no load that was under way brings them back. Errors are those
// of [peercache.Cache.Delete].
func (g *Group) Remove(ctx context.Context, keys ...string) error {
	return g.onHome(func(h *home) error { return h.cache.Delete(ctx, keys...) })
}

// onHome calls f with the group's present home, which has a cache.
func (g *Group) onHome(f func(*home) error) error {
	h := g.home.Load()
	if h == nil {
		h = g.r.settle(g)
	}
	if h.err != nil {
		return h.err
	}
	return f(h)
}

// Node returns the node that the group is on: for its Stats, Members and
// Owners, for Shutdown, which hands over what this process holds before it
// ends, and for caches beside the groups. A pool whose [HTTPPool.Set] begins or
// ceases to name this process changes its node; caches made on the former one
// then fail with [peercache.ErrClosed].
func (g *Group) Node() *peercache.Node {
	h := g.home.Load()
	if h == nil {
		h = g.r.settle(g)
	}
	return h.host.node
}

// Configure lets change set what the pool's node is started with: Secret,
// Zone, Copies, Logger, and so on. The pool itself sets Advertise, Client,
// Path and Discover, and wraps DialContext and TLS, which is for peers whose
// URL begins with https. Groups add to MaxBytes. It comes before the first
// [HTTPPool.Set]; after that it panics.
func (p *HTTPPool) Configure(change func(*peercache.Config)) {
	p.r.homes.Lock()
	defer p.r.homes.Unlock()
	if p.began {
		panic("groupcache: Configure after Set")
	}
	change(&p.config)
}

// Err returns why the pool has no node in the cluster although [HTTPPool.Set]
// named peers: the configuration is bad. Its groups then are this process's
// own. What keeps a node away from its peers is in [peercache.Node.Stats].
func (p *HTTPPool) Err() error {
	p.r.homes.Lock()
	defer p.r.homes.Unlock()
	if p.failed == nil {
		return nil
	}
	return fmt.Errorf("groupcache: %w", p.failed)
}
