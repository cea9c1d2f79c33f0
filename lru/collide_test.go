package lru

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/collide"
)

// looks counts the slots and the records that it takes to find a key.
func looks(s *Store, k Key) (slots, records int) {
	h := s.mix(k.Hash)
	places := []uint64{h}
	if s.crowds.has(h) {
		places = []uint64{s.mixKey(&k), h}
	}
	for _, h := range places {
		g, tag := s.segment(h), tagOf(h)
		x := &g.index
		for i := x.home(tag); x.slots[i] != 0; i = (i + 1) % len(x.slots) {
			slots++
			if uint32(x.slots[i]>>32) != tag {
				continue
			}
			records++
			if r := g.at(uint32(x.slots[i])); k.is(g.key(r)) {
				return slots, records
			}
		}
	}
	return slots, records
}

// unmix undoes what a Store would do to hashes if it had no secrets.
func unmix(h uint64) uint64 {
	h ^= h>>31 ^ h>>62
	h *= 0x319642b2d24d8ec3
	h ^= h>>27 ^ h>>54
	h *= 0x96de1b173f119089
	return h ^ h>>30 ^ h>>60
}

// TestCollidingKeys: keys that somebody chose to be slow are found by about as few looks as others.
func TestCollidingKeys(t *testing.T) {
	require.Equal(t, uint64(12345), unmix(mix(12345)))
	const n = 20_000
	kinds := map[string]func(i int) Key{
		"others":         func(i int) Key { return Key{Hash: mix(uint64(i)), Name: fmt.Sprint("key ", i)} },
		"one hash":       func(i int) Key { return Key{Hash: 7, Name: fmt.Sprint("key ", i)} },
		"hashes, 3 each": func(i int) Key { return Key{Hash: mix(uint64(i / 3)), Name: fmt.Sprint("key ", i)} },
		"one tag":        func(i int) Key { return Key{Hash: unmix(uint64(i)<<32 | 7), Name: fmt.Sprint("key ", i)} },
		"one home":       func(i int) Key { return Key{Hash: unmix(uint64(i + 1)), Name: fmt.Sprint("key ", i)} },
		"with one name":  func(i int) Key { return Key{Hash: 7, Space: uint32(i % 1000), Name: fmt.Sprint("key ", i/1000)} },
	}
	for name, key := range kinds {
		t.Run(name, func(t *testing.T) {
			s := New(Options{MaxBytes: 64 << 20, Shards: 4, Segments: 16})
			var slots, records, most int
			for i := range n {
				k := key(i)
				k.Shard = uint16(i % 4)
				require.NoError(t, s.Put(k, Meta{}, []byte(k.Name)))
			}
			check(t, s)
			for i := range n {
				sl, rec := looks(s, key(i))
				slots, records, most = slots+sl, records+rec, max(most, rec)
				v, _, ok := s.Read(key(i), nil)
				require.True(t, ok)
				require.Equal(t, key(i).Name, string(v))
			}
			require.LessOrEqual(t, most, sameTag+2)
			require.LessOrEqual(t, records, n+n/2)
			require.LessOrEqual(t, slots, 40*n)
			for i := range s.segments { // and no lock is taken for all of them
				require.Less(t, s.segments[i].index.n, 2*n/len(s.segments))
			}
			absent := key(0)
			absent.Name = "absent"
			sl, rec := looks(s, absent)
			require.LessOrEqual(t, rec, sameTag+1)
			require.LessOrEqual(t, sl, 2000)
		})
	}
}

