package peercache

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"
)

// read is get by a caller who has just looked at the clock.
func (n *near[V]) read(hash uint64, key string) (V, bool) { return n.get(hash, key, n.now()) }

// add puts a value with a fresh token.
func (n *near[V]) add(hash uint64, key string, v V, size int) bool {
	return n.put(hash, key, v, size, 0, n.token(hash))
}

// checkNear holds the counters of a near cache that nobody is using against
// what is in it.
func checkNear[V any](t *testing.T, n *near[V]) {
	t.Helper()
	var entries, bytes, probation int64
	for i := range n.tables {
		nt := n.tables[i].Load()
		if nt == nil {
			continue
		}
		bytes += int64(len(nt.buckets)) * nearBucketBytes
		inStripe := int64(0)
		for j := range nt.buckets {
			b := &nt.buckets[j]
			for w := range b.ways {
				e := b.ways[w].Load()
				require.Equal(t, e != nil, b.tags.Load()>>(8*w)&0xff != 0)
				if e == nil {
					continue
				}
				mixed := mixHash(e.hash)
				require.Equal(t, i, int(mixed>>58))
				require.Same(t, b, nt.bucket(mixed))
				require.NotZero(t, matches(b.tags.Load(), nearTag(mixed))&(0x80<<(8*w)))
				inStripe++
				bytes += e.cost
				if e.ticket != 0 {
					probation += e.cost
				}
			}
		}
		require.Equal(t, inStripe, n.stripes.Load()[i].entries.Load())
		entries += inStripe
	}
	gotEntries, gotBytes := n.stats()
	require.Equal(t, entries, gotEntries)
	require.Equal(t, bytes, gotBytes)
	require.Equal(t, probation, n.probation.Load())
	require.LessOrEqual(t, bytes, n.max.Load())
}

func TestNearTokens(t *testing.T) {
	const h, key = 42, "k"
	other := uint64(h + 1) // another stripe
	for _, c := range []struct {
		name      string
		between   func(n *near[string]) // between token and put
		installed bool
	}{
		{"nothing", func(*near[string]) {}, true},
		{"drop", func(n *near[string]) { n.drop(h, key) }, false},
		{"drop of a key with the same hash", func(n *near[string]) { n.drop(h, "other") }, false},
		{"drop of another key", func(n *near[string]) { n.drop(other, "other") }, true},
		{"clear", func(n *near[string]) { n.clear() }, false},
		{"another put", func(n *near[string]) { n.add(h, key, "newer", 5) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, present := range []bool{false, true} {
				n := newNear[string](1<<20, stoppedClock)
				if present {
					require.True(t, n.add(h, key, "before", 6))
				}
				token := n.token(h)
				c.between(n)
				require.Equal(t, c.installed, n.put(h, key, "v", 1, 0, token))
				v, _ := n.read(h, key)
				require.Equal(t, c.installed, v == "v")
				checkNear(t, n)
			}
		})
	}
}

func TestNearWithoutToken(t *testing.T) {
	n := newNear[string](1<<20, stoppedClock)
	require.False(t, n.put(1, "a", "v", 1, 0, 0))
	n.drop(1, "a")
	n.clear()
	require.Nil(t, n.stripes.Load(), "an unused cache is small")
	n.token(1)
	require.False(t, n.put(1, "a", "v", 1, 0, 0))
}

func TestNearDisabled(t *testing.T) {
	for _, size := range []int64{0, -1} {
		n := newNear[string](size, stoppedClock)
		token := n.token(1)
		require.False(t, n.put(1, "a", "v", 1, 0, token))
		n.setMaxBytes(1 << 20)
		n.token(2)
		require.False(t, n.put(1, "a", "v", 1, 0, token), "the token of a disabled cache")
		require.True(t, n.add(1, "a", "v", 1))
		n.setMaxBytes(size)
		_, ok := n.read(1, "a")
		require.False(t, ok)
		entries, bytes := n.stats()
		require.Zero(t, entries)
		require.Zero(t, bytes)
		require.False(t, n.add(1, "a", "v", 1))
	}
}

