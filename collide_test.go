package peercache

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/collide"
)

// TestCollidingKeysStayNear: many keys of one hash are near like any others.
func TestCollidingKeysStayNear(t *testing.T) {
	ctx := context.Background()
	n, err := Start(ctx, Config{})
	require.NoError(t, err)
	defer n.Close()
	c, err := New(n, "c", Options[string]{})
	require.NoError(t, err)
	keys := collide.Keys(1, 5000)
	for _, k := range keys {
		require.NoError(t, c.Set(ctx, k, k))
	}
	for range 2 {
		for _, k := range keys {
			v, err := c.Get(ctx, k)
			require.NoError(t, err)
			require.Equal(t, k, v)
		}
	}
	require.GreaterOrEqual(t, c.Stats().NearHits, int64(len(keys)*9/10), "the second time they are near")
	values, err := c.GetMany(ctx, keys)
	require.NoError(t, err)
	require.Len(t, values, len(keys))
	for i, k := range keys {
		if i%2 == 0 {
			require.NoError(t, c.Delete(ctx, k))
		} else {
			require.NoError(t, c.Set(ctx, k, "new"))
		}
	}
	for i, k := range keys {
		v, found, err := c.Lookup(ctx, k)
		require.NoError(t, err)
		require.Equal(t, i%2 == 1, found)
		if found {
			require.Equal(t, "new", v)
		}
	}
}

// TestOneKeptKeyVouchesForNoOther: what came to a stand-in of one key says
// nothing of what is left there of another key with the same hash.
func TestOneKeptKeyVouchesForNoOther(t *testing.T) {
	n, err := Start(context.Background(), Config{})
	require.NoError(t, err)
	defer n.Close()
	sp, err := n.store.space("c")
	require.NoError(t, err)
	keys := collide.Keys(1, 2)
	shard := shardOf(sp.keyspace, keys[0])
	require.Equal(t, shard, shardOf(sp.keyspace, keys[1]))
	for _, k := range keys {
		v := n.hlc.next()
		_, applied, err := n.store.apply(sp, k, entry{order: order{v, v}, value: []byte(k)}, fromRequest)
		require.NoError(t, err)
		require.True(t, applied)
	}
	h := n.handoff
	h.state[shard].Store(shardForeign)
	h.mu.Lock()
	h.lost[shard] = &lostShard{since: -time.Hour, owned: true}
	h.mu.Unlock()
	h.keepForAWhile(shard, sp, keys[0], false)
	require.False(t, h.outdated(shard, sp, keys[0]))
	require.True(t, h.outdated(shard, sp, keys[1]))
	h.mu.Lock()
	h.gainLocked(shard, n.view.Load(), n.view.Load(), nil)
	h.mu.Unlock()
	_, held := n.store.peek(sp, keys[0])
	require.True(t, held)
	_, held = n.store.peek(sp, keys[1])
	require.False(t, held)
}

// BenchmarkCollide compares keys of one hash with others, on a node that is
// alone; near and own say where they are found.
func BenchmarkCollide(b *testing.B) {
	const keys = 50_000
	others := make([]string, keys)
	for i := range others {
		others[i] = fmt.Sprintf("other key %06d", i)
	}
	ctx := context.Background()
	value := make([]byte, 128)
	for _, k := range []struct {
		name string
		keys []string
	}{{"others", others}, {"colliding", collide.Keys(1, keys)}} {
		n, err := Start(ctx, Config{})
		require.NoError(b, err)
		defer n.Close()
		c, err := New(n, "bench", Options[[]byte]{})
		require.NoError(b, err)
		for _, key := range k.keys {
			require.NoError(b, c.Set(ctx, key, value))
		}
		run := func(op string, near int64, f func(key string)) {
			b.Run(op+"/"+k.name, func(b *testing.B) {
				c.near.setMaxBytes(near)
				for _, key := range k.keys {
					f(key)
				}
				b.ReportAllocs()
				b.ResetTimer()
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						f(k.keys[i*7919%keys])
					}
				})
			})
		}
		get := func(key string) { _, _ = c.Get(ctx, key) }
		run("get near", 32<<20, get)
		run("get own", 8<<10, get)
		run("lookup absent", 8<<10, func(key string) { _, _, _ = c.Lookup(ctx, key[1:]) })
		run("set", 32<<20, func(key string) { _ = c.Set(ctx, key, value) })
		run("get many", 8<<10, func(key string) { _, _ = c.GetMany(ctx, []string{key, key[2:]}) })
	}
}