// TestCollidingKeysStayRight runs all that can be done with keys of one hash.
func TestCollidingKeysStayRight(t *testing.T) {
	names := collide.Keys(42, 3000)
	now := time.Duration(0)
	s := New(Options{MaxBytes: 32 << 20, Shards: 16, Now: func() time.Duration { return now }})
	key := func(i int) Key { return Key{Hash: 42, Shard: 5, Name: names[i]} }
	for i := range names {
		require.NoError(t, s.Put(key(i), Meta{Expires: time.Duration(1+i%2) * time.Second}, []byte{byte(i)}))
	}
	for i := range names { // larger: they move
		require.NoError(t, s.Put(key(i), Meta{Expires: time.Duration(1+i%2) * time.Second}, make([]byte, 200+i%7)))
	}
	seen := map[string]int{}
	for it := s.Iterate(5); it.Next(); {
		e := it.Entry()
		seen[string(e.Bytes)]++
		if len(seen)%100 == 0 { // what has moved when its turn comes is shown all the same
			require.NoError(t, s.Put(key(len(seen)-1), Meta{Expires: 2 * time.Second}, make([]byte, 400)))
		}
	}
	require.Len(t, seen, len(names))
	require.True(t, s.TouchHash(42))
	for i := 0; i < len(names); i += 3 {
		require.True(t, s.Remove(key(i)))
		require.False(t, s.Remove(key(i)))
	}
	check(t, s)
	s.SetMaxBytes(4 << 20)
	check(t, s)
	for i := range names {
		if v, _, ok := s.Read(key(i), nil); ok {
			require.NotZero(t, i%3)
			require.GreaterOrEqual(t, len(v), 200)
		}
	}
	now = time.Second
	left := s.RemoveIf(5, func(e Entry) bool { return e.Expires > now })
	require.NotZero(t, left)
	check(t, s)
	require.Equal(t, s.Len(), s.DropShard(5))
	check(t, s)
}

// BenchmarkCollide compares keys of one hash with others.
func BenchmarkCollide(b *testing.B) {
	const n = 50_000
	others := make([]string, n)
	for i := range others {
		others[i] = fmt.Sprintf("a key, no. %05d", i)
	}
	for _, k := range []struct {
		name string
		keys []string
	}{{"others", others}, {"colliding", collide.Keys(42, n)}} {
		s := New(Options{MaxBytes: 64 << 20})
		for _, key := range k.keys {
			if err := s.Set(key, make([]byte, 128)); err != nil {
				b.Fatal(err)
			}
		}
		run := func(op string, f func(key string, buf []byte) []byte) {
			b.Run(op+"/"+k.name, func(b *testing.B) {
				b.RunParallel(func(pb *testing.PB) {
					var buf []byte
					for i := 0; pb.Next(); i++ {
						buf = f(k.keys[i*7919%n], buf[:0])
					}
				})
			})
		}
		run("hit", func(key string, buf []byte) []byte { buf, _ = s.Append(buf, key); return buf })
		run("miss", func(key string, buf []byte) []byte { buf, _ = s.Append(buf, key[1:]); return buf })
		value := make([]byte, 128)
		run("set", func(key string, buf []byte) []byte { _ = s.Set(key, value); return buf })
		run("replace", func(key string, buf []byte) []byte { s.Delete(key); _ = s.Set(key, value); return buf })
	}
}

// TestCollidingKeysAtOnce: many goroutines put, replace and remove the keys of one hash while it becomes crowded; of
// each key one entry is there at most, the last one put.
func TestCollidingKeysAtOnce(t *testing.T) {
	for range 50 {
		const keys, writers = 6, 8
		s := New(Options{MaxBytes: 4 << 20, Segments: 4})
		names := collide.Keys(9, keys)
		var wait sync.WaitGroup
		for w := range writers {
			wait.Go(func() {
				for i := range 200 {
					k := Key{Hash: 9, Name: names[(i*7+w)%keys]}
					switch (i + w) % 5 {
					case 0:
						s.Remove(k)
					case 1:
						s.Read(k, nil)
					default:
						version := Version{W: Stamp{byte(i >> 8), byte(i), byte(w)}}
						_, _, err := s.PutNewer(k, Meta{Version: version}, []byte{byte(i), byte(w)})
						require.NoError(t, err)
					}
				}
			})
		}
		wait.Wait()
		check(t, s)
		require.LessOrEqual(t, s.Len(), keys)
		for _, name := range names {
			k := Key{Hash: 9, Name: name}
			require.NoError(t, s.Put(k, Meta{}, []byte("last")))
			v, _, ok := s.Read(k, nil)
			require.True(t, ok)
			require.Equal(t, "last", string(v))
		}
		require.Equal(t, keys, s.Len())
		for _, name := range names {
			require.True(t, s.Remove(Key{Hash: 9, Name: name}))
		}
		require.Zero(t, s.Len())
	}
}
