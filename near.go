package peercache

import (
	"hash/maphash"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The geometry of a near cache. Stripes and words are powers of two.
const (
	nearStripes = 64      // tables that grow on their own, each with a mutex for those who change it
	nearWords   = 32      // change counters of a stripe
	nearWays    = 7       // entries of a bucket: with the tags they fill a cache line of 64 bytes
	nearMaxLen  = 1 << 20 // buckets of a stripe

	nearBucketBytes = 64 + 8 // a bucket and its word of the stripe's ghosts
	nearMaxUses     = 3
	nearMaxShare    = 8               // an entry may take one part in so many of the whole
	nearProbation   = 10              // so is the part of it where new entries are on probation
	nearVisits      = 2 * nearStripes // stripes that one put asks to evict before it gives up
	nearSweep       = 4 * nearWays    // ways that each of them looks at
	nearChange      = 2               // what a drop adds to a change counter
	nearInstalling  = 1               // the bit in it that a put sets while it installs
)

// near keeps the decoded values of one cache's hot keys.
//
// A reader takes no lock: tables and entries are reached through atomic
// pointers, and key and value of an entry do not change. Those who change a
// stripe hold its mutex.
//
// What keeps an old value out: a value is put with a token that was taken
// before it was read. A token is a change counter that the key shares with
// some others; drop and clear move it on. A put marks the counter while it
// installs, which succeeds only if it still equals the token. So a drop either
// moved the counter first, and the put is refused, or it sees the mark or the
// entry itself, and then takes the mutex and removes the entry. A drop of a
// key that is absent costs one addition and one look.
//
// What stays (S3-FIFO; Yang et al., SOSP 2023): a new entry is on probation, in a queue that gets a
// tenth of the room. At its end an entry that was used is kept, another one is
// evicted and remembered as a ghost for a while; a key that comes back in that
// time is kept at once. So a scan passes through the queue only. Over the kept
// entries goes a hand that counts their uses down and evicts at zero (CLOCK);
// it walks the table itself, so that they are in no list.
//
// All methods may be called concurrently.
type near[V any] struct {
	now       func() time.Duration
	entryCost int64 // of an entry beside its key and encoded value
	seed      maphash.Seed
	keyspace  uint64 // of the cache

	tables    [nearStripes]atomic.Pointer[nearTable[V]]  // nil: empty
	stripes   atomic.Pointer[[nearStripes]nearStripe[V]] // nil until the first token: an unused near is small
	max       atomic.Int64
	probation atomic.Int64  // bytes of the entries on probation
	bytes     atomic.Int64  // entries in place or about to be, and tables; never above max but by a lowered max
	hand      atomic.Uint64 // the stripe to evict from next
	votes     atomic.Pointer[nearVotes]
}

// nearStripe is what those need who change a part of a near cache.
type nearStripe[V any] struct {
	changes [nearWords]atomic.Uint64
	entries atomic.Int64 // changed under mu

	mu     sync.Mutex   // guards the stripe's table against other changers, and the fields below; no lock is taken under it
	queue  []nearTicket // of the entries on probation, oldest first, and of some that are gone
	ticket uint32       // given last
	ghosts ghosts
	hand   int // the way of the table where the last sweep ended
}

// A nearTicket is an entry's place in the queue. It holds no pointer, lest an
// entry that is gone is kept from the collector.
type nearTicket struct {
	hash   uint64
	ticket uint32
}

type nearTable[V any] struct {
	mask    uint64
	buckets []nearBucket[V] // 1 << n of them
}

// A nearBucket is one set of entries. Byte i of tags is a hint of what may be
// in way i, 0 for nothing; the entry itself decides.
type nearBucket[V any] struct {
	tags atomic.Uint64
	ways [nearWays]atomic.Pointer[nearEntry[V]]
}

// A nearEntry holds a short key in itself, which spares a reader the way to
// it.
type nearEntry[V any] struct {
	hash    uint64        // here
	told    uint64        // the key's hash as all members have it, for heat
	expires time.Duration // 0: never
	uses    atomic.Uint32
	ticket  uint32 // guarded by the stripe's mutex: in the queue; 0: kept
	length  uint8  // of the key, if it is short
	short   [nearShortKey]byte
	value   V
	long    string // the key, if it is not short
	cost    int64
}

// nearShortKey is the greatest length of a short key: with its length it takes
// three words.
const nearShortKey = 23

// newNearEntry returns an entry that keeps nothing of key, which may be a
// piece of something large.
func newNearEntry[V any](hash uint64, key string, v V) *nearEntry[V] {
	e := &nearEntry[V]{hash: hash, value: v}
	if len(key) <= nearShortKey {
		e.length = uint8(copy(e.short[:], key))
	} else {
		e.long = strings.Clone(key)
	}
	return e
}

// is reports whether the entry's key is the given one.
func (e *nearEntry[V]) is(key string) bool {
	if len(key) > nearShortKey {
		return e.long == key
	}
	return e.long == "" && string(e.short[:e.length%(nearShortKey+1)]) == key
}

// wanted returns the uses of an entry, 0 if it has expired.
func (e *nearEntry[V]) wanted(now time.Duration) uint32 {
	if e.expires != 0 && now >= e.expires {
		return 0
	}
	return e.uses.Load()
}

// newNear returns an empty near cache of at most maxBytes; zero or less
// disables it. Beside that it takes some 20 KiB and one
// part in 128 of maxBytes once it is used. An entry is
// reckoned with the encoded size of its value: what a decoded value refers to
// beyond that is not known.
func newNear[V any](maxBytes int64, now func() time.Duration) *near[V] {
	n := &near[V]{now: now, entryCost: roundUp(int64(reflect.TypeFor[nearEntry[V]]().Size())), seed: maphash.MakeSeed()}
	n.max.Store(max(maxBytes, 0))
	return n
}

// roundUp is about what the allocator makes of a size.
func roundUp(size int64) int64 { return (size + 15) &^ 15 }

// get returns the value of a key unless it is absent or expired, and counts
// the use. recent is a time on the cache's clock that is not yet [glanceTime]
// ago: only near its end is an entry held against the clock itself.
func (n *near[V]) get(hash uint64, key string, recent time.Duration) (v V, ok bool) {
	if e := n.find(hash, key, recent); e != nil {
		return e.value, true
	}
	return v, false
}

// find is get for those who want the entry. Nil: there is none.
func (n *near[V]) find(hash uint64, key string, recent time.Duration) *nearEntry[V] {
	mixed := mixHash(hash)
	t := n.tables[mixed>>58].Load()
	if t == nil {
		return nil
	}
	b := t.bucket(mixed)
	for m := matches(b.tags.Load(), nearTag(mixed)); m != 0; m &= m - 1 {
		e := b.ways[bits.TrailingZeros64(m)/8].Load()
		if e == nil || e.hash != hash || !e.is(key) {
			continue
		}
		if e.expires != 0 && recent+2*glanceTime >= e.expires && n.now() >= e.expires {
			return nil
		}
		// Most uses of a hot entry find the count at its maximum and write
		// nothing, so that readers share the line. A lost count is no harm.
		if u := e.uses.Load(); u < nearMaxUses {
			e.uses.Store(u + 1)
		}
		return e
	}
	return nil
}

func (t *nearTable[V]) bucket(mixed uint64) *nearBucket[V] { return &t.buckets[mixed>>20&t.mask] }

// token returns what put wants to know: the state of the changes to the key.
// It is taken before the value is read from the store or asked of a peer.
func (n *near[V]) token(hash uint64) uint64 {
	if n.max.Load() == 0 {
		return 0
	}
	st := n.stripes.Load()
	if st == nil {
		st = new([nearStripes]nearStripe[V])
		if !n.stripes.CompareAndSwap(nil, st) {
			st = n.stripes.Load()
		}
	}
	mixed := mixHash(hash)
	// No token is 0, which is what a disabled cache gives and no put takes.
	return st[mixed>>58].change(mixed).Load()&^nearInstalling + nearChange
}

func (s *nearStripe[V]) change(mixed uint64) *atomic.Uint64 { return &s.changes[mixed>>53%nearWords] }

// put installs a value and tells whether it did. It is refused when the key
// was dropped since the token was taken (or another key with the same change
// counter), when it has expired, and when it is not hot enough for the room
// there is. size is the encoded size of the value; expires is on the cache's
// clock, 0 for never.
func (n *near[V]) put(hash uint64, key string, v V, size int, expires time.Duration, token uint64) bool {
	st, limit := n.stripes.Load(), n.max.Load()
	if st == nil || size < 0 || int64(size) >= limit {
		return false
	}
	mixed := mixHash(hash)
	s := &st[mixed>>58]
	change := s.change(mixed)
	cost := n.entryCost + roundUp(int64(size))
	if len(key) > nearShortKey {
		cost += roundUp(int64(len(key)))
	}
	now := n.now()
	if change.Load()&^nearInstalling != token-nearChange || cost > limit/nearMaxShare || expires != 0 && now >= expires {
		return false
	}

	seen := n.tables[mixed>>58].Load()
	growth := n.growth(s, seen, mixed)
	if !n.reserve(st, cost+growth, now) {
		return false
	}
	e := newNearEntry(hash, key, v)
	e.told, e.expires, e.cost = hashOf(n.keyspace, key), expires, cost

	s.mu.Lock()
	defer s.mu.Unlock()
	// A maximum that was lowered since the bytes were reserved: setMaxBytes
	// visits this stripe after us, or we see its maximum here.
	t := n.tables[mixed>>58].Load()
	if t != seen || n.bytes.Load() > n.max.Load() {
		n.bytes.Add(-growth) // another put has grown it, or the next will
	} else if growth != 0 {
		t = grown(t)
		n.tables[mixed>>58].Store(t)
	}
	if t == nil || n.bytes.Load() > n.max.Load() ||
		!change.CompareAndSwap(token-nearChange, token-nearChange+nearInstalling) {
		n.bytes.Add(-cost)
		return false
	}
	ok := n.installLocked(s, t, mixed, key, e, now)
	change.Add(^uint64(0)) // no longer installing
	if !ok {
		n.bytes.Add(-cost)
	}
	return ok
}

// growth is what it takes to make a stripe's table larger, 0 if it need not
// be: it must be when the key's bucket is full and many others are well filled.
func (n *near[V]) growth(s *nearStripe[V], t *nearTable[V], mixed uint64) int64 {
	if t == nil {
		return nearBucketBytes
	}
	dense := int64(5) // entries in two buckets
	if limit := n.max.Load(); n.bytes.Load() > limit-limit/8 {
		dense = 7 // the room would be taken from entries
	}
	if t.bucket(mixed).tags.Load()&nearTagBits != nearTagBits ||
		2*s.entries.Load() < dense*int64(len(t.buckets)) || len(t.buckets) == nearMaxLen {
		return 0
	}
	return int64(len(t.buckets)) * nearBucketBytes
}

// grown returns a table of twice the size with the same entries. The old one
// stays as it is for those who are reading it.
func grown[V any](old *nearTable[V]) *nearTable[V] {
	if old == nil {
		return &nearTable[V]{buckets: make([]nearBucket[V], 1)}
	}
	t := &nearTable[V]{mask: old.mask<<1 | 1, buckets: make([]nearBucket[V], 2*len(old.buckets))}
	for i := range nearWays * len(old.buckets) {
		if e := old.buckets[i/nearWays].ways[i%nearWays].Load(); e != nil {
			t.bucket(mixHash(e.hash)).set(i%nearWays, e) // free: a bucket's entries come from one old bucket
		}
	}
	return t
}

// set puts an entry into a way, nil to free it; the stripe's mutex is held. A
// reader that sees the tag of one and the way of another misses.
func (b *nearBucket[V]) set(way int, e *nearEntry[V]) {
	tags := b.tags.Load() &^ (0xff << (8 * way))
	if e != nil {
		tags |= nearTag(mixHash(e.hash)) << (8 * way)
	}
	b.ways[way].Store(e)
	b.tags.Store(tags)
}

// installLocked gives the entry a way in its bucket: that of an older entry of
// the same key, else a free one, else that of the least used.
func (n *near[V]) installLocked(s *nearStripe[V], t *nearTable[V], mixed uint64, key string, e *nearEntry[V], now time.Duration) bool {
	b := t.bucket(mixed)
	free, least, leastUses := -1, 0, uint32(nearMaxUses+1)
	for w := range b.ways {
		o := b.ways[w].Load()
		if o == nil {
			free = w
		} else if o.hash == e.hash && o.is(key) {
			e.uses.Store(o.uses.Load())
			n.removeLocked(s, b, w)
			n.placeLocked(s, t, w, e, o.ticket == 0)
			return true
		} else if u := o.wanted(now); u < leastUses {
			least, leastUses = w, u
		}
	}
	if free < 0 && leastUses > 0 { // a round of the hand for this bucket alone
		for w := range b.ways {
			o := b.ways[w].Load()
			o.uses.Store(max(o.uses.Load(), 1) - 1)
		}
		return false
	}
	if free < 0 {
		free = least
		n.removeLocked(s, b, free)
	}
	n.placeLocked(s, t, free, e, s.ghosts.has(mixed))
	// While there is room to spare, who has been through the queue is kept.
	limit := n.max.Load()
	for e != nil && n.probation.Load() > limit/nearProbation && n.bytes.Load() < limit-limit/8 {
		e, _, _ = n.dequeueLocked(s, t)
	}
	return true
}

func (n *near[V]) placeLocked(s *nearStripe[V], t *nearTable[V], way int, e *nearEntry[V], kept bool) {
	if !kept {
		s.ticket = max(s.ticket+1, 1)
		e.ticket = s.ticket
		if len(s.queue) == cap(s.queue) { // those that are gone leave it, and it grows if they were few
			s.queue = slices.DeleteFunc(s.queue, func(q nearTicket) bool { return t.queued(q) < 0 })
			s.queue = slices.Grow(s.queue, 1+len(s.queue)/2)
		}
		s.queue = append(s.queue, nearTicket{e.hash, e.ticket})
		n.probation.Add(e.cost)
	}
	t.bucket(mixHash(e.hash)).set(way, e)
	s.entries.Add(1)
}

// queued returns the way of a ticket's entry, -1 if that is gone.
func (t *nearTable[V]) queued(q nearTicket) int {
	b := t.bucket(mixHash(q.hash))
	for w := range b.ways {
		if e := b.ways[w].Load(); e != nil && e.ticket == q.ticket && e.hash == q.hash {
			return w
		}
	}
	return -1
}

// dequeueLocked ends the probation of the oldest entry in the queue and returns
// it and its place, nil if there is none.
func (n *near[V]) dequeueLocked(s *nearStripe[V], t *nearTable[V]) (*nearEntry[V], *nearBucket[V], int) {
	for len(s.queue) > 0 {
		q := s.queue[0]
		s.queue = s.queue[1:]
		if w := t.queued(q); w >= 0 {
			b := t.bucket(mixHash(q.hash))
			e := b.ways[w].Load()
			n.probation.Add(-e.cost)
			e.ticket = 0
			return e, b, w
		}
	}
	return nil, nil, 0
}

func (n *near[V]) removeLocked(s *nearStripe[V], b *nearBucket[V], way int) {
	e := b.ways[way].Load()
	b.set(way, nil)
	if e.ticket != 0 {
		n.probation.Add(-e.cost)
	}
	s.entries.Add(-1)
	n.bytes.Add(-e.cost)
}

// reserve takes bytes and evicts entries until there are as many.
func (n *near[V]) reserve(st *[nearStripes]nearStripe[V], need int64, now time.Duration) bool {
	ok := n.take(need)
	for visits := 0; !ok && visits < nearVisits; visits++ {
		n.evict(st, int(n.hand.Add(1)%nearStripes), need, now)
		ok = n.take(need)
	}
	return ok
}

// take reserves bytes if there are as many.
func (n *near[V]) take(need int64) bool {
	for used := n.bytes.Load(); used+need <= n.max.Load(); used = n.bytes.Load() {
		if n.bytes.CompareAndSwap(used, used+need) {
			return true
		}
	}
	return false
}

// evict evicts entries of a stripe until there is room, or all that it looks at
// are to be kept.
func (n *near[V]) evict(st *[nearStripes]nearStripe[V], i int, need int64, now time.Duration) {
	s := &st[i]
	s.mu.Lock()
	defer s.mu.Unlock()
	t := n.tables[i].Load()
	if t == nil {
		return
	}
	for n.probation.Load() > n.max.Load()/nearProbation && n.bytes.Load()+need > n.max.Load() {
		e, b, way := n.dequeueLocked(s, t)
		if e == nil {
			return
		} else if e.wanted(now) > 0 {
			e.uses.Store(0)
			continue
		}
		s.ghosts.add(mixHash(e.hash), len(t.buckets), int(s.entries.Load()))
		n.removeLocked(s, b, way)
	}
	for range min(nearSweep, nearWays*len(t.buckets)) {
		if n.bytes.Load()+need <= n.max.Load() {
			return
		}
		s.hand = (s.hand + 1) % (nearWays * len(t.buckets))
		b, way := &t.buckets[s.hand/nearWays], s.hand%nearWays
		if e := b.ways[way].Load(); e == nil || e.ticket != 0 {
			continue
		} else if u := e.wanted(now); u > 0 {
			e.uses.Store(u - 1)
		} else {
			n.removeLocked(s, b, way)
		}
	}
}

// drop removes a key at once: after it returned, no get returns a value that
// was put with a token taken before.
func (n *near[V]) drop(hash uint64, key string) {
	st := n.stripes.Load()
	if st == nil {
		return // no token has been given
	}
	mixed := mixHash(hash)
	s := &st[mixed>>58]
	// 1. Any put with an older token that has not begun to install is refused
	// from here on. 2. One that is installing shows in the mark: its mutex is
	// waited for below. 3. One that had ended has its entry in the table that
	// is read now or in one made from it, as the table is read after.
	installing := s.change(mixed).Add(nearChange) & nearInstalling
	if installing == 0 && !n.holds(hash) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := n.tables[mixed>>58].Load()
	if t == nil {
		return
	}
	b := t.bucket(mixed)
	for way := range b.ways {
		if e := b.ways[way].Load(); e != nil && e.hash == hash && e.is(key) {
			if e.ticket == 0 || e.uses.Load() > 0 { // a hot key that was written stays hot
				s.ghosts.add(mixed, len(t.buckets), int(s.entries.Load()))
			}
			n.removeLocked(s, b, way)
		}
	}
}

// forget is drop by the key alone.
func (n *near[V]) forget(key string) {
	if n.stripes.Load() != nil {
		n.drop(n.hash(key), key)
	}
}

// holds tells whether there is an entry with the hash. It takes no lock.
func (n *near[V]) holds(hash uint64) bool {
	mixed := mixHash(hash)
	t := n.tables[mixed>>58].Load()
	if t == nil {
		return false
	}
	b := t.bucket(mixed)
	for m := matches(b.tags.Load(), nearTag(mixed)); m != 0; m &= m - 1 {
		if e := b.ways[bits.TrailingZeros64(m)/8].Load(); e != nil && e.hash == hash {
			return true
		}
	}
	return false
}

// clear drops all keys.
func (n *near[V]) clear() {
	st := n.stripes.Load()
	if st == nil {
		return
	}
	for i := range st {
		s := &st[i]
		s.mu.Lock()
		for w := range s.changes {
			s.changes[w].Add(nearChange) // none is marked: a put marks under mu
		}
		if t := n.tables[i].Swap(nil); t != nil {
			for i := range nearWays * len(t.buckets) {
				if b := &t.buckets[i/nearWays]; b.ways[i%nearWays].Load() != nil {
					n.removeLocked(s, b, i%nearWays)
				}
			}
			n.bytes.Add(-int64(len(t.buckets)) * nearBucketBytes)
		}
		s.queue, s.ghosts = nil, ghosts{}
		s.mu.Unlock()
	}
}

// stats returns how many entries there are, expired ones included, and the
// bytes they and their tables take.
func (n *near[V]) stats() (entries, bytes int64) {
	if st := n.stripes.Load(); st != nil {
		for i := range st {
			entries += st[i].entries.Load()
		}
	}
	return entries, n.bytes.Load()
}

// setMaxBytes changes the maximum; zero or less empties and disables the
// cache. What is above a lower one is evicted before it returns.
func (n *near[V]) setMaxBytes(maxBytes int64) {
	n.max.Store(max(maxBytes, 0))
	n.votes.Store(nil)
	st := n.stripes.Load()
	if st == nil {
		return
	}
	// A few rounds of the hand are enough, unless readers keep using
	// everything. Tables do not become smaller; they start anew when they are
	// out of proportion.
	buckets := int64(0)
	for i := range n.tables {
		if t := n.tables[i].Load(); t != nil {
			buckets += int64(len(t.buckets))
		}
	}
	for range 2*nearStripes + 5*buckets {
		if n.take(0) {
			return
		} else if buckets*nearBucketBytes > n.max.Load()/2 {
			break
		}
		n.evict(st, int(n.hand.Add(1)%nearStripes), 0, n.now())
	}
	n.clear()
}
