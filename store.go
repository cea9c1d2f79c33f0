package peercache

import (
	"fmt"
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/lru"
)

const (
	// tombstoneTime is how long a deleted key's version is kept: longer than
	// any load, retry or sync that could bring the old value back. Memory
	// permitting; after that the shard's floor stands for it.
	tombstoneTime = 5 * time.Minute

	maxSpaces = 1 << 12 // caches by name
)

// A space is one cache as a node holds it, by name: it exists for the caches
// of this process and for those that only others have.
type space struct {
	name     string
	id       uint32
	keyspace uint64
	count    counters
	face     atomic.Pointer[face] // nil until New was called in this process
}

// A face is what New registers: the typed side of a space.
type face struct {
	load      func(ctx loadContext, key string) loaded // nil: a plain store
	loadMany  func(ctx loadContext, keys []string) map[string]loaded
	timeout   time.Duration
	forget    func(key string) // drops a near copy
	forgetAll func()
	resize    func(maxBytes int64) // bounds the near copies
	nearStats func() (entries, bytes int64)

	readReplicas bool // Options.ReadReplicas
}

// canLoad reports whether this process can make a value of the space.
func (s *space) canLoad() bool {
	f := s.face.Load()
	return f != nil && f.load != nil
}

// floors are the bounds below which a shard refuses entries. Immutable.
type floors struct {
	gc    Version            // of all spaces: the greatest version of a write that was forgotten, a delete mostly
	clear map[uint32]Version // by space: when it was last cleared
}

// under returns the greater of the floors that hold for a space.
func (f *floors) under(space uint32) Version {
	if f == nil {
		return Version{}
	}
	return later(f.gc, f.clear[space])
}

// store is the local store of a node: an lru.Store that knows versions,
// tombstones and floors.
type store struct {
	lru    *lru.Store
	seed   maphash.Seed // of names
	now    func() time.Duration
	clock  *hybridClock
	wrote  func(s *space, key string) // called after a write was applied, before it is acknowledged
	used   func(hash uint64)          // called when get finds something
	floors [shardCount]atomic.Pointer[floors]

	mu     sync.RWMutex
	byName map[string]*space // guarded by mu
	byID   []*space          // guarded by mu
}

func newStore(maxBytes int64, now func() time.Duration, clock *hybridClock) *store {
	s := &store{seed: maphash.MakeSeed(), now: now, clock: clock, byName: make(map[string]*space)}
	s.lru = lru.New(lru.Options{MaxBytes: maxBytes, Shards: shardCount, Now: now, OnEvict: s.evicted})
	return s
}

