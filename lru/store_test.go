package lru

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func numbered(n int) Key {
	return Key{Hash: mix(uint64(n)), Name: fmt.Sprintf("key-%08d", n)}
}

func TestSimple(t *testing.T) {
	now := time.Hour
	s := New(Options{Now: func() time.Duration { return now }, Shards: 9})
	_, ok := s.Get("a")
	require.False(t, ok)
	require.NoError(t, s.Set("a", []byte("1")))
	require.NoError(t, s.Set("", nil))
	require.NoError(t, s.SetTTL("b", []byte("2"), time.Second))
	require.NoError(t, s.SetTTL("c", []byte("3"), 0))
	require.NoError(t, s.SetTTL("d", []byte("4"), math.MaxInt64))
	v, ok := s.Get("a")
	require.True(t, ok)
	require.Equal(t, "1", string(v))
	v, ok = s.Get("")
	require.True(t, ok)
	require.Equal(t, []byte{}, v)
	v, ok = s.Append([]byte("x"), "b")
	require.True(t, ok)
	require.Equal(t, "x2", string(v))
	now += time.Second
	_, ok = s.Get("b")
	require.False(t, ok)
	require.False(t, s.Delete("b"))
	require.True(t, s.Delete("a"))
	require.False(t, s.Delete("a"))
	require.Equal(t, 3, s.Len())
	now += 100 * 365 * 24 * time.Hour
	_, ok = s.Get("d")
	require.True(t, ok)
	require.Equal(t, uint64(5-1), s.Stats().Hits)
	require.Equal(t, uint64(2), s.Stats().Misses)
	check(t, s)
}

func TestOptionsOutOfRange(t *testing.T) {
	for _, o := range []Options{
		{},
		{MaxBytes: -5, Shards: -1, Segments: -1},
		{MaxBytes: 1, Shards: 1 << 20, Segments: 1 << 20},
		{MaxBytes: math.MaxInt64, Segments: 5},
		{MaxBytes: math.MaxInt64},
	} {
		s := New(o)
		require.GreaterOrEqual(t, s.Stats().MaxBytes, int64(MinMaxBytes))
		k := Key{Name: "k", Shard: math.MaxUint16}
		if o.Segments <= 8 {
			require.NoError(t, s.Put(k, Meta{}, []byte("v")))
			v, _, ok := s.Read(k, nil)
			require.True(t, ok)
			require.Equal(t, "v", string(v))
			require.Equal(t, 1, s.DropShard(math.MaxUint16))
		}
		check(t, s)
	}
}

func TestExpiry(t *testing.T) {
	now := time.Duration(0)
	left := map[string]Reason{}
	s := New(Options{MaxBytes: 64 << 10, Now: func() time.Duration { return now }, OnEvict: func(e Entry, why Reason) {
		left[string(e.Bytes)] = why
	}})
	put := func(name string, at time.Duration) {
		require.NoError(t, s.Put(Key{Name: name}, Meta{Expires: at, Version: Version{W: Stamp{1}}}, nil))
	}
	put("past", -time.Hour)
	put("rounded up", time.Millisecond+1)
	put("later", time.Minute)
	there := func(name string) bool { _, _, ok := s.Read(Key{Name: name}, nil); return ok }
	require.False(t, there("past"))
	require.True(t, there("rounded up"))
	now = 2*time.Millisecond - 1
	require.True(t, there("rounded up"))
	now++
	require.False(t, there("rounded up"))
	require.Equal(t, Old{Meta: Meta{Expires: 2 * time.Millisecond, Version: Version{W: Stamp{1}}, Heat: s.Stat(Key{Name: "rounded up"}).Heat}, Exists: true, Expired: true},
		s.Stat(Key{Name: "rounded up"}), "the version can still be compared")

	// The clock steps back, even below zero: what has not been dropped is there again.
	now = 0
	require.True(t, there("rounded up"))
	now = -time.Hour
	require.True(t, there("later"))
	require.False(t, there("past"))
	now = time.Hour
	require.False(t, there("later"))

	_, stored, err := s.PutNewer(Key{Name: "later"}, Meta{Version: Version{}}, nil)
	require.NoError(t, err)
	require.False(t, stored, "an expired version still stands")

	for i := range 5000 {
		require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 50)))
	}
	require.Equal(t, Expired, left["past"])
	require.Equal(t, Expired, left["later"])
	st := s.Stats()
	require.Equal(t, uint64(3), st.Expirations)
	require.Equal(t, uint64(len(left)-3), st.Evictions)
}

