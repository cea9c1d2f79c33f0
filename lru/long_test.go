package lru

import (
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var long = flag.Duration("long", 0, "length of each part of the tests that take as long as one likes")

func residentBytes(t *testing.T) int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("no /proc")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(data))[1], 10, 64)
	require.NoError(t, err)
	return pages * int64(os.Getpagesize())
}

// The memory of the whole process is bounded while a full Store is churned and the program makes garbage of its own: by
// the collector's pacing without a limit, by the limit with one.
func TestResidentMemory(t *testing.T) {
	if *long == 0 {
		t.Skip("needs -long")
	}
	const bound, other = 512 << 20, 48 << 20
	for _, c := range []struct {
		name  string
		limit int64 // of the runtime
		most  int64
	}{
		{"limit", bound + bound/8 + other, bound + bound/8 + other + 16<<20},
		{"no limit", math.MaxInt64, 2*bound + 2*other},
	} {
		debug.FreeOSMemory()
		debug.SetMemoryLimit(c.limit)
		s := New(Options{MaxBytes: bound, Shards: 4096})
		rng := rand.New(rand.NewPCG(1, 1))
		value := make([]byte, 1<<20)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var most int64
		var buf []byte
		start := time.Now()
		ops := 0
		for ; time.Since(start) < *long; ops++ {
			k := numbered(rng.IntN(20_000_000))
			k.Shard = uint16(k.Hash % 4096)
			size := rng.IntN(400)
			if rng.IntN(1000) == 0 {
				size = rng.IntN(len(value))
			}
			var ok bool
			if buf, _, ok = s.Read(k, buf[:0]); !ok {
				require.NoError(t, s.Put(k, Meta{Expires: time.Since(start) + time.Duration(rng.IntN(20))*time.Second}, value[:size]))
			}
			if ops%100_000 == 0 {
				most = max(most, residentBytes(t))
			}
		}
		runtime.ReadMemStats(&after)
		debug.SetMemoryLimit(math.MaxInt64)
		cycles := after.NumGC - before.NumGC
		t.Logf("%s: %d operations, %d MiB charged, at most %d MiB resident, %d cycles of the collector, each second %.1f MiB allocated", c.name,
			ops, s.Bytes()>>20, most>>20, cycles, float64(after.TotalAlloc-before.TotalAlloc)/(1<<20)/long.Seconds())
		require.LessOrEqual(t, s.Bytes(), int64(bound))
		require.LessOrEqual(t, most, c.most, c.name)
		check(t, s)
	}
}

// A tiny Store goes round and round.
func TestManyLaps(t *testing.T) {
	if *long == 0 {
		t.Skip("needs -long")
	}
	s := New(Options{MaxBytes: MinMaxBytes, Shards: 3})
	g := &s.segments[0]
	rng := rand.New(rand.NewPCG(2, 2))
	value, buf := make([]byte, 64), make([]byte, 64)
	start := time.Now()
	i := 0
	for ; i%1000 != 0 || time.Since(start) < *long; i++ {
		k := numbered(rng.IntN(1000))
		k.Shard = uint16(k.Hash % 3)
		v, m, ok := s.Read(k, buf[:0])
		// require takes longer than the Store.
		if ok && (m.Tag != uint16(k.Hash) || len(v) != int(k.Hash%64)) {
			t.Fatalf("key %d: tag %d, %d bytes", k.Hash, m.Tag, len(v))
		}
		if !ok && s.Put(k, Meta{Tag: uint16(k.Hash)}, value[:k.Hash%64]) != nil {
			t.Fatalf("key %d does not fit", k.Hash)
		}
		if i%1_000_000 == 0 {
			check(t, s)
		}
	}
	check(t, s)
	units := g.rings[small].tail + g.rings[main].tail
	t.Logf("%d operations, %d laps", i, units*unit/MinMaxBytes)
}
