package lru

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// oracle drives a Store and a map side by side. Since OnEvict tells of every entry that leaves on its own, the map knows
// exactly what the Store must hold.
type oracle struct {
	t       testing.TB
	s       *Store
	now     time.Duration
	mask    uint64 // of hashes: few bits make collisions
	names   int
	maxSize int
	held    map[string]*held
	evicted int
	stamp   uint64
}

type held struct {
	key   Key
	meta  Meta
	value []byte
}

func newOracle(t testing.TB, o Options, mask uint64, names, maxSize int) *oracle {
	m := &oracle{t: t, mask: mask, names: names, maxSize: maxSize, held: map[string]*held{}, now: time.Hour}
	o.Now = func() time.Duration { return m.now }
	o.OnEvict = func(e Entry, why Reason) {
		m.evicted++
		h := m.held[id(e.Key)]
		require.NotNil(t, h, "an entry left that was not there")
		require.Equal(t, h.key.Hash, e.Hash)
		require.Equal(t, h.key.Shard, e.Shard)
		require.Equal(t, h.meta.Version, e.Version)
		require.Equal(t, h.meta.Flags, e.Flags)
		require.True(t, bytes.Equal(h.value, e.Value))
		require.Equal(t, m.expired(h), why == Expired)
		delete(m.held, id(e.Key))
	}
	m.s = New(o)
	return m
}

func id(k Key) string { return fmt.Sprint(k.Space, "/", k.String()) }

func (m *oracle) expired(h *held) bool {
	return h.meta.Expires != 0 && m.now >= max(h.meta.Expires, 0)
}

func (m *oracle) key(rng *rand.Rand) Key {
	n := rng.IntN(m.names)
	k := Key{Space: uint32(n % 3), Name: fmt.Sprintf("%0*d", n%40, n)}
	if n == 0 {
		k.Name = ""
	}
	k.Hash = mix(uint64(n)*0x9e3779b97f4a7c15+1) & m.mask
	k.Shard = uint16(n % m.s.shards)
	if n%2 == 0 {
		k.Bytes, k.Name = []byte(k.Name), ""
	}
	return k
}

func (m *oracle) draw(rng *rand.Rand) (Meta, []byte) {
	var meta Meta
	meta.Flags = uint8(rng.Uint32())
	meta.Tag = uint16(rng.Uint32())
	m.stamp++
	stamp := m.stamp
	if rng.IntN(4) == 0 {
		stamp = rng.Uint64N(stamp) + 1
	}
	if n := rng.IntN(4); n > 0 {
		binary.BigEndian.PutUint64(meta.Version.W[:], stamp)
		meta.Version.V = meta.Version.W
		if n == 1 {
			meta.Version.V[15] = 1
		}
	}
	switch rng.IntN(4) {
	case 0:
		meta.Expires = m.now + time.Duration(rng.IntN(5000))*time.Millisecond
	case 1:
		if rng.IntN(10) == 0 {
			meta.Expires = -1
		}
	}
	if rng.IntN(8) == 0 {
		meta.Heat = uint8(rng.IntN(MaxHeat + 3))
	}
	size := rng.IntN(100)
	switch rng.IntN(20) {
	case 0:
		size = rng.IntN(m.maxSize)
	case 1:
		size = rng.IntN(m.maxSize/10 + 1)
	}
	v := make([]byte, size)
	for i := range v {
		v[i] = byte(m.stamp) + byte(i)
	}
	return meta, v
}

func (m *oracle) put(k Key, meta Meta, v []byte) {
	meta.Heat = 0
	if meta.Expires > 0 {
		meta.Expires = (meta.Expires + time.Millisecond - 1) / time.Millisecond * time.Millisecond
	} else if meta.Expires < 0 {
		meta.Expires = -1
	}
	k.Bytes = slices.Clone(k.Bytes)
	m.held[id(k)] = &held{k, meta, v}
}

func (m *oracle) same(h *held, meta Meta, v []byte) {
	meta.Heat = 0
	require.Equal(m.t, h.meta, meta)
	if !bytes.Equal(h.value, v) {
		require.Fail(m.t, "wrong value", "%d bytes, want %d", len(v), len(h.value))
	}
}

