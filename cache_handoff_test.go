package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// fillKeys loads and sets keys through all caches by turns and gives the
// copies the time to arrive.
func fillKeys(t *testing.T, count int, all ...*peercache.Cache[string]) {
	t.Helper()
	for i := range count {
		_, err := all[i%len(all)].Get(t.Context(), fmt.Sprint("loaded-", i))
		require.NoError(t, err)
		require.NoError(t, all[i%len(all)].Set(t.Context(), fmt.Sprint("set-", i), fmt.Sprint("set ", i)))
	}
	time.Sleep(100 * time.Millisecond)
}

// requireKeys gets what fillKeys made.
func requireKeys(t *testing.T, count int, all ...*peercache.Cache[string]) {
	t.Helper()
	for i := range count {
		key := fmt.Sprint("loaded-", i)
		requireAll(t, key, "value of "+key, all[i%len(all)])
		requireAll(t, fmt.Sprint("set-", i), fmt.Sprint("set ", i), all[i%len(all)])
	}
}

func TestNothingIsLoadedAgainWhenNodesJoinAndDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 400
		src := new(source)
		c := peercachetest.NewCluster(t, 3)
		opts := peercache.Options[string]{Load: src.load}
		all := caches(t, c, opts)
		fillKeys(t, count, all...)
		for i := 3; i < 5; i++ {
			c.Start(i)
			all = append(all, newCache(t, c.Nodes[i], opts))
			requireKeys(t, count, all...) // at once
			c.WaitAgree()
			requireKeys(t, count, all...)
			requireOwnersAgree(t, c)
		}
		for range 2 {
			c.Kill(0)
			requireKeys(t, count, all[1:]...)
			c.WaitAgree()
			requireKeys(t, count, all[1:]...)
			requireOwnersAgree(t, c)
			c.Start(0)
			all[0] = newCache(t, c.Nodes[0], opts)
			requireKeys(t, count, all...)
			c.WaitAgree()
			requireKeys(t, count, all...)
			requireOwnersAgree(t, c)
		}
		require.EqualValues(t, count, src.calls.Load())
	})
}

func TestDeletedKeysStayAway(t *testing.T) {
	for _, how := range []string{"Delete", "Clear"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				const count = 200
				c := peercachetest.NewCluster(t, 3)
				all := caches(t, c, peercache.Options[string]{})
				fill := func() {
					for i := range count {
						require.NoError(t, all[i%3].Set(ctx, fmt.Sprint(i), "old"))
					}
				}
				gone := func(all ...*peercache.Cache[string]) {
					t.Helper()
					for i := range count {
						for _, cache := range all {
							_, ok, err := cache.Lookup(ctx, fmt.Sprint(i))
							require.NoError(t, err)
							require.False(t, ok)
						}
					}
				}
				fill()
				if how == "Clear" {
					require.NoError(t, all[1].Clear(ctx))
				} else {
					for i := range count {
						require.NoError(t, all[(i+1)%3].Delete(ctx, fmt.Sprint(i)))
					}
				}
				gone(all...)
				c.Start(3)
				all = append(all, newCache(t, c.Nodes[3], peercache.Options[string]{}))
				gone(all...)
				c.WaitAgree()
				gone(all...)
				requireOwnersAgree(t, c)
				c.Kill(0)
				gone(all[1:]...)
				c.WaitAgree()
				gone(all[1:]...)
				for i := range count {
					require.NoError(t, all[1+i%3].Set(ctx, fmt.Sprint(i), "new"))
				}
				for i := range count {
					requireAll(t, fmt.Sprint(i), "new", all[1:]...)
				}
				requireOwnersAgree(t, c)
			})
		})
	}
}