func TestSizes(t *testing.T) {
	s := New(Options{MaxBytes: 8 << 20, Segments: 2})
	inline := s.shape.Load().inlineMax
	block := s.shape.Load().blockBytes
	for _, klen := range []int{0, 1, 3, 4, 5, 255, inline - 66, inline, block, MaxKeyBytes - 1, MaxKeyBytes} {
		for _, vlen := range []int{0, 1, 3, 4, 5, inline - klen - 67, inline - klen - 66, inline - klen - 65, inline, block - 1, block, block + 1, 65535, 65536, 1 << 20, 2 << 20} {
			if vlen < 0 {
				continue
			}
			for variant := range 4 {
				m := Meta{Flags: 3, Tag: 9}
				if variant > 0 {
					m.Version.W[0] = 1
					m.Expires = time.Hour
				}
				if variant > 1 {
					m.Version.V[15] = 9
				}
				if variant == 3 {
					m.Version.V = m.Version.W
				}
				k := Key{Name: strings.Repeat("k", klen), Hash: 77, Space: 4}
				v := bytes.Repeat([]byte{byte(vlen)}, vlen)
				require.NoError(t, s.Put(k, m, v))
				got, meta, ok := s.Read(k, nil)
				require.True(t, ok)
				require.True(t, bytes.Equal(v, got))
				meta.Heat = 0
				require.Equal(t, m, meta)
			}
			check(t, s)
		}
	}
	require.Equal(t, ErrTooLarge, s.Put(Key{Name: strings.Repeat("k", MaxKeyBytes+1)}, Meta{}, nil))
	require.Equal(t, ErrTooLarge, s.Put(Key{Name: "k"}, Meta{}, make([]byte, (8<<20)/3+1)))
	require.EqualError(t, ErrTooLarge, "lru: entry too large")
}

// A value of a third of the bound fits, however many segments there are and whatever else is in the store.
func TestLargestValue(t *testing.T) {
	for _, maxBytes := range []int64{MinMaxBytes, 64 << 10, 1 << 20, 8 << 20, 64 << 20} {
		s := New(Options{MaxBytes: maxBytes, Shards: 4096})
		for i := 0; i%1000 != 0 || s.Stats().Evictions == 0; i++ {
			require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 500)))
		}
		before := s.Len()
		value := make([]byte, maxBytes/3)
		for i := range 20 {
			k := Key{Name: fmt.Sprint("large", i), Hash: mix(uint64(i) << 20)}
			require.NoError(t, s.Put(k, Meta{}, value))
			got, _, ok := s.Read(k, nil)
			require.True(t, ok)
			require.Len(t, got, len(value))
			require.LessOrEqual(t, s.Bytes(), maxBytes)
			if i == 0 && maxBytes >= 1<<20 {
				require.Greater(t, s.Len(), before*2/5, "one large value must not empty the store")
			}
		}
		check(t, s)
	}
}

// Values of all sizes share the store: large ones that nobody reads do not stay for ever.
func TestLargeValuesAge(t *testing.T) {
	s := New(Options{MaxBytes: 16 << 20})
	for i := range 12 {
		require.NoError(t, s.Put(Key{Name: fmt.Sprint(i), Hash: uint64(i)}, Meta{}, make([]byte, 1<<20)))
	}
	for i := range 400_000 {
		require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 100)))
	}
	for i := range 12 {
		_, _, ok := s.Peek(Key{Name: fmt.Sprint(i), Hash: uint64(i)}, nil)
		require.False(t, ok)
	}
	require.Greater(t, s.Len(), 80_000)
	check(t, s)
}

func TestCollisions(t *testing.T) {
	s := New(Options{MaxBytes: 4 << 20})
	for i := range 2000 {
		k := numbered(i % 1000)
		k.Hash, k.Space = 5, uint32(i/1000)
		require.NoError(t, s.Put(k, Meta{}, fmt.Append(nil, i)))
	}
	for i := range 2000 {
		k := numbered(i % 1000)
		k.Hash, k.Space = 5, uint32(i/1000)
		v, _, ok := s.Read(k, nil)
		require.True(t, ok)
		require.Equal(t, fmt.Sprint(i), string(v))
		if i%2 == 0 {
			require.True(t, s.Remove(k))
		}
	}
	seen := map[string]bool{}
	for it := s.Iterate(0); it.Next(); {
		e := it.Entry()
		require.False(t, seen[string(e.Value)])
		seen[string(e.Value)] = true
	}
	require.Len(t, seen, 1000)
	check(t, s)
}