func (m *oracle) step(rng *rand.Rand) {
	t, s := m.t, m.s
	k := m.key(rng)
	switch op := rng.IntN(100); {
	case op < 30:
		meta, v := m.draw(rng)
		if err := s.Put(k, meta, v); err != nil {
			require.Equal(t, ErrTooLarge, err)
			return
		}
		m.put(k, meta, v)
	case op < 40:
		meta, v := m.draw(rng)
		found, stored, err := s.PutNewer(k, meta, v)
		if err != nil {
			require.Equal(t, ErrTooLarge, err)
			return
		}
		h := m.held[id(k)] // as it was when PutNewer decided: evictions came before
		if h != nil {
			require.Equal(t, h.meta.Version, found)
			require.Equal(t, h.meta.Version.Compare(meta.Version) < 0, stored)
		} else {
			require.True(t, stored)
			require.Equal(t, Version{}, found)
		}
		if stored {
			m.put(k, meta, v)
		}
	case op < 47:
		meta, v := m.draw(rng)
		want := Verdict(rng.IntN(3))
		changed := meta
		changed.Flags, changed.Version.V[3] = 77, 9
		calls := 0
		got, err := s.Apply(k, &meta, v, func(old Old) Verdict {
			calls++
			h := m.held[id(k)]
			require.Equal(t, h != nil, old.Exists)
			if h != nil {
				m.same(h, old.Meta, old.Value)
				require.Equal(t, m.expired(h), old.Expired)
			}
			meta = changed
			return want
		})
		if err != nil {
			require.Equal(t, ErrTooLarge, err)
			require.Zero(t, calls)
			return
		}
		require.Equal(t, 1, calls)
		require.Equal(t, want, got)
		switch want {
		case Put:
			m.put(k, changed, v)
		case Remove:
			delete(m.held, id(k))
		}
	case op < 80:
		prefix := []byte("prefix")
		read := s.Read
		if op%2 == 0 {
			read = s.Peek
		}
		v, meta, ok := read(k, prefix)
		require.Equal(t, "prefix", string(v[:6]))
		m.compare(k, ok, meta, v[6:])
	case op < 83:
		var meta Meta
		var v []byte
		ok := s.View(k, func(value []byte, found Meta) { meta, v = found, bytes.Clone(value) })
		m.compare(k, ok, meta, v)
	case op < 86:
		h, old := m.held[id(k)], s.Stat(k)
		require.Equal(t, h != nil, old.Exists)
		if h != nil {
			require.Equal(t, m.expired(h), old.Expired)
		}
		require.Equal(t, h != nil && !m.expired(h), s.Touch(k))
	case op < 93:
		h := m.held[id(k)]
		require.Equal(t, h != nil && !m.expired(h), s.Remove(k))
		delete(m.held, id(k))
	case op < 96:
		m.now += time.Duration(rng.IntN(400)-100) * time.Millisecond
	case op < 98:
		m.rare(rng, k)
	}
	if s.Bytes() > s.maxBytes.Load() {
		require.Fail(t, "over the bound")
	}
}

func (m *oracle) compare(k Key, ok bool, meta Meta, v []byte) {
	h := m.held[id(k)]
	require.Equal(m.t, h != nil && !m.expired(h), ok)
	if ok {
		m.same(h, meta, v)
	}
}

// rare does what goes through much of the Store.
func (m *oracle) rare(rng *rand.Rand, k Key) {
	t, s := m.t, m.s
	if rng.IntN(20) != 0 {
		return
	}
	match := func(f func(h *held) bool) map[string]*held {
		out := map[string]*held{}
		for name, h := range m.held {
			if f(h) {
				out[name] = h
			}
		}
		return out
	}
	remove := func(which map[string]*held) int {
		for name := range which {
			delete(m.held, name)
		}
		return len(which)
	}
	inShard := func(h *held) bool { return h.key.Shard == k.Shard }
	switch rng.IntN(7) {
	case 0:
		n := s.DropShard(k.Shard)
		require.Equal(t, remove(match(inShard)), n)
	case 1:
		n := s.Clear(k.Shard, k.Space)
		require.Equal(t, remove(match(func(h *held) bool { return inShard(h) && h.key.Space == k.Space })), n)
	case 2:
		n := s.RemoveIf(k.Shard, func(e Entry) bool {
			h := m.held[id(e.Key)]
			require.NotNil(t, h)
			m.same(h, e.Meta, e.Value)
			return e.Flags%2 == 0
		})
		require.Equal(t, remove(match(func(h *held) bool { return inShard(h) && h.meta.Flags%2 == 0 })), n)
	case 3:
		want := match(func(h *held) bool { return inShard(h) && !m.expired(h) })
		heat := uint8(MaxHeat)
		for it := s.Iterate(k.Shard); it.Next(); {
			e := it.Entry()
			h := want[id(e.Key)]
			require.NotNil(t, h, "%s", id(e.Key))
			m.same(h, e.Meta, e.Value)
			require.LessOrEqual(t, e.Heat, heat)
			heat = e.Heat
			delete(want, id(e.Key))
		}
		require.Empty(t, want)
	case 4:
		before := s.Stats().MaxBytes
		n := before * int64(rng.IntN(12)+1) / 6
		s.SetMaxBytes(min(n, 4<<20))
		require.LessOrEqual(t, s.Bytes(), s.maxBytes.Load())
	case 5:
		n := int64(rng.IntN(3)) * s.maxBytes.Load() / 8
		s.SetSpaceLimit(k.Space, n)
		if n > 0 {
			require.LessOrEqual(t, s.SpaceStats(k.Space).Bytes, n)
		}
	case 6:
		st := s.SpaceStats(k.Space)
		require.EqualValues(t, len(match(func(h *held) bool { return h.key.Space == k.Space })), st.Entries)
		require.Equal(t, len(m.held), s.Len())
		check(t, s)
	}
}

