package peercache_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
)

// startFetch starts an owner and a client over loopback TCP, both in this
// process, and returns the client's cache and keys that the owner holds.
func startFetch(b *testing.B, size int, conf *tls.Config, secret string) (*peercache.Cache[[]byte], []string) {
	b.Helper()
	ctx := b.Context()
	owner, err := peercache.Start(ctx, peercache.Config{Listen: "127.0.0.1:0", Secret: secret, TLS: conf})
	require.NoError(b, err)
	b.Cleanup(func() { owner.Close() })
	client, err := peercache.Start(ctx, peercache.Config{Client: true, Join: []string{owner.Addr()}, Secret: secret, TLS: conf})
	require.NoError(b, err)
	b.Cleanup(func() { client.Close() })
	require.NoError(b, client.WaitReady(ctx))
	held, err := peercache.New(owner, "things", peercache.Options[[]byte]{})
	require.NoError(b, err)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprint("user:", 1_000_000+i)
		if i*size < 64<<20 {
			require.NoError(b, held.Set(ctx, keys[i], make([]byte, size)))
		} else {
			keys[i] = keys[0]
		}
	}
	asked, err := peercache.New(client, "things", peercache.Options[[]byte]{})
	require.NoError(b, err)
	return asked, keys
}

// benchmarkFetch gets keys that another member holds, from several goroutines.
func benchmarkFetch(b *testing.B, goroutines, size int, conf *tls.Config, secret string) {
	cache, keys := startFetch(b, size, conf, secret)
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	var next atomic.Int64
	b.ReportAllocs()
	b.ResetTimer()
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if v, err := cache.Get(ctx, keys[i%len(keys)]); err != nil || len(v) != size {
					b.Error(len(v), err)
					return
				}
			}
		})
	}
	wait.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "gets/s")
}

func BenchmarkFetch(b *testing.B) {
	for _, size := range []int{128, 4 << 10, 1 << 20} {
		for _, goroutines := range []int{1, 64} {
			b.Run(fmt.Sprintf("%d bytes, %d goroutines", size, goroutines), func(b *testing.B) {
				benchmarkFetch(b, goroutines, size, nil, "")
			})
		}
	}
}
