package lru

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/cespare/xxhash/v2"
)

const benchKeys = 100_000

// benchStore returns a store with all keys in it, and a zipf sequence of keys.
func benchStore(b *testing.B) (*Store, []Key, []uint32) {
	b.Helper()
	s := New(Options{MaxBytes: 64 << 20})
	keys := make([]Key, benchKeys)
	value := make([]byte, 128)
	for i := range keys {
		name := make([]byte, 16)
		binary.BigEndian.PutUint64(name[8:], uint64(i))
		keys[i] = Key{Hash: xxhash.Sum64(name), Name: string(name)}
		if err := s.Put(keys[i], Meta{}, value); err != nil {
			b.Fatal(err)
		}
	}
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, benchKeys-1)
	seq := make([]uint32, 1<<20)
	for i := range seq {
		seq[i] = uint32(z.Uint64())
	}
	b.ReportAllocs()
	b.ResetTimer()
	return s, keys, seq
}

func BenchmarkHit(b *testing.B) {
	s, keys, seq := benchStore(b)
	var buf []byte
	for i := 0; i < b.N; i++ {
		var ok bool
		if buf, _, ok = s.Read(keys[seq[i&(len(seq)-1)]], buf[:0]); !ok {
			b.Fatal("miss")
		}
	}
}

// BenchmarkHitName is the path of a user without spaces and versions: hash, look up, copy out.
func BenchmarkHitName(b *testing.B) {
	s, keys, seq := benchStore(b)
	for i := range keys {
		_ = s.Set(keys[i].Name, make([]byte, 128))
	}
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		if _, ok := s.Get(keys[seq[i&(len(seq)-1)]].Name); !ok {
			b.Fatal("miss")
		}
	}
}

func BenchmarkHitParallel(b *testing.B) {
	s, keys, seq := benchStore(b)
	var start atomic.Int64
	b.SetParallelism(2) // 4 goroutines on 2 cores
	b.RunParallel(func(pb *testing.PB) {
		i := int(start.Add(7919))
		var buf []byte
		for pb.Next() {
			var ok bool
			if buf, _, ok = s.Read(keys[seq[i&(len(seq)-1)]], buf[:0]); !ok {
				b.Fatal("miss")
			}
			i++
		}
	})
}

func BenchmarkMiss(b *testing.B) {
	s, keys, seq := benchStore(b)
	for i := 0; i < b.N; i++ {
		k := keys[seq[i&(len(seq)-1)]]
		k.Hash = ^k.Hash
		if _, _, ok := s.Read(k, nil); ok {
			b.Fatal("hit")
		}
	}
}

func BenchmarkOverwrite(b *testing.B) {
	s, keys, seq := benchStore(b)
	value := make([]byte, 128)
	for i := 0; i < b.N; i++ {
		if err := s.Put(keys[seq[i&(len(seq)-1)]], Meta{}, value); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkInsert puts new keys into a full store, so that each evicts.
func BenchmarkInsert(b *testing.B) {
	s := New(Options{MaxBytes: 16 << 20})
	var name [16]byte
	value := make([]byte, 128)
	b.ReportAllocs()
	for i := 0; i < b.N; i++ {
		binary.LittleEndian.PutUint64(name[:], uint64(i))
		if err := s.Put(Key{Hash: uint64(i), Bytes: name[:]}, Meta{}, value); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMixed reads through: a miss is followed by a put. The store holds a tenth of the keys.
func BenchmarkMixed(b *testing.B) {
	s := New(Options{MaxBytes: 16 << 20})
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.01, 1, 1_000_000)
	seq := make([]uint64, 1<<20)
	for i := range seq {
		seq[i] = z.Uint64()
	}
	var name [16]byte
	var buf []byte
	value := make([]byte, 128)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		k := seq[i&(len(seq)-1)]
		binary.LittleEndian.PutUint64(name[:], k)
		key := Key{Hash: k, Bytes: name[:]}
		var ok bool
		if buf, _, ok = s.Read(key, buf[:0]); !ok {
			if err := s.Put(key, Meta{}, value); err != nil {
				b.Fatal(err)
			}
		}
	}
}