// space returns the space of a name, making it if need be.
func (s *store) space(name string) (*space, error) {
	s.mu.RLock()
	sp := s.byName[name]
	s.mu.RUnlock()
	if sp != nil {
		return sp, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp := s.byName[name]; sp != nil {
		return sp, nil
	}
	if len(s.byID) == maxSpaces {
		return nil, fmt.Errorf("peercache: cache %q: more than %d caches", name, maxSpaces)
	}
	sp = &space{name: name, id: uint32(len(s.byID)), keyspace: keyspaceOf(name)}
	s.byName[name] = sp
	s.byID = append(s.byID, sp)
	return sp, nil
}

func (s *store) spaceOf(id uint32) *space {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

func (s *store) spaces() []*space {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return append([]*space(nil), s.byID...)
}

// served returns how many requests of peers for keys there were.
func (s *store) served() (requests int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, sp := range s.byID {
		requests += sp.count.serverRequests.Load()
	}
	return requests
}

// key names a key to the lru.Store.
func (s *space) key(key string) lru.Key {
	hash := hashOf(s.keyspace, key)
	return lru.Key{Hash: hash, Space: s.id, Shard: uint16(shardOfHash(hash)), Name: key}
}

// nameOf names an entry in 64 bits. Of the hash that places keys it is easy to
// make keys that collide; of this one, which no other process knows, it is not.
func (s *store) nameOf(space uint32, key []byte) uint64 {
	return mix64(maphash.Bytes(s.seed, key) + mix64(uint64(space)))
}

// get returns what is held of a key and has not expired, and counts as a use.
// The value is a copy.
func (s *store) get(sp *space, key string) (entry, bool) { return s.getTo(nil, sp, key) }

// getTo is get with room for the value.
func (s *store) getTo(room []byte, sp *space, key string) (entry, bool) {
	k := sp.key(key)
	value, meta, ok := s.lru.Read(k, room)
	if !ok {
		return entry{}, false
	}
	s.used(k.Hash)
	return entryOf(meta, value), true
}

// peek is get without counting as a use.
func (s *store) peek(sp *space, key string) (entry, bool) {
	value, meta, ok := s.lru.Peek(sp.key(key), nil)
	if !ok {
		return entry{}, false
	}
	return entryOf(meta, value), true
}

// base returns the version that a fill of the key follows: that of the last
// write, kept or forgotten.
func (s *store) base(sp *space, key string) Version {
	k := sp.key(key)
	floor := s.floors[k.Shard].Load().under(sp.id)
	old := s.lru.Stat(k)
	if !old.Exists {
		return floor
	}
	return later(floor, orderOf(old.Version).w)
}

// source says where an entry comes from, which decides what may keep it out.
type source uint8

const (
	fromRequest source = iota // a write or a load, made now
	fromOther                 // another holder's store
	fromAhead                 // another holder's, who had applied all that this node has
)

// A standing is what a new entry of a key has to be above.
type standing struct {
	order order
	entry bool // of an entry that is held
	floor bool // or of the floor that stands for forgotten writes, and no clear floor is in the way
}

// apply takes an entry in unless something higher is held. It returns what
// stands in the way, or the entry's own order.
func (s *store) apply(sp *space, key string, e entry, from source) (held standing, applied bool, err error) {
	return s.applyOn(sp, key, e, from, nil)
}

// applyOn is apply for an entry that replaces what presence says and nothing else.
func (s *store) applyOn(sp *space, key string, e entry, from source, base *order) (held standing, applied bool, err error) {
	if e.flags&flagOmitted != 0 {
		return held, false, fmt.Errorf("%w: more than is kept here", ErrTooLarge)
	}
	// What another holds with a stamp beyond belief is taken in, for its value,
	// and does not move the clock.
	if !s.clock.accept(e.order.latest()) && from == fromRequest {
		return held, false, errClock
	}
	k := sp.key(key)
	meta := e.meta()
	verdict, err := s.lru.Apply(k, &meta, e.value, func(old lru.Old) lru.Verdict {
		f := s.floors[k.Shard].Load()
		if base != nil {
			if now := s.presenceOf(f, sp.id, old); now.order != *base {
				held = now
				return lru.Keep
			}
		}
		if f != nil {
			cleared := s.bars(f.clear[sp.id], &e, from)
			floor := cleared
			// What another holder has and this node lacks, at or below the
			// floor, may have been deleted here and the deletion forgotten;
			// unless the other has seen all that this node has.
			if from == fromRequest || from == fromOther && !old.Exists {
				floor = later(floor, s.bars(f.gc, &e, from))
			}
			if !floor.IsZero() && e.order.compare(order{floor, floor}) <= 0 {
				held = standing{order: order{floor, floor}, floor: e.order.compare(order{cleared, cleared}) > 0}
				return lru.Keep
			}
		}
		if old.Exists {
			if o := orderOf(old.Version); o.compare(e.order) >= 0 && s.bars(o.w, &e, from) == o.w {
				held = standing{order: o, entry: true}
				return lru.Keep
			}
		}
		return lru.Put
	})
	if err != nil {
		return held, false, fmt.Errorf("%w: key and value of %d bytes", ErrTooLarge, len(key)+len(e.value))
	}
	if verdict != lru.Put {
		return held, held.entry && held.order == e.order, nil // what is held already was applied already
	}
	s.changed(sp, key, e.order.isWrite())
	return standing{order: e.order, entry: true}, true, nil
}

// bars returns a version that is held, or the zero Version when what is to be
// applied need not be above it.
//
//  1. A member's clock is set ahead for a moment. 2. It stamps a write, which no
//     other member takes in. 3. The clock is set right. 4. The key is written.
//
// That write could not be above the one before for as long as the clock was
// ahead. Only its stamp, which all members believe, counts.
func (s *store) bars(held Version, e *entry, from source) Version {
	if from == fromRequest && !s.clock.believes(held.time) && s.clock.believes(e.order.latest()) {
		return Version{}
	}
	return held
}

// forgo drops what is held of a key, for something later that cannot be held.
func (s *store) forgo(sp *space, key string, o order) {
	s.removeIf(sp, key, o.isWrite(), func(held order) bool { return held.compare(o) < 0 })
	s.raiseGC(shardOf(sp.keyspace, key), o.w)
}

// dropUnder drops what is held of a key that follows a write at or below floor.
func (s *store) dropUnder(sp *space, key string, floor Version) {
	if !floor.IsZero() {
		s.removeIf(sp, key, false, func(held order) bool { return held.w.Compare(floor) <= 0 })
	}
}

func (s *store) removeIf(sp *space, key string, write bool, pick func(held order) bool) {
	k := sp.key(key)
	verdict, err := s.lru.Apply(k, new(lru.Meta), nil, func(old lru.Old) lru.Verdict {
		if old.Exists && pick(orderOf(old.Version)) {
			return lru.Remove
		}
		return lru.Keep
	})
	if err == nil && verdict == lru.Remove {
		s.changed(sp, key, write)
	}
}

// purge drops the expired entries of a shard. Their versions go into its floor,
// as when they leave on their own.
func (s *store) purge(shard int) {
	now := s.now()
	var floor Version
	s.lru.RemoveIf(uint16(shard), func(e lru.Entry) bool {
		if e.Expires == 0 || e.Expires > now {
			return false
		}
		// First the floor: who looks in between sees both.
		if w := orderOf(e.Version).w; w.Compare(floor) > 0 {
			floor = w
			s.raiseGC(shard, w)
		}
		return true
	})
}

// changed drops what was derived from the value before.
func (s *store) changed(sp *space, key string, write bool) {
	if f := sp.face.Load(); f != nil {
		f.forget(key)
	}
	if write {
		s.wrote(sp, key)
	}
}

// evicted is told by the lru.Store of each entry that it dropped. The write
// that the entry was or followed leaves its version behind as the floor of its
// shard: a holder that missed it, or a member that was away, must not bring back
// what was before.
func (s *store) evicted(e lru.Entry, _ lru.Reason) {
	if w := orderOf(e.Version).w; !w.IsZero() {
		s.raiseGC(int(e.Shard), w)
	}
}

func (s *store) raiseGC(shard int, to Version) {
	s.raise(shard, func(f *floors) bool {
		if f.gc.Compare(to) >= 0 {
			return false
		}
		f.gc = to
		return true
	})
}

// raise changes a copy of a shard's floors and puts it in place, unless change
// returns false.
func (s *store) raise(shard int, change func(*floors) bool) {
	for {
		before := s.floors[shard].Load()
		var after floors
		if before != nil {
			after = *before
		}
		if !change(&after) || s.floors[shard].CompareAndSwap(before, &after) {
			return
		}
	}
}

// clear drops all entries of a space in a shard that are at or below floor,
// and refuses such from now on. It reports whether the floor is new.
func (s *store) clear(sp *space, shard int, floor Version) (raised bool) {
	s.raise(shard, func(f *floors) bool {
		if raised = f.clear[sp.id].Compare(floor) < 0; !raised {
			return false
		}
		if f.clear = maps.Clone(f.clear); f.clear == nil {
			f.clear = make(map[uint32]Version)
		}
		f.clear[sp.id] = floor
		return true
	})
	s.clock.accept(floor.time)
	s.lru.RemoveIf(uint16(shard), func(e lru.Entry) bool { // also when another call raised it, which may not have come so far
		return e.Space == sp.id && orderOf(e.Version).compare(order{floor, floor}) <= 0
	})
	return raised
}

// clearedSince reports whether a key was cleared after a version.
func (s *store) clearedSince(sp *space, key string, w Version) bool {
	f := s.floors[shardOf(sp.keyspace, key)].Load()
	return f != nil && f.clear[sp.id].Compare(w) > 0 && s.clock.believes(f.clear[sp.id].time)
}

// clearDigest tells whether two holders of a shard have the same clear floors.
func (s *store) clearDigest(shard int) (digest uint64) {
	f := s.floors[shard].Load()
	if f == nil {
		return 0
	}
	for space, floor := range f.clear {
		digest += mix64(s.spaceOf(space).keyspace ^ mix64(floor.time^mix64(floor.incarnation)))
	}
	return digest
}

// drop empties a shard that this node owns no more, floors included.
func (s *store) drop(shard int) {
	s.lru.DropShard(uint16(shard))
	s.floors[shard].Store(nil)
}

// keepOnly empties a shard that this node comes to own again, floors included,
// but for some entries, of which there are most at the most.
func (s *store) keepOnly(shard, most int, keep func(e *lru.Entry) bool) {
	if most == 0 {
		s.drop(shard)
		return
	}
	s.dropIf(shard, func(e *lru.Entry) bool { return !keep(e) })
	s.floors[shard].Store(nil)
}

// standing returns what a new entry of a key has to be above: what is held,
// expired or not, or the floor that stands for what is not.
func (s *store) standing(sp *space, key string) standing {
	k := sp.key(key)
	return stands(s.floors[k.Shard].Load(), sp.id, s.lru.Stat(k))
}

// presence returns what a key's value, or that it has none, goes back to: the entry
// that is held, expired or not, or the floor that stands for what is not. Other keys'
// writes that were forgotten since raise the floor, and change nothing of an entry.
func (s *store) presence(sp *space, key string) standing {
	k := sp.key(key)
	return s.presenceOf(s.floors[k.Shard].Load(), sp.id, s.lru.Stat(k))
}

func (s *store) presenceOf(f *floors, space uint32, old lru.Old) standing {
	if o := orderOf(old.Version); old.Exists && !s.cleared(f, space, o) {
		return standing{order: o, entry: true}
	}
	floor := f.under(space)
	return standing{order: order{floor, floor}}
}

// cleared reports whether a Clear is about to drop an entry.
func (s *store) cleared(f *floors, space uint32, o order) bool {
	if f == nil {
		return false
	}
	floor := f.clear[space]
	return o.compare(order{floor, floor}) <= 0 && s.clock.believes(floor.time)
}

func stands(f *floors, space uint32, old lru.Old) standing {
	floor := f.under(space)
	held := standing{order: order{floor, floor}}
	if old.Exists {
		if o := orderOf(old.Version); o.compare(held.order) > 0 {
			return standing{order: o, entry: true}
		}
	}
	return held
}
