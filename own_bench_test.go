package peercache

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchmarkOwn runs an operation on keys of a node that is alone, next to none
// of them near.
func benchmarkOwn(b *testing.B, goroutines int, op func(c *Cache[[]byte], key string)) {
	ctx := context.Background()
	n, err := Start(ctx, Config{})
	require.NoError(b, err)
	defer n.Close()
	c, err := New(n, "bench", Options[[]byte]{})
	require.NoError(b, err)
	c.near.setMaxBytes(8 << 10)
	keys, draws, value := nearKeys(benchKeys), zipfKeys(1, benchKeys, benchDraws, 1.01), make([]byte, 128)
	for _, k := range keys {
		require.NoError(b, c.Set(ctx, k.key, value))
	}
	var starts atomic.Int64
	b.SetParallelism((goroutines + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := int(starts.Add(1)) * 7919; pb.Next(); i++ {
			op(c, keys[draws[i%benchDraws]].key)
		}
	})
}

func getOwn(c *Cache[[]byte], key string) { _, _ = c.Get(context.Background(), key) }

func setOwn(c *Cache[[]byte], key string) {
	var value [128]byte
	_ = c.Set(context.Background(), key, value[:])
}

func BenchmarkOwnHit(b *testing.B)  { benchmarkOwn(b, 1, getOwn) }
func BenchmarkOwnHit4(b *testing.B) { benchmarkOwn(b, 4, getOwn) }
func BenchmarkOwnSet(b *testing.B)  { benchmarkOwn(b, 1, setOwn) }
func BenchmarkOwnSet4(b *testing.B) { benchmarkOwn(b, 4, setOwn) }