// The last owner of all keys dies while others join: what was written since they
// are there is read from them, whether they have copied the rest by then or not.
func TestLastOwnerDiesWhileOthersJoin(t *testing.T) {
	const count = 20
	written := func(i int) string { return fmt.Sprint("written ", i) }
	for after := 100 * time.Millisecond; after < 2*time.Second; after += 190 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			src := new(source)
			opts := peercache.Options[string]{Load: src.load}
			c := peercachetest.NewCluster(t, 1)
			all := caches(t, c, opts)
			c.Network.DelayAll(20 * time.Millisecond)
			c.StartTogether(1, 2)
			all = append(all, newCache(t, c.Nodes[1], opts), newCache(t, c.Nodes[2], opts))
			c.WaitFor("all see all", 10*time.Second, func() bool {
				return !slices.ContainsFunc(c.Nodes, func(n *peercache.Node) bool { return len(n.Members()) < 3 })
			})
			time.Sleep(after)
			var wg sync.WaitGroup
			for i := range count {
				wg.Go(func() {
					if err := all[i%3].Set(ctx, fmt.Sprint(i), written(i)); err != nil {
						t.Errorf("Set: %v", err)
					}
				})
			}
			wg.Wait()
			c.Vanish(0)
			for i := range count {
				for _, cache := range all[1:] {
					wg.Go(func() {
						if v, err := cache.Get(ctx, fmt.Sprint(i)); err != nil || v != written(i) {
							t.Errorf("%v after the join: Get(%d) = %q, %v", after, i, v, err)
						}
						if v, ok, err := cache.Lookup(ctx, fmt.Sprint(i)); err != nil || v != written(i) {
							t.Errorf("%v after the join: Lookup(%d) = %q, %v, %v", after, i, v, ok, err)
						}
					})
				}
			}
			for i, cache := range all[1:] {
				wg.Go(func() {
					if err := cache.Set(ctx, fmt.Sprint("another ", i), "x"); err != nil {
						t.Errorf("%v after the join: Set: %v", after, err)
					}
				})
			}
			wg.Wait()
			require.Zero(t, src.calls.Load())
		})
	}
}

// A write is acknowledged without a joiner that is slow to confirm it, and the
// only owner dies: the joiner asks the other one, which has it.
func TestJoinerThatMissedAWriteAsksTheOthers(t *testing.T) {
	for wait := 20 * time.Millisecond; wait < time.Second; wait += 140 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			c := peercachetest.NewCluster(t, 1)
			first := newCache(t, c.Nodes[0], peercache.Options[string]{})
			c.Network.DelayAll(30 * time.Millisecond)
			c.StartTogether(1, 2)
			slow := newCache(t, c.Nodes[1], peercache.Options[string]{})
			c.WaitFor("all see all", 10*time.Second, func() bool {
				return !slices.ContainsFunc(c.Nodes, func(n *peercache.Node) bool { return len(n.Members()) < 3 })
			})
			time.Sleep(wait)
			set := func(value string) {
				values := make(map[string]string)
				for i := range 30 {
					values[fmt.Sprint(i)] = value
				}
				require.NoError(t, first.SetMany(ctx, values))
			}
			set("old")
			time.Sleep(50 * time.Millisecond)
			c.Network.Delay(c.Host(0), c.Host(1), 400*time.Millisecond)
			set("new")
			c.Vanish(0)
			c.Network.DelayAll(30 * time.Millisecond)
			for i := range 30 {
				if key := fmt.Sprint(i); strings.HasSuffix(c.Nodes[2].Holds("things", key), `"new"`) {
					v, _, err := slow.Lookup(ctx, key)
					require.NoError(t, err)
					require.Equal(t, "new", v, "%v after the join", wait)
				}
			}
		})
	}
}

// 1. A write is on its way to the other owner, and that takes a moment. 2. A node
// joins, and copies shards one after the other. 3. The write is acknowledged:
// now all have it who will own its key.
func TestAcknowledgedWriteIsWhereItsKeyWillBe(t *testing.T) {
	joined := 0
	for wait := time.Duration(0); wait < 200*time.Millisecond; wait += 50 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			c := peercachetest.NewCluster(t, 2)
			node := c.Nodes[0]
			first := newCache(t, node, peercache.Options[string]{})
			keys := keysOf(c, 60, 0, 1)
			values := make(map[string]string)
			for _, key := range keys {
				values[key] = "value"
			}
			c.Network.DelayAll(20 * time.Millisecond)
			started := make(chan struct{})
			go func() {
				defer close(started)
				c.Start(2)
			}()
			time.Sleep(wait)
			c.Network.Delay(c.Host(0), c.Host(1), 200*time.Millisecond)
			before := len(node.Members())
			require.NoError(t, first.SetMany(ctx, values))
			after := len(node.Members())
			<-started
			held := make(map[string]bool)
			for _, key := range keys {
				held[key] = c.Nodes[2].Holds("things", key) != ""
			}
			c.Network.DelayAll(20 * time.Millisecond)
			c.WaitAgree()
			if before == 3 || after < 3 {
				return
			}
			joined++
			for _, key := range keys {
				if slices.Contains(ownersOf(c, key), 2) {
					require.True(t, held[key], "%s, %v after the start", key, wait)
				}
			}
		})
	}
	require.NotZero(t, joined)
}

