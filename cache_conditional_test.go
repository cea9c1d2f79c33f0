package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func increment(old int, ok bool) (int, error) { return old + 1, nil }

func TestOneOfManyIfAbsentWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		c.Network.DelayAll(time.Millisecond)
		all := caches(t, c, peercache.Options[string]{})
		for round := range 10 {
			var won, lost atomic.Int64
			var wg sync.WaitGroup
			key := fmt.Sprint("key-", round)
			for i := range 32 {
				wg.Go(func() {
					opt := peercache.IfAbsent()
					if i%2 == 0 {
						opt = peercache.IfVersion(peercache.Version{})
					}
					switch err := all[i%4].Set(t.Context(), key, fmt.Sprint(i), opt); {
					case err == nil:
						won.Add(1)
					case errors.Is(err, peercache.ErrConflict):
						lost.Add(1)
					default:
						t.Error(err)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, won.Load())
			require.EqualValues(t, 31, lost.Load())
		}
		requireOwnersAgree(t, c)
	})
}

func TestConflictChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		key := keyOf(c, 0, 1)
		require.NoError(t, all[2].Set(ctx, key, "one", peercache.WithTTL(time.Minute)))
		one, ok, err := all[2].LookupEntry(ctx, key)
		require.NoError(t, err)
		require.True(t, ok)
		require.NoError(t, all[0].Set(ctx, key, "two"))
		two, _, err := all[1].LookupEntry(ctx, key)
		require.NoError(t, err)
		require.Positive(t, two.Version.Compare(one.Version))
		before := c.Nodes[0].Holds("things", key)
		for _, cache := range all {
			for _, opt := range []peercache.SetOption{peercache.IfAbsent(), peercache.IfVersion(one.Version)} {
				require.ErrorIs(t, cache.Set(ctx, key, "never", opt), peercache.ErrConflict)
				err := cache.Update(ctx, key, func(string, bool) (string, error) { return "never", nil }, opt)
				require.ErrorIs(t, err, peercache.ErrConflict)
			}
			mine := errors.New("mine")
			require.Equal(t, mine, cache.Update(ctx, key, func(string, bool) (string, error) { return "", mine }))
		}
		for i := range 2 {
			require.Equal(t, before, c.Nodes[i].Holds("things", key))
		}
		require.NoError(t, all[1].Set(ctx, key, "three", peercache.IfVersion(two.Version)))
		requireAll(t, key, "three", all...)
	})
}

func TestExpiredBaseCountsAsAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		for i, cache := range all {
			key := keysOf(c, 3, 0, 1)[i]
			require.NoError(t, cache.Set(ctx, key, "old", peercache.WithTTL(time.Second)))
			old, _, err := cache.LookupEntry(ctx, key)
			require.NoError(t, err)
			time.Sleep(1100 * time.Millisecond)
			require.ErrorIs(t, cache.Set(ctx, key, "never", peercache.IfVersion(old.Version)), peercache.ErrConflict)
			require.NoError(t, cache.Update(ctx, key, func(old string, ok bool) (string, error) {
				require.False(t, ok)
				require.Empty(t, old)
				return "new", nil
			}))
			requireAll(t, key, "new", all...)
			_, limited := c.Nodes[0].ExpiresIn("things", key)
			require.True(t, limited)
		}
	})
}

func TestUpdateKeepsTheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[int]{TTL: time.Hour})
		key := keyOf(c, 0, 1)
		expires := func() time.Duration {
			a, ok := c.Nodes[0].ExpiresIn("things", key)
			require.True(t, ok)
			b, ok := c.Nodes[1].ExpiresIn("things", key)
			require.True(t, ok)
			require.InDelta(t, a, b, float64(10*time.Millisecond))
			return a.Round(10 * time.Millisecond)
		}
		require.NoError(t, all[2].Update(ctx, key, increment))
		require.Equal(t, time.Hour, expires(), "a new key gets Options.TTL")
		require.NoError(t, all[2].Set(ctx, key, 1, peercache.WithTTL(10*time.Second)))
		time.Sleep(4 * time.Second)
		for _, cache := range all {
			require.NoError(t, cache.Update(ctx, key, increment))
			require.Equal(t, 6*time.Second, expires())
		}
		require.NoError(t, all[2].Update(ctx, key, increment, peercache.WithTTL(time.Minute)))
		require.Equal(t, time.Minute, expires())
		require.NoError(t, all[2].Update(ctx, key, increment, peercache.WithTTL(0)))
		require.Zero(t, expires())
		require.NoError(t, all[1].Update(ctx, key, increment))
		require.Zero(t, expires())
	})
}

// A reply that got lost never makes an Update count twice, and its outcome is
// found out.
func TestUpdateWhoseReplyIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[int]{})
		key := keyOf(c, 0, 1)
		require.NoError(t, all[2].Update(t.Context(), key, increment))
		c.Network.DelayAll(4 * time.Millisecond)
		want := 1
		for d := time.Duration(0); d < 40*time.Millisecond; d += time.Millisecond {
			done := make(chan error, 1)
			go func() { done <- all[2].Update(t.Context(), key, increment) }()
			time.Sleep(d)
			c.Network.Reset(c.Host(2), c.Host(0))
			require.NoError(t, <-done)
			want++
			e, _, err := all[0].LookupEntry(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, want, e.Value, "reset after %v", d)
		}
		requireOwnersAgree(t, c)
	})
}

