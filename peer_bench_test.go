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

// BenchmarkMany reads and writes 1,000 keys that three members hold, one by
// one and with one call.
func BenchmarkMany(b *testing.B) {
	ctx := b.Context()
	var nodes []*peercache.Node
	var join []string
	for range 3 {
		n, err := peercache.Start(ctx, peercache.Config{Listen: "127.0.0.1:0", Join: join})
		require.NoError(b, err)
		b.Cleanup(func() { n.Close() })
		nodes, join = append(nodes, n), append(join, n.Addr())
	}
	client, err := peercache.Start(ctx, peercache.Config{Client: true, Join: join})
	require.NoError(b, err)
	b.Cleanup(func() { client.Close() })
	eventually(b, "the client knows all", func() bool { return len(client.Members()) == 3 })
	for _, n := range nodes {
		require.NoError(b, n.WaitReady(ctx))
	}
	cache, err := peercache.New(client, "things", peercache.Options[[]byte]{})
	require.NoError(b, err)
	values := make(map[string][]byte)
	var keys []string
	for i := range 1000 {
		keys = append(keys, fmt.Sprint("user:", 1_000_000+i))
		values[keys[i]] = make([]byte, 128)
	}
	require.NoError(b, cache.SetMany(ctx, values))
	b.Run("Get", func(b *testing.B) {
		for range b.N {
			for _, key := range keys {
				if _, err := cache.Get(ctx, key); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("GetMany", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if got, err := cache.GetMany(ctx, keys); err != nil || len(got) != len(keys) {
				b.Fatal(len(got), err)
			}
		}
	})
	b.Run("Set", func(b *testing.B) {
		for range b.N {
			for _, key := range keys {
				if err := cache.Set(ctx, key, values[key]); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("SetMany", func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			if err := cache.SetMany(ctx, values); err != nil {
				b.Fatal(err)
			}
		}
	})
}
