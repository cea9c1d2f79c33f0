package groupcache_test

import (
	"context"
	"fmt"
	"testing"

	original "github.com/golang/groupcache"

	"github.com/peercache/peercache/groupcache"
)

// BenchmarkGet reads keys that the process holds, of the original and of ours.
func BenchmarkGet(b *testing.B) {
	const size = 100_000
	value := make([]byte, 128)
	getter := groupcache.GetterFunc(func(_ context.Context, _ string, dest groupcache.Sink) error { return dest.SetBytes(value) })
	keys := make([]string, size)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	type group interface {
		Get(context.Context, string, groupcache.Sink) error
	}
	groups := map[string]func(name string) group{
		"original": func(name string) group { return original.NewGroup(name, 256<<20, getter) },
		"ours":     func(name string) group { return groupcache.NewGroup(name, 256<<20, getter) },
	}
	for _, which := range []string{"original", "ours"} {
		g := groups[which](fmt.Sprint("bench-", b.Name(), &keys))
		ctx := context.Background()
		for range 3 {
			for _, key := range keys {
				if err := g.Get(ctx, key, groupcache.ByteViewSink(new(groupcache.ByteView))); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.Run(which+"/view", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var v groupcache.ByteView
				g.Get(ctx, keys[i*7919%size], groupcache.ByteViewSink(&v))
			}
		})
		b.Run(which+"/bytes", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				var v []byte
				g.Get(ctx, keys[i*7919%size], groupcache.AllocatingByteSliceSink(&v))
			}
		})
		b.Run(which+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					var v groupcache.ByteView
					g.Get(ctx, keys[i*7919%size], groupcache.ByteViewSink(&v))
				}
			})
		})
	}
}