// A counter that all nodes add to while one is killed and others join: what was
// acknowledged is in it, and what failed as unavailable may be.
func TestUpdatesDuringKillAndJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		c.Network.DelayAll(500 * time.Microsecond)
		all := caches(t, c, peercache.Options[int]{})
		const counters = 8
		var acked, unknown [counters]atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		run := func(cache *peercache.Cache[int]) {
			for k := range counters {
				wg.Go(func() {
					for !stop.Load() {
						ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						err := cache.Update(ctx, fmt.Sprint("counter-", k), increment)
						cancel()
						switch {
						case err == nil:
							acked[k].Add(1)
						case errors.Is(err, peercache.ErrClosed):
							unknown[k].Add(1)
							return
						default:
							unknown[k].Add(1)
						}
						time.Sleep(20 * time.Millisecond)
					}
				})
			}
		}
		for _, cache := range all {
			run(cache)
		}
		time.Sleep(500 * time.Millisecond)
		c.Kill(1)
		time.Sleep(2 * time.Second)
		c.Start(1)
		run(newCache(t, c.Nodes[1], peercache.Options[int]{}))
		time.Sleep(time.Second)
		c.Start(4)
		run(newCache(t, c.Nodes[4], peercache.Options[int]{}))
		time.Sleep(time.Second)
		stop.Store(true)
		wg.Wait()
		c.WaitAgree()
		var sumAcked, sumUnknown int64
		for k := range counters {
			e, ok, err := all[0].LookupEntry(t.Context(), fmt.Sprint("counter-", k))
			require.NoError(t, err)
			require.True(t, ok)
			a, u := acked[k].Load(), unknown[k].Load()
			require.GreaterOrEqual(t, int64(e.Value), a, "acknowledged updates are lost")
			require.LessOrEqual(t, int64(e.Value), a+u, "updates count twice")
			sumAcked, sumUnknown = sumAcked+a, sumUnknown+u
		}
		t.Log(sumAcked, "acknowledged,", sumUnknown, "unknown")
		require.Greater(t, sumAcked, 2*sumUnknown)
		requireOwnersAgree(t, c)
	})
}

// An owner that may be living and does not confirm makes a conditional write
// fail, and nothing of it stays.
func TestConditionalWriteWithASilentOwner(t *testing.T) {
	for name, from := range map[string]int{"primary": 0, "other": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{})
				key := keyOf(c, 0, 1)
				require.NoError(t, all[from].Set(t.Context(), key, "before"))
				before := c.Nodes[0].Holds("things", key)
				e, _, err := all[from].LookupEntry(t.Context(), key)
				require.NoError(t, err)
				silence(c, 1, 0, 2)
				ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
				defer cancel()
				err = all[from].Set(ctx, key, "after", peercache.IfVersion(e.Version))
				require.Error(t, err)
				require.ErrorIs(t, err, peercache.ErrUnavailable)
				time.Sleep(100 * time.Millisecond)
				c.Network.HealAll()
				time.Sleep(5 * time.Second)
				requireAll(t, key, "before", all...)
				require.Equal(t, before, c.Nodes[0].Holds("things", key))
				requireOwnersAgree(t, c)
			})
		})
	}
}

// What a replica alone holds, a copy that got lost on its way to the primary
// say, does not keep conditional writes from coming to an end.
func TestUpdateWhenAReplicaHoldsMore(t *testing.T) {
	for _, write := range []bool{false, true} {
		for from := range 3 {
			t.Run(fmt.Sprint("write ", write, " from ", from), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 3)
					all := caches(t, c, peercache.Options[int]{})
					key := keyOf(c, 0, 1)
					like := keyOf(c, 1)
					require.NoError(t, all[1].Set(t.Context(), like, 41))
					c.Nodes[1].Plant("things", key, like, write, 0)
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					defer cancel()
					require.NoError(t, all[from].Update(ctx, key, increment))
					for _, cache := range all {
						v, err := cache.Get(ctx, key)
						require.NoError(t, err)
						require.Equal(t, 42, v)
					}
					requireOwnersAgree(t, c)
				})
			})
		}
	}
}

// The floor of a shard goes up when a write to any of its keys is forgotten. That
// changes nothing of the other keys.
func TestConditionsAboveAndBelowTheFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{Load: func(context.Context, string) (string, error) { return "loaded", nil }})
		keys := keysOf(c, 3, 0, 1)
		written, loaded, expired := keys[0], keys[1], keys[2]
		require.NoError(t, all[2].Set(ctx, written, "old"))
		_, err := all[2].Get(ctx, loaded)
		require.NoError(t, err)
		require.NoError(t, all[2].Set(ctx, expired, "old", peercache.WithTTL(time.Second)))
		time.Sleep(2 * time.Second)
		for _, n := range c.Nodes {
			for _, key := range keys {
				n.ForgetOther("things", key)
			}
		}

		for _, key := range []string{written, loaded} {
			e, ok, err := all[2].LookupEntry(ctx, key)
			require.NoError(t, err)
			require.True(t, ok)
			require.ErrorIs(t, all[2].Set(ctx, key, "never", peercache.IfAbsent()), peercache.ErrConflict)
			require.NoError(t, all[2].Set(ctx, key, "new", peercache.IfVersion(e.Version)))
			require.NoError(t, all[1].Update(ctx, key, func(old string, ok bool) (string, error) {
				require.Equal(t, "new", old)
				return "newer", nil
			}))
			requireAll(t, key, "newer", all...)
		}
		require.NoError(t, all[2].Set(ctx, expired, "new", peercache.IfAbsent()))
		requireAll(t, expired, "new", all...)
		requireOwnersAgree(t, c)
	})
}
