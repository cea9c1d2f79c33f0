package lru

import (
	"sync"
	"sync/atomic"
	"time"
)

// Store is a cache of byte strings, bounded in bytes. All methods may be called concurrently.
type Store struct {
	geometry
	seeds
	policy   policy
	now      func() time.Duration
	onEvict  func(Entry, Reason)
	segments []segment
	crowds   crowds
	presence presence

	maxBytes atomic.Int64
	limit    atomic.Int64    // of used: maxBytes less the reserve
	used     atomic.Int64    // bytes charged
	inline   atomic.Int64    // bytes of all blocks
	external [2]atomic.Int64 // bytes of extents, by ring
	shape    atomic.Pointer[shape]
	turn     atomic.Uint64
	limits   atomic.Pointer[map[uint32]*spaceLimit] // replaced under limitMu, never changed

	limitMu sync.Mutex // one SetSpaceLimit at a time; taken before a segment's lock
	boundMu sync.Mutex // one SetMaxBytes at a time; taken before a segment's lock
	pool    pool       // its lock is taken after a segment's
}

// New returns an empty Store. Options out of range are moved into it, as Options says.
func New(o Options) *Store {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	o.MaxBytes = max(o.MaxBytes, MinMaxBytes)
	s := &Store{
		geometry: newGeometry(o),
		seeds:    newSeeds(),
		policy:   defaultPolicy(),
		now:      o.Now,
		onEvict:  o.OnEvict,
	}
	if s.now == nil {
		start := time.Now()
		s.now = func() time.Duration { return time.Since(start) }
	}
	s.segments = make([]segment, s.geometry.segments)
	s.crowds = newCrowds(&s.geometry)
	s.presence = newPresence(&s.geometry)
	n := s.bound(o.MaxBytes)
	sh := newShape(&s.geometry, n)
	s.setBound(n, sh)
	s.pool.reset(sh)
	for i := range s.segments {
		s.segments[i].number = i
		s.segments[i].part = s.policy.part
		s.segments[i].shape = sh
	}
	return s
}

func (s *Store) setBound(n int64, sh *shape) {
	s.shape.Store(sh)
	s.maxBytes.Store(n)
	s.limit.Store(n - sh.reserve(s.geometry.segments))
}

// shard brings a shard's number into range.
func (s *Store) shard(n uint16) uint16 {
	if int(n) >= s.shards {
		n = uint16(int(n) % s.shards)
	}
	return n
}

func (s *Store) segment(h uint64) *segment { return &s.segments[h>>s.segShift] }

// Read appends the value under k to dst and counts as a use. Without an entry it returns dst as it was. It allocates only
// to grow dst.
func (s *Store) Read(k Key, dst []byte) ([]byte, Meta, bool) {
	return s.read(&k, dst, true)
}

// Peek is Read without counting as a use, nor as a hit or a miss.
func (s *Store) Peek(k Key, dst []byte) ([]byte, Meta, bool) {
	return s.read(&k, dst, false)
}

func (s *Store) read(k *Key, dst []byte, use bool) ([]byte, Meta, bool) {
	g, slot, r := s.lookup(k, use)
	if slot < 0 {
		g.mu.Unlock()
		return dst, Meta{}, false
	}
	m := g.meta(r, g.ringOf(slot))
	if r.external() {
		v := g.extents.value(r.extent())
		g.mu.Unlock()
		return append(dst, v...), m, true
	}
	_, v := r.inline()
	if dst == nil {
		dst = make([]byte, len(v)) // faster than append
		copy(dst, v)
	} else {
		dst = append(dst, v...)
	}
	g.mu.Unlock()
	return dst, m, true
}

// View calls f with the value under k and counts as a use. It returns false, without a call, if there is none. The value
// is valid until f returns and must not be changed. f runs with a lock held: it must be quick and must not call the
// Store.
func (s *Store) View(k Key, f func(value []byte, m Meta)) bool {
	g, slot, r := s.lookup(&k, true)
	defer g.mu.Unlock()
	if slot < 0 {
		return false
	}
	f(g.value(r), g.meta(r, g.ringOf(slot)))
	return true
}

// Stat returns the metadata of the entry under k, without counting as a use. An expired entry counts as there until its
// room is needed; Old.Value is nil.
func (s *Store) Stat(k Key) Old {
	g, slot, r := s.locate(&k)
	defer g.mu.Unlock()
	if slot < 0 {
		return Old{}
	}
	return Old{Meta: g.meta(r, g.ringOf(slot)), Exists: true, Expired: r.expired(s.now)}
}

// Touch counts as a use of the entry under k: for a copy whose original was read elsewhere. It returns whether there is
// one.
func (s *Store) Touch(k Key) bool {
	g, slot, r := s.locate(&k)
	defer g.mu.Unlock()
	if slot < 0 || r.expired(s.now) {
		return false
	}
	g.use(s, slot, r)
	return true
}

