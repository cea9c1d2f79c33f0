package lru

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func inShard(shard uint16, n int) Key {
	k := numbered(n)
	k.Shard = shard
	return k
}

func TestIterateHotFirst(t *testing.T) {
	s := New(Options{MaxBytes: 4 << 20, Shards: 8})
	for i := range 8000 {
		m := Meta{Heat: uint8(i / 8 % (MaxHeat + 1))}
		require.NoError(t, s.Put(inShard(uint16(i%8), i), m, nil))
	}
	heat := uint8(MaxHeat)
	var counts [MaxHeat + 1]int
	for it := s.Iterate(3); it.Next(); {
		e := it.Entry()
		require.EqualValues(t, 3, e.Shard)
		require.LessOrEqual(t, e.Heat, heat)
		heat = e.Heat
		counts[heat]++
	}
	for _, n := range counts {
		require.Equal(t, 125, n)
	}
	it := s.Iterate(3)
	for it.Next() {
	}
	require.False(t, it.Next())
	require.Zero(t, it.Entry())
}

// Reads make an entry hot, and hot entries survive a scan.
func TestHeat(t *testing.T) {
	s := New(Options{MaxBytes: 256 << 10})
	for i := range 40_000 {
		if _, _, ok := s.Read(numbered(i%100), nil); !ok {
			require.NoError(t, s.Put(numbered(i%100), Meta{}, nil))
		}
		require.NoError(t, s.Put(numbered(1000+i), Meta{}, nil))
	}
	hot := 0
	for i := range 100 {
		if s.Stat(numbered(i)).Heat > maxFreq {
			hot++
		}
	}
	require.Greater(t, hot, 95)
	for range 10 {
		s.Touch(numbered(5))
	}
	require.EqualValues(t, MaxHeat, s.Stat(numbered(5)).Heat)
	check(t, s)
}

// What stays in the store is shown, whatever else comes, goes and moves meanwhile.
func TestIterateUnderWrites(t *testing.T) {
	s := New(Options{MaxBytes: 1 << 20, Shards: 2})
	const stay = 2000
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range stay {
		require.NoError(t, s.Put(inShard(1, i), Meta{Heat: MaxHeat}, fmt.Append(nil, i)))
	}
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_ = s.Put(inShard(uint16(i%2), 10_000+w*1_000_000+i), Meta{}, make([]byte, 100))
				for j := range 3 { // keep them hot, so that they move and none leaves
					s.Touch(inShard(1, (i*3+j)%stay))
				}
			}
		})
	}
	for round := range 20 {
		seen := map[string]bool{}
		for it := s.Iterate(1); it.Next(); {
			seen[string(it.Entry().Bytes)] = true
		}
		gone := 0
		for i := range stay {
			k := inShard(1, i)
			if !seen[k.Name] {
				if s.Stat(k).Exists {
					require.Fail(t, "not shown", "%s in round %d", k.Name, round)
				}
				gone++
				require.NoError(t, s.Put(k, Meta{Heat: MaxHeat}, fmt.Append(nil, i)))
			}
		}
		require.Less(t, gone, stay/2)
	}
	close(stop)
	wg.Wait()
	check(t, s)
	n := 0
	for it := s.Iterate(1); it.Next(); {
		n++
	}
	require.Equal(t, n, s.DropShard(1))
	require.False(t, s.Iterate(1).Next())
	check(t, s)
}

// A walk sees all that stays, though records move to the head of the ring behind its back.
func TestWalkWhileMoving(t *testing.T) {
	s := New(Options{MaxBytes: 16 << 20, Segments: 1})
	const entries = 20_000
	for i := range entries {
		require.NoError(t, s.Put(numbered(i), Meta{Heat: MaxHeat}, nil))
	}
	g := &s.segments[0]
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			g.mu.Lock()
			for range 500 {
				s.used.Add(-g.step(s, main, true))
			}
			g.mu.Unlock()
			runtime.Gosched()
		}
	})
	for range 30 {
		seen := map[uint64]bool{}
		g.walk(s, 0, func(r record, _ uint32) { seen[r.hash()] = true })
		require.Len(t, seen, entries)
	}
	close(stop)
	wg.Wait()
	check(t, s)
}

// Shards are found again after the layout changed, also by an iterator begun before.
func TestIterateAcrossReshape(t *testing.T) {
	s := New(Options{MaxBytes: 1 << 20, Shards: 64, Segments: 4})
	for i := range 2000 {
		require.NoError(t, s.Put(inShard(uint16(i%64), i), Meta{}, make([]byte, i%300)))
	}
	it := s.Iterate(5)
	seen := map[string]int{}
	for range 10 {
		require.True(t, it.Next())
		seen[string(it.Entry().Bytes)]++
	}
	var heads [4][2]uint64
	for i := range heads {
		heads[i] = [2]uint64{s.segments[i].rings[small].head, s.segments[i].rings[main].head}
	}
	s.SetMaxBytes(1 << 30)
	for i := range heads {
		for ring, head := range heads[i] {
			require.GreaterOrEqual(t, s.segments[i].rings[ring].tail, head, "an old position must not come again")
		}
	}
	require.NotEqual(t, newShape(&s.geometry, 1<<20).blockBytes, s.shape.Load().blockBytes)
	check(t, s)
	for it.Next() {
		e := it.Entry()
		seen[string(e.Bytes)]++
		require.Len(t, e.Value, int(numberOf(e.Bytes))%300)
	}
	require.Len(t, seen, 2000/64+1)
	for _, n := range seen {
		require.Equal(t, 1, n)
	}
}

func numberOf(name []byte) (n int) {
	_, _ = fmt.Sscanf(string(name), "key-%d", &n)
	return n
}

func BenchmarkIterateShard(b *testing.B) {
	s := New(Options{MaxBytes: 256 << 20, Shards: 4096})
	for i := range 1_000_000 {
		k := numbered(i)
		k.Shard = uint16(i % 4096)
		_ = s.Put(k, Meta{}, make([]byte, 100))
	}
	n := 0
	for b.Loop() {
		for it := s.Iterate(uint16(n % 4096)); it.Next(); {
		}
		n++
	}
}