func TestNearExpiry(t *testing.T) {
	var clock atomic.Int64
	n := newNear[string](1<<20, func() time.Duration { return time.Duration(clock.Load()) })
	clock.Store(100)
	require.False(t, n.put(1, "a", "v", 1, 100, n.token(1)), "expired already")
	require.True(t, n.put(1, "a", "v", 1, 101, n.token(1)))
	require.True(t, n.put(2, "b", "w", 1, 0, n.token(2)))
	_, ok := n.read(1, "a")
	require.True(t, ok)
	clock.Store(101)
	_, ok = n.read(1, "a")
	require.False(t, ok)
	_, ok = n.read(2, "b")
	require.True(t, ok)
	require.True(t, n.put(1, "a", "again", 1, 200, n.token(1)))
	v, ok := n.read(1, "a")
	require.True(t, ok)
	require.Equal(t, "again", v)
	checkNear(t, n)
}

// Keys with one hash share a bucket: seven of them fit.
func TestNearHashCollisions(t *testing.T) {
	n := newNear[int](1<<20, stoppedClock)
	for i := range 20 {
		n.add(7, strconv.Itoa(i), i, 8)
		checkNear(t, n)
	}
	found := 0
	for i := range 20 {
		if v, ok := n.read(7, strconv.Itoa(i)); ok {
			require.Equal(t, i, v)
			found++
		}
	}
	require.Equal(t, nearWays, found)
	for i := range 20 {
		n.drop(7, strconv.Itoa(i))
		_, ok := n.read(7, strconv.Itoa(i))
		require.False(t, ok)
	}
	entries, _ := n.stats()
	require.Zero(t, entries)
	checkNear(t, n)
}

// TestNearModel plays random operations against a map. The cache may have
// forgotten a key; what it has is what the map has.
func TestNearModel(t *testing.T) {
	type pending struct {
		key     int
		value   int
		token   uint64
		expires time.Duration
	}
	type held struct {
		value   int
		expires time.Duration
	}
	seeds := uint64(36)
	if testing.Short() {
		seeds = 9
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 7))
		now := time.Duration(1)
		keys := []int{3, 50, 2000}[seed%3]
		hashes := []uint64{1, 40, 1 << 60}[seed/3%3]
		hash := func(k int) uint64 { return uint64(k) * 0x9fb21c651e98df25 % hashes }
		n := newNear[int](int64(8<<10+r.IntN(100<<10)), func() time.Duration { return now })
		model := map[int]held{}
		var open []pending
		for op := range 8000 {
			k := r.IntN(keys)
			key := strconv.Itoa(k)
			switch p := r.IntN(1000); {
			case p < 400:
				v, ok := n.read(hash(k), key)
				m, has := model[k]
				if ok && (!has || m.value != v || m.expires != 0 && now >= m.expires) {
					t.Fatalf("seed %d op %d: got %d for key %d, the model has %v %v", seed, op, v, k, m, has)
				}
			case p < 650:
				pend := pending{key: k, value: op, token: n.token(hash(k))}
				if r.IntN(3) == 0 {
					pend.expires = now + time.Duration(r.IntN(500))
				}
				open = append(open, pend)
			case p < 880:
				if len(open) == 0 {
					continue
				}
				i := r.IntN(len(open))
				o := open[i]
				open = append(open[:i], open[i+1:]...)
				if n.put(hash(o.key), strconv.Itoa(o.key), o.value, r.IntN(800), o.expires, o.token) {
					require.False(t, o.expires != 0 && now >= o.expires)
					require.GreaterOrEqual(t, o.key, 0, "put after a drop")
					model[o.key] = held{o.value, o.expires}
				}
			case p < 990:
				if r.IntN(2) == 0 {
					n.drop(hash(k), key)
				} else {
					n.drop(hash(k), key)
				}
				delete(model, k)
				kept := open[:0]
				for _, o := range open {
					if o.key != k {
						kept = append(kept, o)
					} else if n.put(hash(k), key, o.value, 1, 0, o.token) {
						t.Fatalf("seed %d op %d: put with a token from before the drop", seed, op)
					}
				}
				open = kept
			case p < 994:
				n.clear()
				clear(model)
				for _, o := range open {
					require.False(t, n.put(hash(o.key), strconv.Itoa(o.key), o.value, 1, 0, o.token))
				}
				open = nil
			case p < 996:
				n.setMaxBytes(int64(r.IntN(120 << 10)))
			default:
				now += time.Duration(r.IntN(300))
			}
			if op%200 == 0 {
				checkNear(t, n)
			}
			if n.bytes.Load() > n.max.Load() {
				t.Fatalf("seed %d op %d: %d bytes", seed, op, n.bytes.Load())
			}
		}
	}
}