func TestModel(t *testing.T) {
	for _, c := range []struct {
		o              Options
		mask           uint64
		names, maxSize int
	}{
		{Options{MaxBytes: 1 << 10}, ^uint64(0), 500, 500},
		{Options{MaxBytes: 64 << 10, Shards: 5}, ^uint64(0), 3000, 2000},
		{Options{MaxBytes: 64 << 10, Shards: 700}, ^uint64(0), 3000, 40 << 10},
		{Options{MaxBytes: 256 << 10, Shards: 4, Segments: 8}, ^uint64(0), 10_000, 70 << 10},
		{Options{MaxBytes: 1 << 20, Shards: 3}, ^uint64(0), 20_000, 100 << 10},
		{Options{MaxBytes: 2 << 20, Shards: 4096, Segments: 3}, ^uint64(0), 20_000, 200 << 10},
		{Options{MaxBytes: 64 << 10, Shards: 3}, 0, 300, 1000},
		{Options{MaxBytes: 64 << 10, Shards: 3}, 7 << 20, 1000, 1000},
		{Options{MaxBytes: 256 << 10, Shards: 16, Segments: 4}, 0xff, 4000, 9000},
	} {
		t.Run(fmt.Sprintf("%d/%d/%d/%x", c.o.MaxBytes, c.o.Shards, c.o.Segments, c.mask), func(t *testing.T) {
			t.Parallel()
			m := newOracle(t, c.o, c.mask, c.names, c.maxSize)
			rng := rand.New(rand.NewPCG(1, uint64(c.o.MaxBytes)))
			steps := 100_000
			if testing.Short() {
				steps = 20_000
			}
			for i := range steps {
				m.step(rng)
				if i%10_000 == 0 {
					check(t, m.s)
				}
			}
			check(t, m.s)
			require.Greater(t, m.evicted, 50)
		})
	}
}

// FuzzStore lets the fuzzer choose the random numbers of the oracle.
func FuzzStore(f *testing.F) {
	f.Add(uint64(1), uint16(0), []byte("any bytes will do, they choose the steps"))
	f.Add(uint64(2), uint16(0xffff), bytes.Repeat([]byte{0, 200, 130, 7}, 400))
	f.Fuzz(func(t *testing.T, seed uint64, mask uint16, data []byte) {
		rng := rand.New(&byteSource{data: data, rest: rand.NewPCG(seed, 1)})
		o := Options{MaxBytes: 8<<10 + int64(seed%64)<<12, Shards: int(seed%7) + 1, Segments: 1 << (seed % 3)}
		m := newOracle(t, o, uint64(mask)<<40|uint64(mask), 400, 20_000)
		for range min(len(data)/4+10, 4000) {
			m.step(rng)
		}
		check(t, m.s)
	})
}

// byteSource takes random numbers from data and goes on at random.
type byteSource struct {
	data []byte
	rest rand.Source
}

func (s *byteSource) Uint64() uint64 {
	if len(s.data) == 0 {
		return s.rest.Uint64()
	}
	n := uint64(s.data[0])
	s.data = s.data[1:]
	return n<<56 | n<<48 | n<<24 | n // the upper bits choose, the lower ones vary little
}