func TestPutNewer(t *testing.T) {
	s := New(Options{})
	k := Key{Name: "k"}
	v := func(w, v byte) Version { return Version{W: Stamp{0: 1, 15: w}, V: Stamp{15: v}} }
	put := func(ver Version, value string) (Version, bool) {
		found, stored, err := s.PutNewer(k, Meta{Version: ver}, []byte(value))
		require.NoError(t, err)
		return found, stored
	}
	found, stored := put(v(5, 5), "a")
	require.True(t, stored)
	require.True(t, found.IsZero())
	for _, lower := range []Version{{}, v(4, 9), v(5, 4), v(5, 5)} {
		found, stored = put(lower, "b")
		require.False(t, stored)
		require.Equal(t, v(5, 5), found)
	}
	for _, higher := range []Version{v(5, 6), v(6, 0), {W: Stamp{2}}} {
		_, stored = put(higher, "c")
		require.True(t, stored)
	}
	require.Zero(t, v(1, 1).Compare(v(1, 1)))
}

// An update that fits is made in place and takes no room; any other leaves a dead record, whose room comes back.
func TestUpdates(t *testing.T) {
	s := New(Options{MaxBytes: 1 << 20})
	k := Key{Name: "k"}
	require.NoError(t, s.Put(k, Meta{}, make([]byte, 100)))
	used := s.Bytes()
	for i := range 100_000 {
		require.NoError(t, s.Put(k, Meta{Flags: byte(i)}, make([]byte, 90+i%10)))
	}
	require.Equal(t, used, s.Bytes())
	for i := range 100_000 {
		require.NoError(t, s.Put(numbered(i%3000), Meta{}, make([]byte, 20+(i/3000)%7*20)))
	}
	require.Zero(t, s.Stats().Evictions, "the dead make room before the living")
	require.Equal(t, 3001, s.Len())
	check(t, s)
}

// An update that leaves much room is not made in place, nor is one that names another shard; the heat is kept.
func TestUpdatesElsewhere(t *testing.T) {
	s := New(Options{MaxBytes: 1 << 20, Shards: 4})
	k := Key{Name: "k", Shard: 1}
	require.NoError(t, s.Put(k, Meta{Heat: 6}, make([]byte, 1000)))
	before := s.SpaceStats(0).Bytes
	require.NoError(t, s.Put(k, Meta{}, make([]byte, 500)))
	require.Less(t, s.SpaceStats(0).Bytes, before-400)
	require.EqualValues(t, 6, s.Stat(k).Heat)
	k.Shard = 2
	require.NoError(t, s.Put(k, Meta{}, make([]byte, 500)))
	require.EqualValues(t, 6, s.Stat(k).Heat)
	require.False(t, s.Iterate(1).Next())
	require.True(t, s.Iterate(2).Next())
	require.Equal(t, 1, s.Len())
	check(t, s)
}

// Reads that follow the arrival closely do not count, later ones do.
func TestYoungReads(t *testing.T) {
	s := New(Options{MaxBytes: 256 << 10})
	for i := range 5000 {
		require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 50)))
	}
	k := Key{Name: "k", Hash: 1}
	require.NoError(t, s.Put(k, Meta{}, nil))
	for range 5 {
		require.True(t, s.Touch(k))
	}
	require.Zero(t, s.Stat(k).Heat)
	for i := 5000; s.Stat(k).Heat == 0; i++ {
		require.NoError(t, s.Put(numbered(i), Meta{}, make([]byte, 50)))
		require.True(t, s.Touch(k), "it left before a read counted")
	}
	for i := range 5000 {
		require.NoError(t, s.Put(numbered(10_000+i), Meta{}, make([]byte, 50)))
	}
	require.Greater(t, s.Stat(k).Heat, uint8(maxFreq), "one read took it to the main ring")
}

