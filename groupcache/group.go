package groupcache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"

	"github.com/peercache/peercache"
)

// A Group is a name space of keys with what loads them. All methods may be
// called concurrently.
type Group struct {
	// Stats are counters since the group was made:
	//
	//   - Gets: calls of Get, those made for old processes included;
	//   - CacheHits: of those, answered by what this process holds;
	//   - Loads: of those, the others;
	//   - LoadsDeduped: requests to peers that were answered, and runs of the
	//     getter;
	//   - PeerLoads: Gets that another process answered;
	//   - PeerErrors: requests to peers that failed, at most a second old;
	//   - LocalLoads, LocalLoadErrs: runs of the getter in this process,
	//     whoever asked for the key;
	//   - ServerRequests: requests of peers; those over upgraded connections
	//     are no Gets, and are at most a second old.
	Stats Stats

	r          *registry
	name       string
	cacheBytes int64
	getter     Getter
	opts       GroupOptions

	home  atomic.Pointer[home] // nil until the group is used
	alone singleflight.Group   // loads that are not the cluster's

	picking sync.Mutex
	picked  PeerPicker // guarded by picking; nil: nothing is registered yet
}

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Get stores the value of a key in dest: what the cluster holds, or else what
// the getter gives. An error of the getter is returned as it is.
//
// A load goes on for as long as anybody waits for it: a ctx that ends takes
// only its own caller away.
func (g *Group) Get(ctx context.Context, key string, dest Sink) error {
	g.Stats.Gets.Add(1)
	if dest == nil {
		return errors.New("groupcache: nil dest Sink")
	}
	if ctx == nil {
		ctx = context.Background() // the original does not mind either
	}
	value, err := g.get(ctx, key)
	if err != nil {
		return err
	}
	return dest.SetString(value)
}

func (g *Group) get(ctx context.Context, key string) (string, error) {
	for {
		h := g.home.Load()
		if h == nil {
			h = g.r.settle(g)
		}
		value, err := h.get(ctx, key)
		// The node was closed because the group moved to another one.
		if errors.Is(err, peercache.ErrClosed) && g.home.Load() != h {
			continue
		}
		return value, err
	}
}

// get is Get on one node.
func (h *home) get(ctx context.Context, key string) (string, error) {
	if h.err != nil {
		return "", h.err
	}
	if err := h.host.awaitMet(ctx); err != nil {
		return "", err
	}
	stats := &h.group.Stats
	value, from, err := h.cache.GetFrom(h.asOwn(ctx), key)
	switch {
	case err == nil && (from == peercache.SourceNear || from == peercache.SourceStore):
		stats.CacheHits.Add(1)
		return value, nil
	case err == nil:
		stats.Loads.Add(1)
		if from == peercache.SourcePeer {
			stats.PeerLoads.Add(1)
			stats.LoadsDeduped.Add(1)
		}
		h.count()
		return value, nil
	}
	stats.Loads.Add(1)
	h.count()
	return h.afterFailure(ctx, key, err)
}

// CacheStats returns what this process holds of the group, and how often it
// was found there. Bytes are memory: keys, values, and what they take beside.
func (g *Group) CacheStats(which CacheType) CacheStats {
	h := g.home.Load()
	if h == nil || h.cache == nil {
		return CacheStats{}
	}
	h.count()
	s := h.cache.Stats()
	switch {
	case which == MainCache && g.opts.NearTTL == 0:
		// The decoded copies are of the same keys.
		return CacheStats{Bytes: s.Bytes + s.NearBytes, Items: s.Entries, Gets: s.Gets, Hits: s.Hits + s.NearHits, Evictions: s.Evictions}
	case which == MainCache:
		return CacheStats{Bytes: s.Bytes, Items: s.Entries, Gets: s.Gets - s.NearHits, Hits: s.Hits, Evictions: s.Evictions}
	case which == HotCache && g.opts.NearTTL != 0:
		return CacheStats{Bytes: s.NearBytes, Items: s.NearEntries, Gets: s.Gets, Hits: s.NearHits}
	default:
		return CacheStats{}
	}
}

// peers returns what picks the group's peers. It is asked for once, when the
// group first loads, and again until something is registered.
func (g *Group) peers() PeerPicker {
	g.picking.Lock()
	defer g.picking.Unlock()
	if g.picked == nil {
		g.picked = g.r.pick(g.name)
	}
	if g.picked == nil {
		return NoPeers{}
	}
	return g.picked
}