// TestNearStress has writers that count a key up and then drop it, and readers
// that never may see less than a drop had returned for.
func TestNearStress(t *testing.T) {
	for _, c := range []struct {
		name     string
		keys     int
		hashes   uint64
		maxBytes int64
	}{
		{"one key", 1, 1 << 60, 1 << 20},
		{"few keys, one hash", 4, 1, 1 << 20},
		{"a stripe that grows", 300, 1 << 60, 1 << 20},
		{"evicting", 400, 1 << 60, 24 << 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNear[uint64](c.maxBytes, stoppedClock)
			// All keys in one stripe, so that they meet.
			names, hashes := make([]string, c.keys), make([]uint64, c.keys)
			for i, h := 0, uint64(1); i < c.keys; h++ {
				if hash := h * 0xd6e8feb86659fd93 % c.hashes; c.hashes == 1 || mixHash(hash)>>58 == 5 {
					names[i], hashes[i] = "key"+strconv.Itoa(i), hash
					i++
				}
			}
			stored := make([]atomic.Uint64, c.keys) // the truth
			floor := make([]atomic.Uint64, c.keys)  // what a drop has returned for
			deadline := time.Now().Add(700 * time.Millisecond)
			if testing.Short() {
				deadline = time.Now().Add(250 * time.Millisecond)
			}
			var stop atomic.Bool
			var hits, puts atomic.Int64
			var wg sync.WaitGroup
			for g := range 2 {
				wg.Go(func() { // writer
					r := rand.New(rand.NewPCG(uint64(g), 1))
					for !stop.Load() {
						k := r.IntN(c.keys)
						v := stored[k].Add(1)
						if v%2 == 0 {
							n.drop(hashes[k], names[k])
						} else {
							n.drop(hashes[k], names[k])
						}
						for f := floor[k].Load(); f < v && !floor[k].CompareAndSwap(f, v); f = floor[k].Load() {
						}
						if r.IntN(3) == 0 {
							runtime.Gosched()
						}
					}
				})
				wg.Go(func() { // reader
					r := rand.New(rand.NewPCG(uint64(g), 2))
					for !stop.Load() {
						k := r.IntN(c.keys)
						least := floor[k].Load()
						if v, ok := n.read(hashes[k], names[k]); ok {
							hits.Add(1)
							if v < least {
								stop.Store(true)
								t.Errorf("key %d: %d after a drop for %d", k, v, least)
							}
							continue
						}
						token := n.token(hashes[k])
						v := stored[k].Load()
						if r.IntN(4) == 0 {
							runtime.Gosched()
						}
						if n.put(hashes[k], names[k], v, 8, 0, token) {
							puts.Add(1)
						}
					}
				})
			}
			wg.Go(func() { // everything else
				for i := 0; !stop.Load(); i++ {
					if b := n.bytes.Load(); b > c.maxBytes {
						stop.Store(true)
						t.Errorf("%d bytes", b)
					}
					if i%64 == 0 {
						n.clear() // so that the table grows again
					}
					n.stats()
					time.Sleep(200 * time.Microsecond)
					if time.Now().After(deadline) {
						stop.Store(true)
					}
				}
			})
			wg.Wait()
			checkNear(t, n)
			require.NotZero(t, hits.Load())
			require.NotZero(t, puts.Load())
		})
	}
}

