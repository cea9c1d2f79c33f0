package peercache_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/collide"
	"github.com/peercache/peercache/peercachetest"
)

// requireReady waits until a node is ready.
func requireReady(t *testing.T, n *peercache.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, n.WaitReady(ctx))
}

// TestCollidingKeysAreCopied: all of one hash, they are far more than a page of
// a sync has, and so are two of them alone.
func TestCollidingKeysAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const small, others = 12_000, 3000
		c := peercachetest.NewCluster(t, 1)
		all := caches(t, c, peercache.Options[[]byte]{})
		keys := collide.Keys(1, small+2)
		values := make(map[string][]byte)
		chance := rand.NewChaCha8([32]byte{1})
		for i, k := range keys {
			size := 2 << 10
			if i >= small {
				size = 9 << 20
			}
			values[k] = make([]byte, size)
			chance.Read(values[k])
		}
		for i := range others {
			values[fmt.Sprint("other ", i)] = []byte("value")
		}
		for k, v := range values {
			require.NoError(t, all[0].Set(t.Context(), k, v))
		}
		requireHeld := func(n *peercache.Node, cache *peercache.Cache[[]byte]) {
			t.Helper()
			requireReady(t, n)
			require.Equal(t, n.Stats().ShardsOwned, n.Stats().ShardsFilled)
			require.Zero(t, n.Stats().SyncOmitted)
			require.EqualValues(t, len(values), cache.Stats().Entries)
		}
		for i := 1; i < 3; i++ { // each joins one that has everything, which goes then
			c.Start(i)
			all = append(all, newCache(t, c.Nodes[i], peercache.Options[[]byte]{}))
			c.WaitAgree()
			requireHeld(c.Nodes[i], all[i])
			received := c.Nodes[i].Stats().SyncBytes
			require.Less(t, received, int64(small*(2<<10+100)+18<<20+others*200)*5/4, "most of it came once")
			c.Shutdown(i - 1)
			for k, v := range values {
				got, found, err := all[i].Lookup(t.Context(), k)
				require.NoError(t, err)
				require.True(t, found)
				require.True(t, bytes.Equal(v, got))
			}
		}
	})
}

// A warnings is what several goroutines write.
type warnings struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

// Write implements io.Writer.
func (w *warnings) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

// count returns how often it has a text in it.
func (w *warnings) count(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.b.String(), part)
}

// A member that keeps smaller values than another one gets all the rest, and does
// not ask for it again and again.
func TestMemberThatKeepsSmallerValuesIsFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		c := peercachetest.NewCluster(t, 1, func(i int, cfg *peercache.Config) {
			cfg.MaxBytes, cfg.MaxValueBytes = 1<<30, 128<<20
			if i == 1 {
				cfg.MaxValueBytes, cfg.Logger = 1<<20, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			}
		})
		all := caches(t, c, peercache.Options[[]byte]{})
		large := "large"
		require.NoError(t, all[0].Set(t.Context(), large, make([]byte, 70<<20)), "it shrinks to little")
		for i := range 3000 {
			require.NoError(t, all[0].Set(t.Context(), fmt.Sprint(i), []byte("value")))
		}
		c.Start(1)
		all = append(all, newCache(t, c.Nodes[1], peercache.Options[[]byte]{}))
		c.WaitAgree()
		requireReady(t, c.Nodes[1])
		require.GreaterOrEqual(t, all[1].Stats().Entries, int64(2990), "all but what shares its shard")
		require.Zero(t, c.Nodes[1].Stats().SyncOmitted, "what it would not keep is not sent to it")
		require.Zero(t, log.count("cannot be copied"))
		before := c.Nodes[1].Stats().SyncBytes
		time.Sleep(30 * time.Second)
		require.Less(t, c.Nodes[1].Stats().SyncBytes-before, int64(1<<20))
		c.Shutdown(0)
	})
}

// TestEntryThatIsTooLargeHoldsUpNoOther: it is left out, and all else of its
// shard is copied.
func TestEntryThatIsTooLargeHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log warnings
		c := peercachetest.NewCluster(t, 1, func(_ int, cfg *peercache.Config) {
			cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		})
		peercache.SetMaxBody(c.Nodes[0], 1<<20)
		all := caches(t, c, peercache.Options[[]byte]{})
		keys := collide.Keys(1, 200)
		value := make([]byte, 2<<20)
		rand.NewChaCha8([32]byte{1}).Read(value)
		require.NoError(t, all[0].Set(t.Context(), keys[7], value))
		for _, k := range keys {
			if k != keys[7] {
				require.NoError(t, all[0].Set(t.Context(), k, []byte(k)))
			}
		}
		for i := 1; i < 3; i++ {
			c.Start(i)
			all = append(all, newCache(t, c.Nodes[i], peercache.Options[[]byte]{}))
			c.WaitAgree()
			requireReady(t, c.Nodes[i])
			require.EqualValues(t, 1, c.Nodes[0].Stats().SyncOmitted)
			require.Equal(t, 1, log.count("too large to be copied"))
		}
		holders := 0
		for i, cache := range all {
			if held := cache.Stats().Entries; held > 0 && i > 0 {
				require.EqualValues(t, len(keys)-1, held)
				holders++
			}
		}
		require.NotZero(t, holders)
		c.Shutdown(0)
		for _, k := range keys {
			v, found, err := all[1].Lookup(t.Context(), k)
			require.NoError(t, err)
			require.Equal(t, k != keys[7], found)
			if found {
				require.Equal(t, k, string(v))
			}
		}
	})
}
