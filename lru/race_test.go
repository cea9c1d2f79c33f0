package lru

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Everything at once. A value tells its key and version, so that readers can tell a torn one.
func TestConcurrent(t *testing.T) {
	var now atomic.Int64
	var left atomic.Int64
	s := New(Options{
		MaxBytes: 512 << 10, Shards: 8, Segments: 4,
		Now:     func() time.Duration { return time.Duration(now.Load()) },
		OnEvict: func(e Entry, _ Reason) { left.Add(int64(len(e.Bytes)) & 1) },
	})
	const keys = 2000
	value := func(dst []byte, k int, version uint64) []byte {
		size := 16 + int(version*7919%200)
		if version%50 == 0 {
			size = 20_000
		}
		dst = append(dst[:0], make([]byte, size)...)
		for i := 0; i+16 <= size; i += 16 {
			binary.LittleEndian.PutUint64(dst[i:], uint64(k))
			binary.LittleEndian.PutUint64(dst[i+8:], version)
		}
		return dst
	}
	intact := func(k int, version uint64, v []byte) bool {
		for i := 0; i+16 <= len(v); i += 16 {
			if binary.LittleEndian.Uint64(v[i:]) != uint64(k) || binary.LittleEndian.Uint64(v[i+8:]) != version {
				return false
			}
		}
		return len(v) == len(value(nil, k, version))
	}
	key := func(n int) Key {
		k := inShard(uint16(n%8), n)
		k.Space = uint32(n % 3)
		return k
	}
	stamp := func(n uint64) (v Version) {
		binary.BigEndian.PutUint64(v.W[:], n)
		v.V = v.W
		return v
	}
	rounds := 30_000
	if testing.Short() {
		rounds = 5000
	}
	var clock atomic.Uint64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			var buf []byte
			for range rounds {
				n := rng.IntN(keys)
				k := key(n)
				switch op := rng.IntN(20); {
				case op < 6:
					version := clock.Add(1)
					buf = value(buf, n, version)
					found, stored, err := s.PutNewer(k, Meta{Version: stamp(version)}, buf)
					if err != nil { // the bound or the limit of the space is small at the moment
						if len(buf) < 10_000 {
							t.Error(err)
						}
						continue
					}
					if !stored && found.Compare(stamp(version)) < 0 {
						t.Error("a newer version was refused")
					}
				case op < 16:
					v, m, ok := s.Read(k, buf[:0])
					buf = v
					if ok {
						version := binary.BigEndian.Uint64(m.Version.W[:])
						if !intact(n, version, v) {
							t.Error("torn value")
						}
					}
				case op == 16:
					s.View(k, func(v []byte, m Meta) {
						if !intact(n, binary.BigEndian.Uint64(m.Version.W[:]), v) {
							t.Error("torn value")
						}
					})
				case op == 17:
					s.Touch(k)
					s.Stat(k)
				case op == 18:
					if rng.IntN(4) == 0 {
						s.Remove(k)
					}
				case op == 19:
					now.Add(int64(time.Millisecond))
				}
				if b := s.Bytes(); b > 512<<10 {
					t.Error("over the bound", b)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range rounds / 500 {
			for it := s.Iterate(uint16(i % 8)); it.Next(); {
				e := it.Entry()
				if !intact(numberOf(e.Bytes), binary.BigEndian.Uint64(e.Version.W[:]), e.Value) {
					t.Error("torn value in iteration")
				}
			}
			switch i % 10 {
			case 3:
				s.DropShard(uint16(i % 8))
			case 5:
				s.SetMaxBytes(64 << 10)
			case 6:
				s.SetMaxBytes(512 << 10)
			case 7:
				s.SetSpaceLimit(1, int64(i%3)*20<<10)
			case 8:
				s.Clear(uint16(i%8), 2)
				s.SpaceStats(1)
				s.Stats()
			}
		}
	})
	wg.Wait()
	check(t, s)
}

// Concurrent decisions about one key never lose one.
func TestApplyIsAtomic(t *testing.T) {
	s := New(Options{MaxBytes: 1 << 20})
	k := Key{Name: "counter"}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2000 {
				var v [8]byte
				_, err := s.Apply(k, &Meta{}, v[:], func(old Old) Verdict {
					if old.Exists {
						binary.LittleEndian.PutUint64(v[:], binary.LittleEndian.Uint64(old.Value)+1)
					}
					return Put
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	v, _, ok := s.Read(k, nil)
	require.True(t, ok)
	require.EqualValues(t, 4*2000-1, binary.LittleEndian.Uint64(v))
}