// Rings go round many times, and positions over the end of their 31 bits.
func TestLaps(t *testing.T) {
	s := New(Options{MaxBytes: 32 << 10, Shards: 2})
	g := &s.segments[0]
	for i := range g.rings {
		start := uint64(1)<<31 - uint64(i+1)<<g.shape.blockShift
		g.rings[i] = ring{head: start, tail: start}
	}
	draws := rand.NewZipf(rand.New(rand.NewPCG(1, 1)), 1.01, 1, 999)
	for i := range 300_000 {
		n := draws.Uint64()
		k := numbered(int(n))
		k.Shard = uint16(n % 2)
		v, _, ok := s.Read(k, nil)
		if ok {
			require.Equal(t, n, binary.LittleEndian.Uint64(v))
		} else {
			require.NoError(t, s.Put(k, Meta{}, binary.LittleEndian.AppendUint64(nil, n)))
		}
		if i%10_000 == 0 || i < 2000 && i%50 == 0 {
			check(t, s)
		}
	}
	require.Greater(t, g.rings[small].tail, uint64(1)<<31)
	require.Greater(t, g.rings[main].tail, uint64(1)<<31)
}

func TestAllocations(t *testing.T) {
	s := New(Options{MaxBytes: 16 << 20})
	value := make([]byte, 100)
	keys := make([]Key, 20_000)
	for i := range keys {
		keys[i] = numbered(i)
		require.NoError(t, s.Put(keys[i], Meta{}, value))
	}
	buf := make([]byte, 0, 1024)
	i := 0
	next := func() Key { i++; return keys[i%len(keys)] }
	meta := Meta{Version: Version{W: Stamp{1}}, Expires: time.Hour}
	for name, f := range map[string]func(){
		"Read":      func() { buf, _, _ = s.Read(next(), buf[:0]) },
		"View":      func() { s.View(next(), func([]byte, Meta) {}) },
		"Stat":      func() { s.Stat(next()) },
		"Put":       func() { _ = s.Put(next(), Meta{}, value) },
		"Append":    func() { buf, _ = s.Append(buf[:0], "no such name") },
		"PutNewer":  func() { _, _, _ = s.PutNewer(next(), meta, value) },
		"Apply":     func() { _, _ = s.Apply(next(), &meta, value, func(Old) Verdict { return Keep }) },
		"PutRemove": func() { k := next(); _ = s.Put(k, Meta{}, value); s.Remove(k) },
	} {
		require.Zero(t, testing.AllocsPerRun(1000, f), name)
	}
	require.NoError(t, s.Set("name", value))
	require.Equal(t, 1.0, testing.AllocsPerRun(1000, func() { _, _ = s.Get("name") }), "Get")
}

// What a callback throws leaves no lock behind.
func TestPanics(t *testing.T) {
	s := New(Options{Segments: 1})
	k := Key{Name: "k"}
	require.NoError(t, s.Put(k, Meta{}, []byte("v")))
	require.Panics(t, func() { _, _ = s.Apply(k, &Meta{}, make([]byte, 1<<20), func(Old) Verdict { panic("x") }) })
	require.Panics(t, func() { s.View(k, func([]byte, Meta) { panic("x") }) })
	require.Panics(t, func() { s.RemoveIf(0, func(Entry) bool { panic("x") }) })
	v, ok := s.Append(nil, "x")
	require.False(t, ok)
	require.Nil(t, v)
	check(t, s)
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The bound is that of the heap, not of some idea of it; and memory is taken only as it is needed.
func TestHeap(t *testing.T) {
	before := heapInUse()
	s := New(Options{MaxBytes: 10 << 30, Shards: 4096})
	require.Less(t, heapInUse()-before, int64(2<<20), "an empty store")
	require.Zero(t, s.Bytes())

	for _, size := range []int{8, 100, 1000, 10_000, 100_000} {
		const bound = 32 << 20
		before := heapInUse()
		s := New(Options{MaxBytes: bound, Shards: 4096})
		for i := 0; s.Stats().Evictions < 1000; i++ {
			for j := range 100 {
				k := numbered(i*100 + j)
				k.Shard = uint16(j)
				require.NoError(t, s.Put(k, Meta{}, make([]byte, size)))
			}
		}
		held := heapInUse() - before
		t.Logf("values of %6d bytes: heap %8d, charged %8d, bound %8d, entries %d", size, held, s.Bytes(), bound, s.Len())
		require.Less(t, held, int64(bound+bound/100))
		require.Greater(t, s.Bytes(), int64(bound*90/100))
		runtime.KeepAlive(s)
	}
}
