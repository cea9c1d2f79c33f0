package peercache

import (
	"container/list"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
)

// zipfKeys returns draws of key numbers below n: i with a probability as
// 1/(i+1)^s.
func zipfKeys(seed uint64, n, draws int, s float64) []uint32 {
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), s, 1, uint64(n-1))
	out := make([]uint32, draws)
	for i := range out {
		out[i] = uint32(z.Uint64())
	}
	return out
}

type nearKey struct {
	key  string
	hash uint64
}

func nearKeys(n int) []nearKey {
	keys := make([]nearKey, n)
	for i := range keys {
		key := "user:" + strconv.Itoa(1_000_000+i)
		keys[i] = nearKey{key, xxhash.Sum64String(key)}
	}
	return keys
}

const (
	benchKeys  = 100_000
	benchDraws = 1 << 20
)

func stoppedClock() time.Duration { return time.Second }

// benchNear returns a near cache that has room for all the keys, filled with
// them, each with a value of 128 bytes that expires as given.
func benchNear(keys []nearKey, expires time.Duration, now func() time.Duration) *near[[]byte] {
	n := newNear[[]byte](256<<20, now)
	for i := len(keys) - 1; i >= 0; i-- {
		k := keys[i]
		n.put(k.hash, k.key, make([]byte, 128), 128, expires, n.token(k.hash))
	}
	return n
}

func benchmarkHit(b *testing.B, goroutines int, expires time.Duration) {
	keys := nearKeys(benchKeys)
	clock := newSystemClock()
	var p pauses
	p.init(clock, time.Hour, nil)
	n := benchNear(keys, expires, clock.Elapsed)
	draws := zipfKeys(1, benchKeys, benchDraws, 1.01)
	var misses, starts atomic.Int64
	b.SetParallelism((goroutines + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		i, missed := int(starts.Add(1))*7919, int64(0)
		for pb.Next() {
			k := &keys[draws[i%benchDraws]]
			if _, ok := n.get(k.hash, k.key, p.glance()); !ok {
				missed++
			}
			i++
		}
		misses.Add(missed)
	})
	b.ReportMetric(100*float64(misses.Load())/float64(b.N), "misses_%")
}

func BenchmarkNearHit(b *testing.B)         { benchmarkHit(b, 1, 0) }
func BenchmarkNearHitExpiring(b *testing.B) { benchmarkHit(b, 1, time.Hour) }
func BenchmarkNearHit4(b *testing.B)        { benchmarkHit(b, 4, 0) }

func BenchmarkNearPut(b *testing.B) {
	for _, c := range []struct {
		name     string
		maxBytes int64
	}{{"fits", 256 << 20}, {"evicts", 2 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			keys, value := nearKeys(benchKeys), make([]byte, 128)
			n := newNear[[]byte](c.maxBytes, stoppedClock)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k := &keys[i%benchKeys]
				n.put(k.hash, k.key, value, 128, 0, n.token(k.hash))
			}
		})
	}
}

func BenchmarkNearDropAbsent(b *testing.B) {
	keys := nearKeys(2 * benchKeys)
	n := benchNear(keys[:benchKeys], 0, stoppedClock)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k := &keys[benchKeys+i%benchKeys]
		n.drop(k.hash, k.key)
	}
}

// nearLRU is the yardstick: a plain LRU of so many entries.
type nearLRU struct {
	size  int
	order list.List
	at    map[uint32]*list.Element
}

func (c *nearLRU) access(k uint32) bool {
	if e, ok := c.at[k]; ok {
		c.order.MoveToFront(e)
		return true
	}
	if c.order.Len() >= c.size {
		delete(c.at, c.order.Remove(c.order.Back()).(uint32))
	}
	c.at[k] = c.order.PushFront(k)
	return false
}

// playNear plays accesses to the cache and to an LRU of as many entries as
// the cache had at the end; it returns the hits of both.
func playNear(n *near[uint32], accesses []uint32) (hits, lruHits int) {
	for _, a := range accesses {
		hash := uint64(a) * 0xd6e8feb86659fd93
		if _, ok := n.read(hash, "12345678"); ok {
			hits++
		} else {
			n.add(hash, "12345678", a, 16)
		}
	}
	entries, _ := n.stats()
	lru := nearLRU{size: int(entries), at: map[uint32]*list.Element{}}
	for _, a := range accesses {
		if lru.access(a) {
			lruHits++
		}
	}
	return hits, lruHits
}

func TestNearHitRatio(t *testing.T) {
	zipf := zipfKeys(1, 50_000, 300_000, 1.01)
	scans := make([]uint32, 0, len(zipf)*2)
	for i, k := range zipf {
		scans = append(scans, k)
		if i%50_000 < 15_000 {
			scans = append(scans, uint32(1_000_000+3*i), uint32(1_000_000+3*i+1), uint32(1_000_000+3*i+2))
		}
	}
	shifting := make([]uint32, len(zipf))
	for i, k := range zipf {
		shifting[i] = k + uint32(i/60_000)*300
	}
	for _, c := range []struct {
		name     string
		accesses []uint32
		margin   float64 // least lead over LRU in percentage points
	}{
		{"zipf", zipf, 3},
		{"zipf and scans", scans, 2},
		{"shifting", shifting, 2},
	} {
		n := newNear[uint32](320<<10, stoppedClock)
		hits, lru := playNear(n, c.accesses)
		total := float64(len(c.accesses)) / 100
		entries, _ := n.stats()
		t.Logf("%s: %d entries, %.1f %% hits, LRU %.1f %%", c.name, entries, float64(hits)/total, float64(lru)/total)
		require.Greater(t, float64(hits)/total, float64(lru)/total+c.margin, c.name)
		checkNear(t, n)
	}
}
