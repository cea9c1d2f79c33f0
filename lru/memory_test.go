package lru

import (
	"encoding/binary"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
)

var bigMemory = flag.Bool("bigmemory", false, "measure overhead and GC with 5 million entries")

// BenchmarkMemory reports the bytes beyond key and value that an entry takes, and the time of one garbage collection.
func BenchmarkMemory(b *testing.B) {
	if !*bigMemory {
		b.Skip("needs -bigmemory")
	}
	const entries, keyLen, valueLen = 5_000_000, 16, 100
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		s := New(Options{MaxBytes: 2 << 30})
		var key [keyLen]byte
		value := make([]byte, valueLen)
		for i := range entries {
			binary.BigEndian.PutUint64(key[:], uint64(i))
			_ = s.Put(Key{Hash: xxhash.Sum64(key[:]), Bytes: key[:]}, Meta{}, value)
		}
		after := heap()
		best := time.Hour
		for range 5 {
			t := time.Now()
			runtime.GC()
			best = min(best, time.Since(t))
		}
		n := s.Len()
		b.ReportMetric(float64(after-before)/float64(n)-keyLen-valueLen, "overhead-B/entry")
		b.ReportMetric(float64(s.Bytes())/float64(n)-keyLen-valueLen, "charged-B/entry")
		b.ReportMetric(float64(best.Microseconds())/1000, "gc-ms")
		b.ReportMetric(float64(n), "entries")
	}
}