// Put stores a value under k, whatever was there.
func (s *Store) Put(k Key, m Meta, value []byte) error {
	_, err := s.Apply(k, &m, value, nil)
	return err
}

// PutNewer stores a value under k if there is no entry or one with a lesser version, expired or not. It returns whether
// it did, and the version it found: the one that stands if it did not.
func (s *Store) PutNewer(k Key, m Meta, value []byte) (found Version, stored bool, err error) {
	v, err := s.Apply(k, &m, value, func(old Old) Verdict {
		found = old.Version
		if old.Exists && old.Version.Compare(m.Version) >= 0 {
			return Keep
		}
		return Put
	})
	return found, v == Put && err == nil, err
}

// Apply calls decide with what is stored under k and does what it says, all in one step that no other call for the key
// sees the middle of. With verdict Put it stores value and *m, which decide may change before it returns. decide
// is called once, unless there is an error; nil means Put. It runs with a lock held: it must be quick and must not
// call the Store. The Store keeps nothing of m and value.
//
// An entry that is overwritten keeps its Heat if that is greater than m's; a Put is not a use.
func (s *Store) Apply(k Key, m *Meta, value []byte, decide func(old Old) Verdict) (Verdict, error) {
	d := draft{key: &k, meta: m, value: value, klen: k.len(), heat: min(m.Heat, MaxHeat)}
	if d.klen > MaxKeyBytes || int64(len(value)) > s.maxBytes.Load()/3 {
		return Keep, ErrTooLarge
	}
	k.Shard = s.shard(k.Shard)
	if l := s.limitOf(k.Space); l != nil {
		if err := s.makeRoom(k.Space, l, s.segment(s.mix(k.Hash)), entryCost(d.klen+len(value))); err != nil {
			return Keep, err
		}
	}
	var data []byte // key and value of an external record
	var funds int64 // charged and not yet spent
	var g, also *segment
	for {
		g, also = d.lock(s)
		need := g.plan(s, &d)
		if need <= funds && (data != nil || !d.apart) {
			break
		}
		// Charge what the entry may need, and copy what is large, without the lock; what is left is given back.
		unlock(g, also)
		if need > funds {
			if err := s.acquire(g, need-funds); err != nil {
				s.used.Add(-funds)
				return Keep, err
			}
			funds = need
		}
		if d.apart && data == nil {
			data = make([]byte, d.klen+len(value))
			copy(data[k.copyTo(data):], value)
		}
	}
	defer func() {
		s.used.Add(-funds)
		unlock(g, also)
	}()
	verdict := Put
	if decide != nil {
		var o Old
		if d.slot >= 0 {
			old := g.at(uint32(g.index.slots[d.slot]))
			o = Old{Meta: g.meta(old, d.to), Value: g.value(old), Exists: true, Expired: old.expired(s.now)}
		}
		verdict = decide(o)
	}
	switch verdict {
	case Put:
		g.store(s, &d, data, &funds)
	case Remove:
		if d.slot >= 0 {
			funds += g.remove(s, d.slot, g.at(uint32(g.index.slots[d.slot])))
		}
	}
	return verdict, nil
}

// Remove deletes the entry under k. It returns whether there was one that had not expired.
func (s *Store) Remove(k Key) bool {
	g, slot, r := s.locate(&k)
	defer g.mu.Unlock()
	if slot < 0 {
		return false
	}
	live := !r.expired(s.now)
	s.used.Add(-g.remove(s, slot, r))
	return live
}

// Len returns the number of entries, expired ones that still are in place included.
func (s *Store) Len() int {
	return int(s.Stats().Entries)
}

// Bytes returns the memory that the Store has taken, never more than MaxBytes.
func (s *Store) Bytes() int64 {
	return s.used.Load()
}

// Stats describe a Store. The counts are sums over the segments, taken one after the other.
type Stats struct {
	Entries     int64  // expired ones that still are in place included
	Bytes       int64  // memory taken: records, index, ghosts and all
	MaxBytes    int64  // the bound in force
	Hits        uint64 // of Read, View and Get
	Misses      uint64
	Evictions   uint64
	Expirations uint64
}

// Stats returns the counts of the Store.
func (s *Store) Stats() Stats {
	st := Stats{Bytes: s.used.Load(), MaxBytes: s.maxBytes.Load()}
	for i := range s.segments {
		g := &s.segments[i]
		g.mu.Lock()
		st.Entries += int64(g.index.n)
		st.Hits += g.hits
		st.Misses += g.misses
		for j := range g.spaces.list {
			st.Evictions += g.spaces.list[j].evictions
			st.Expirations += g.spaces.list[j].expirations
		}
		g.mu.Unlock()
	}
	return st
}