// A call that waits for others to own its key ends with its context, and says
// so.
func TestCallsThatWaitForOwnersEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		c.Network.DelayAll(20 * time.Millisecond)
		c.Start(1)
		joiner := newCache(t, c.Nodes[1], peercache.Options[string]{})
		c.WaitFor("both see both", 10*time.Second, func() bool { return len(c.Nodes[0].Members()) == 2 && len(c.Nodes[1].Members()) == 2 })
		c.Vanish(0)
		var wg sync.WaitGroup
		for after := 10 * time.Millisecond; after < 1500*time.Millisecond; after += 10 * time.Millisecond {
			for _, want := range []error{context.Canceled, context.DeadlineExceeded} {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if want == context.Canceled {
						time.AfterFunc(after, cancel)
					} else {
						ctx, cancel = context.WithTimeout(t.Context(), after)
						defer cancel()
					}
					if _, _, err := joiner.Lookup(ctx, "k"); err != nil && !errors.Is(err, want) {
						t.Errorf("after %v: Lookup: %v", after, err)
					}
					if err := joiner.Set(ctx, "k", "v"); err != nil && !errors.Is(err, want) {
						t.Errorf("after %v: Set: %v", after, err)
					}
				})
			}
		}
		wg.Wait()
	})
}

// Clear reaches the shards that are on their way to a joiner.
func TestClearDuringJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		for after := time.Duration(0); after < 60*time.Millisecond; after += 7 * time.Millisecond {
			c := peercachetest.NewCluster(t, 3)
			all := caches(t, c, peercache.Options[string]{})
			for i := range 100 {
				require.NoError(t, all[i%3].Set(ctx, fmt.Sprint(i), "old"))
			}
			c.Network.DelayAll(2 * time.Millisecond)
			var wg sync.WaitGroup
			wg.Go(func() {
				time.Sleep(after)
				if err := all[0].Clear(ctx); err != nil {
					t.Errorf("Clear: %v", err)
				}
			})
			c.Start(3)
			wg.Wait()
			all = append(all, newCache(t, c.Nodes[3], peercache.Options[string]{}))
			c.WaitAgree()
			for i := range 100 {
				for _, cache := range all {
					_, ok, err := cache.Lookup(ctx, fmt.Sprint(i))
					require.NoError(t, err)
					require.False(t, ok)
				}
			}
			requireOwnersAgree(t, c)
		}
	})
}

// A Clear goes to those who owned a key until a moment ago: members whose table
// is older still ask them.
func TestClearGoesToFormerOwners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 100
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		time.Sleep(2 * time.Second) // no table is a former one
		for i := range count {
			require.NoError(t, all[i%3].Set(t.Context(), fmt.Sprint(i), "old"))
		}
		held := func() (copies int) {
			for i := range count {
				for _, n := range c.Nodes {
					if n.Holds("things", fmt.Sprint(i)) != "" {
						copies++
					}
				}
			}
			return copies
		}
		c.Start(3)
		c.WaitAgree()
		require.Greater(t, held(), 2*count)
		require.NoError(t, all[0].Clear(t.Context()))
		require.Zero(t, held())
	})
}