// TestNearBounds watches the bytes while many put, and the maximum changes.
func TestNearBounds(t *testing.T) {
	const most = 200 << 10
	n := newNear[[]byte](most, stoppedClock)
	var stop atomic.Bool
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			for range 20_000 {
				k := uint64(r.IntN(5000))
				n.add(k, strconv.FormatUint(k, 10), nil, r.IntN(4000))
				if r.IntN(10) == 0 {
					n.drop(k, strconv.FormatUint(k, 10))
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	go func() {
		defer stop.Store(true)
		for i := int64(1); ; i++ {
			select {
			case <-done:
				return
			default:
				n.setMaxBytes(most / (i%4 + 1))
				runtime.Gosched()
			}
		}
	}()
	for !stop.Load() {
		if b := n.bytes.Load(); b > most || b < 0 {
			t.Errorf("%d bytes", b)
			break
		}
	}
	<-done
	for !stop.Load() {
		runtime.Gosched()
	}
	n.setMaxBytes(n.max.Load())
	checkNear(t, n)
	n.clear()
	checkNear(t, n)
	require.Zero(t, n.bytes.Load())
	require.Zero(t, n.probation.Load())
}

func TestNearRefusesWhatIsTooLarge(t *testing.T) {
	n := newNear[[]byte](64<<10, stoppedClock)
	require.True(t, n.add(1, "a", nil, 7<<10))
	require.False(t, n.add(2, "b", nil, 8<<10))
	require.False(t, n.add(2, "b", nil, int(^uint(0)>>1)))
	require.False(t, n.add(2, "b", nil, -1))
	checkNear(t, n)
}

// A lower maximum evicts and keeps the rest; a much lower one starts anew.
func TestNearSetMaxBytes(t *testing.T) {
	n := newNear[[]byte](1<<20, stoppedClock)
	for _, k := range nearKeys(2000) {
		n.add(k.hash, k.key, nil, 200)
	}
	before, bytes := n.stats()
	n.setMaxBytes(bytes * 9 / 10)
	checkNear(t, n)
	after, _ := n.stats()
	require.Less(t, after, before)
	require.Greater(t, after, before*3/4)
	n.setMaxBytes(2000)
	checkNear(t, n)
}

// While there is room nearly everything put is there, however much that is.
func TestNearKeepsWhatFits(t *testing.T) {
	n := newNear[[]byte](64<<20, stoppedClock)
	keys := nearKeys(50_000)
	for _, k := range keys {
		n.add(k.hash, k.key, nil, 128)
	}
	found := 0
	for _, k := range keys {
		if _, ok := n.read(k.hash, k.key); ok {
			found++
		}
	}
	require.Greater(t, found, len(keys)*99/100)
	checkNear(t, n)
	_, bytes := n.stats()
	require.Less(t, bytes/int64(found), n.entryCost+16+128+64, "tables take at most 64 bytes an entry")
}

// A scan of many times what there is room for leaves the hot keys in place.
func TestNearScanResistance(t *testing.T) {
	n := newNear[int](256<<10, stoppedClock)
	hot, scanned := nearKeys(500), nearKeys(50_000)[500:]
	use := func(k nearKey) bool {
		_, ok := n.read(k.hash, k.key)
		if !ok {
			n.add(k.hash, k.key, 1, 64)
		}
		return ok
	}
	for range 3 {
		for _, k := range hot {
			use(k)
		}
	}
	for _, k := range scanned {
		use(k)
	}
	found := 0
	for _, k := range hot {
		if _, ok := n.read(k.hash, k.key); ok {
			found++
		}
	}
	require.Greater(t, found, len(hot)*95/100)
	checkNear(t, n)
}

// Keys that come and are dropped leave nothing behind.
func TestNearQueueIsBounded(t *testing.T) {
	n := newNear[int](1<<20, stoppedClock)
	for i := range 20_000 {
		key := strconv.Itoa(i % 10)
		n.add(uint64(i%10), key, i, 8)
		n.drop(uint64(i%10), key)
		n.stripes.Load()[mixHash(uint64(i%10))>>58].ghosts = ghosts{} // else it is kept at once
	}
	for i := range n.stripes.Load() {
		require.LessOrEqual(t, cap(n.stripes.Load()[i].queue), 16)
	}
	checkNear(t, n)
}

// What was dropped, evicted or cleared is free for the collector, and a key
// does not hold on to the larger string it was cut from.
func TestNearHoldsNothingThatIsGone(t *testing.T) {
	n := newNear[*[64]byte](1<<20, stoppedClock)
	var refs []weak.Pointer[[64]byte]
	for i := range 3 {
		v := new([64]byte)
		refs = append(refs, weak.Make(v))
		require.True(t, n.add(uint64(i), "k", v, 64))
	}
	n.drop(0, "k")
	n.drop(1, "k")
	n.add(2, "k", nil, 64)
	runtime.GC()
	for i, ref := range refs {
		require.Nil(t, ref.Value(), i)
	}
	runtime.KeepAlive(n)

	large := fmt.Sprintf("%01000d", 7)
	e := newNearEntry(1, large[:100], 1)
	require.NotSame(t, unsafe.StringData(large), unsafe.StringData(e.long))
}

func TestNearAllocations(t *testing.T) {
	n := newNear[[]byte](1<<20, stoppedClock)
	key := "a key of more than thirty-two bytes, absent or not"
	require.True(t, n.add(1, key, []byte("v"), 1))
	for name, f := range map[string]func(){
		"get":              func() { n.read(1, key) },
		"get, absent":      func() { n.read(2, key) },
		"token":            func() { n.token(1) },
		"drop, absent":     func() { n.drop(2, key) },
		"put, out of date": func() { n.put(1, key, nil, 1, 0, 0) },
	} {
		require.Zero(t, testing.AllocsPerRun(100, f), name)
	}
	n.add(3, key, nil, 1)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { n.add(3, key, nil, 1) }), 2.0)
}
