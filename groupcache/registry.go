package groupcache

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

// countEvery is how often what nodes count is added to the [Stats] of groups,
// beside when a Get was no hit.
const countEvery = time.Second

// A registry has what the original keeps in the variables of its package: the
// groups by name, the pool, and the hooks. It also has the nodes.
//
// Its locks are taken in the order making, homes, mu; no function of the
// program is called but with making held.
type registry struct {
	startOnce sync.Once
	making    sync.Mutex      // one NewGroup at a time
	homes     sync.Mutex      // one change of what node a group is on at a time
	routines  sync.WaitGroup  // goroutines of the registry
	life      context.Context // ends them
	stop      context.CancelFunc

	mu      sync.RWMutex
	groups  map[string]*Group                 // guarded by mu, like all below
	picker  func(groupName string) PeerPicker // nil: none registered
	pool    *HTTPPool                         // nil: none made
	onGroup func(*Group)
	onStart func()

	solo     *host // guarded by homes; a node alone, for what is not in the pool's cluster; nil: not needed yet
	counting bool  // guarded by homes
}

func newRegistry() *registry {
	r := &registry{groups: make(map[string]*Group)}
	r.life, r.stop = context.WithCancel(context.Background())
	return r
}

// std is what the functions of the package work on. Programs that were written
// for the original count on it.
var std = newRegistry()

// GetGroup returns the group that [NewGroup] made under a name, or nil.
func GetGroup(name string) *Group { return std.group(name) }

// NewGroup makes the group of a name. getter loads what no member of the
// cluster holds. cacheBytes bounds what this process keeps of the group, and
// the memory of the node grows by it; 0 or less: nothing that this process
// loads is kept anywhere.
//
// It panics when getter is nil or when there is a group of that name.
func NewGroup(name string, cacheBytes int64, getter Getter) *Group {
	return std.newGroup(name, cacheBytes, getter, GroupOptions{})
}

// RegisterNewGroupHook registers a function that is called with each new group
// before [GetGroup] returns it. The second call panics.
func RegisterNewGroupHook(fn func(*Group)) { std.registerNewGroupHook(fn) }

// RegisterServerStart registers a function that is called when the first group
// is made. The second call panics.
func RegisterServerStart(fn func()) { std.registerServerStart(fn) }

// RegisterPeerPicker registers what picks the peers of all groups, in place of
// an [HTTPPool]: see the package comment. fn is called once for each group, at
// the first load. Of RegisterPeerPicker, [RegisterPerGroupPeerPicker] and
// [NewHTTPPool] a program calls one, once; a second call panics.
func RegisterPeerPicker(fn func() PeerPicker) {
	std.registerPicker(func(string) PeerPicker { return fn() })
}

// RegisterPerGroupPeerPicker is [RegisterPeerPicker] for a function that is told
// the group.
func RegisterPerGroupPeerPicker(fn func(groupName string) PeerPicker) { std.registerPicker(fn) }

func (r *registry) group(name string) *Group {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.groups[name]
}

// all lists the groups by name.
func (r *registry) all() []*Group {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Values(r.groups), func(a, b *Group) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
}

func (r *registry) newGroup(name string, cacheBytes int64, getter Getter, opts GroupOptions) *Group {
	if getter == nil {
		panic("nil Getter")
	}
	r.making.Lock()
	defer r.making.Unlock()
	r.mu.RLock()
	onStart, onGroup, taken := r.onStart, r.onGroup, r.groups[name] != nil
	r.mu.RUnlock()
	r.startOnce.Do(func() {
		if onStart != nil {
			onStart()
		}
	})
	if taken {
		panic("duplicate registration of group " + name)
	}
	g := &Group{r: r, name: name, cacheBytes: cacheBytes, getter: getter, opts: opts}
	if onGroup != nil {
		onGroup(g)
	}
	r.mu.Lock()
	r.groups[name] = g
	r.mu.Unlock()
	r.join(g)
	return g
}

func (r *registry) registerNewGroupHook(fn func(*Group)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onGroup != nil {
		panic("RegisterNewGroupHook called more than once")
	}
	r.onGroup = fn
}

func (r *registry) registerServerStart(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onStart != nil {
		panic("RegisterServerStart called more than once")
	}
	r.onStart = fn
}

func (r *registry) registerPicker(fn func(string) PeerPicker) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registerPickerLocked(fn)
}

func (r *registry) registerPickerLocked(fn func(string) PeerPicker) {
	if r.picker != nil {
		panic("RegisterPeerPicker called more than once")
	}
	r.picker = fn
}

// pick returns what picks the peers of a group; nil: nothing is registered yet.
func (r *registry) pick(name string) PeerPicker {
	r.mu.RLock()
	picker := r.picker
	r.mu.RUnlock()
	if picker == nil {
		return nil
	}
	if p := picker(name); p != nil {
		return p
	}
	return NoPeers{}
}

// join brings a new group to the pool's node, if there is one by now: this
// process may be asked for its keys before it asks itself.
func (r *registry) join(g *Group) {
	r.homes.Lock()
	defer r.homes.Unlock()
	if p := r.poolMade(); p != nil && p.now != nil && g.home.Load() == nil {
		g.home.Store(p.now.take(g))
	}
}

// settle gives a group a node: the pool's, or else the node alone.
func (r *registry) settle(g *Group) *home {
	r.homes.Lock()
	defer r.homes.Unlock()
	if h := g.home.Load(); h != nil {
		return h
	}
	on := r.soloLocked()
	if p := r.poolMade(); p != nil && p.now != nil {
		on = p.now
	}
	h := on.take(g)
	g.home.Store(h)
	return h
}

// moveLocked brings all groups to another node.
func (r *registry) moveLocked(to *host) {
	for _, g := range r.all() {
		g.home.Store(to.take(g))
	}
}

func (r *registry) poolMade() *HTTPPool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.pool
}

func (r *registry) soloLocked() *host {
	if r.solo == nil {
		r.solo, _ = r.newHostLocked(peercache.Config{}, nil) // a node alone has nothing that could fail
	}
	return r.solo
}

// endSoloLocked closes the node alone when no group is on it any more. Gets
// under way on it begin again where their group is now.
func (r *registry) endSoloLocked() {
	if solo := r.solo; solo != nil {
		r.solo = nil
		r.routines.Go(func() { solo.node.Close() })
	}
}

// countLocked starts the goroutine that keeps Stats up to date.
func (r *registry) countLocked() {
	if r.counting {
		return
	}
	r.counting = true
	r.routines.Go(func() {
		tick := time.NewTicker(countEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-r.life.Done():
				return
			}
			for _, g := range r.all() {
				if h := g.home.Load(); h != nil {
					h.count()
				}
			}
		}
	})
}