// Two sides that both went on have each other's values after they meet, and of
// a key that both wrote the later one.
func TestSidesOfASplitMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		const count = 100
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{})
		for i := range count {
			require.NoError(t, all[i%4].Set(ctx, fmt.Sprint("both-", i), "before"))
			require.NoError(t, all[i%4].Set(ctx, fmt.Sprint("deleted-", i), "before"))
		}
		c.Network.Partition(c.Hosts(0, 1), c.Hosts(2, 3))
		c.WaitAgreeAmong(c.Nodes[:2]...)
		c.WaitAgreeAmong(c.Nodes[2:]...)
		for i := range count {
			require.NoError(t, all[i%2].Set(ctx, fmt.Sprint("left-", i), "left"))
			require.NoError(t, all[2+i%2].Set(ctx, fmt.Sprint("right-", i), "right"))
			require.NoError(t, all[i%2].Set(ctx, fmt.Sprint("both-", i), "left"))
			require.NoError(t, all[i%2].Delete(ctx, fmt.Sprint("deleted-", i)))
			time.Sleep(time.Millisecond)
			require.NoError(t, all[2+i%2].Set(ctx, fmt.Sprint("both-", i), "right"))
		}
		c.Network.HealAll()
		c.WaitAgree()
		for i := range count {
			requireAll(t, fmt.Sprint("left-", i), "left", all...)
			requireAll(t, fmt.Sprint("right-", i), "right", all...)
			requireAll(t, fmt.Sprint("both-", i), "right", all...)
			for _, cache := range all {
				_, ok, err := cache.Lookup(ctx, fmt.Sprint("deleted-", i))
				require.NoError(t, err)
				require.False(t, ok)
			}
		}
		requireOwnersAgree(t, c)
	})
}

// oneTable returns the digest of the nodes' tables, 0 when they differ.
func oneTable(nodes []*peercache.Node) uint64 {
	digest := nodes[0].Stats().TableDigest
	for _, n := range nodes[1:] {
		if n.Stats().TableDigest != digest {
			return 0
		}
	}
	return digest
}

// Nodes are restarted one by one while all others read and write.
func TestRollingRestartUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 200
		src := new(source)
		c := peercachetest.NewCluster(t, 5)
		c.Network.DelayAll(300 * time.Microsecond)
		opts := peercache.Options[string]{Load: src.load}
		all := caches(t, c, opts)
		fillKeys(t, count, all...)
		for i := range 5 {
			var stop atomic.Bool
			var wg sync.WaitGroup
			var reads, writes, older atomic.Int64
			written := make([]string, 5*count)
			steady := slices.Concat(c.Nodes[:i], c.Nodes[i+1:])
			for j, cache := range all {
				if j == i {
					continue
				}
				wg.Go(func() { // reads
					for k := 0; !stop.Load(); k++ {
						key := fmt.Sprint("loaded-", k%count)
						if v, err := cache.Get(context.Background(), key); err != nil || v != "value of "+key {
							t.Errorf("Get: %q, %v", v, err)
						}
						reads.Add(1)
						time.Sleep(500 * time.Microsecond)
					}
				})
				wg.Go(func() { // writes of its own keys, read back at once
					for k := 0; !stop.Load(); k++ {
						n := j*count + k%count
						key, v := fmt.Sprint("written-", n), fmt.Sprint(i, " ", k)
						digest := oneTable(steady)
						if err := cache.Set(context.Background(), key, v); err != nil {
							t.Errorf("Set: %v", err)
							continue
						}
						written[n] = v
						got, ok, err := cache.Lookup(context.Background(), key)
						if err != nil || !ok || got != v {
							// Who sees the owners of before may read what they hold.
							older.Add(1)
							if digest != 0 && digest == oneTable(steady) {
								t.Errorf("written %q, read %q, %v, %v", v, got, ok, err)
							}
						}
						writes.Add(1)
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(50 * time.Millisecond)
			c.Shutdown(i)
			time.Sleep(100 * time.Millisecond)
			c.Start(i)
			all[i] = newCache(t, c.Nodes[i], opts)
			c.WaitAgree()
			time.Sleep(50 * time.Millisecond)
			stop.Store(true)
			wg.Wait()
			for n, v := range written {
				if v != "" {
					requireAll(t, fmt.Sprint("written-", n), v, all[n%5])
				}
			}
			t.Log("node", i, reads.Load(), "reads", writes.Load(), "writes", older.Load(), "read back older while views differed", src.calls.Load()-count, "reloads so far")
		}
		requireOwnersAgree(t, c)
		require.LessOrEqual(t, src.calls.Load(), int64(count), "reloads")
	})
}
