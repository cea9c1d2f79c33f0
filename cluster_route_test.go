package peercache_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// settled is how long a call without a deadline may take after a link was cut:
// the heartbeat's timeout and a second.
const settled = 3 * time.Second

// A topology cuts links of a cluster. The members that are left reach each
// other, if only through other members.
type topology struct {
	nodes int
	cut   func(c *peercachetest.Cluster)
}

func cutAllBut(n int, linked func(a, b int) bool) topology {
	return topology{n, func(c *peercachetest.Cluster) {
		for a := range n {
			for b := range a {
				if !linked(b, a) {
					c.Network.Cut(c.Host(a), c.Host(b))
				}
			}
		}
	}}
}

var topologies = map[string]topology{
	"both ways": {3, func(c *peercachetest.Cluster) { c.Network.Cut(c.Host(0), c.Host(1)) }},
	"one way":   {3, func(c *peercachetest.Cluster) { c.Network.CutOneWay(c.Host(0), c.Host(1)) }},
	"of five":   {5, func(c *peercachetest.Cluster) { c.Network.Cut(c.Host(0), c.Host(1)) }},
	"star":      cutAllBut(5, func(a, b int) bool { return a == 0 }),
	"bridge":    cutAllBut(5, func(a, b int) bool { return a == 0 || (a < 3) == (b < 3) }),
	"ring of 4": cutAllBut(4, func(a, b int) bool { return b-a == 1 || b-a == 3 }),
	"ring of 5": cutAllBut(5, func(a, b int) bool { return b-a == 1 || b-a == 4 }),
	"chain":     cutAllBut(4, func(a, b int) bool { return b-a == 1 }),
}

// Where some links are cut, the members reach each other through those that are
// whole: every call ends in time, without an error, and reads what was written.
func TestCallsGoAroundLinksThatAreCut(t *testing.T) {
	for name, top := range topologies {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && top.nodes > 3 && name != "ring of 5" {
				t.Skip("much work for the race detector")
			}
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, top.nodes)
				caches := make([]*peercache.Cache[string], top.nodes)
				for i, n := range c.Nodes {
					var err error
					caches[i], err = peercache.New(n, "words", peercache.Options[string]{})
					require.NoError(t, err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // none, as far as the members can tell
				defer cancel()
				for k := range 64 {
					assert.NoError(t, caches[0].Set(ctx, fmt.Sprint("key", k), "before"))
				}
				top.cut(c)
				began := time.Now()
				each := func(call func(i int, cache *peercache.Cache[string])) {
					var wait sync.WaitGroup
					for i, cache := range caches {
						wait.Go(func() { call(i, cache) })
					}
					wait.Wait()
				}
				for round := range 3 {
					each(func(i int, cache *peercache.Cache[string]) {
						var wait sync.WaitGroup
						for k := range 64 {
							key := fmt.Sprint("node", i, "key", k)
							wait.Go(func() {
								value := fmt.Sprint("round ", round)
								took := timed(func() {
									if k%2 == 0 {
										assert.NoError(t, cache.Set(ctx, key, value))
									} else {
										assert.NoError(t, cache.Update(ctx, key, func(string, bool) (string, error) { return value, nil }))
									}
								})
								assert.LessOrEqual(t, took, settled, "write of %s", key)
								for j := range caches {
									took := timed(func() {
										got, err := caches[j].Get(ctx, key)
										assert.NoError(t, err)
										assert.Equal(t, value, got)
									})
									assert.LessOrEqual(t, took, settled, "read of %s", key)
								}
							})
						}
						wait.Wait()
					})
				}
				each(func(i int, cache *peercache.Cache[string]) {
					key := fmt.Sprint("node", i, "key1")
					assert.NoError(t, cache.Delete(ctx, key))
					assert.NoError(t, cache.SetMany(ctx, map[string]string{key: "again", key + "b": "x"}))
					for j := range caches {
						got, err := caches[j].GetMany(ctx, []string{key, key + "b"})
						assert.NoError(t, err)
						assert.Equal(t, map[string]string{key: "again", key + "b": "x"}, got)
					}
				})
				assert.NoError(t, caches[1].Clear(ctx))
				for j := range caches {
					_, err := caches[j].Get(ctx, "key1")
					assert.ErrorIs(t, err, peercache.ErrNotFound)
				}
				assert.LessOrEqual(t, time.Since(began), 10*settled)
				for _, n := range c.Nodes {
					assert.Len(t, n.Members(), top.nodes, "a member was lost though others reach it")
				}
				c.Network.HealAll()
				c.WaitAgree()
				time.Sleep(5 * time.Second)
				for _, n := range c.Nodes {
					for _, p := range n.Stats().Peers {
						assert.Empty(t, p.Through, "requests go directly again")
					}
				}
			})
		})
	}
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

// A link that answers with resets is no proof that the process behind it is gone:
// it counts as gone only if no other member reaches it. So what is acknowledged is
// at all owners, and nothing older is read.
func TestRefusedLinkLosesNothing(t *testing.T) {
	for _, delay := range []time.Duration{30 * time.Millisecond, 0, 70 * time.Millisecond} {
		if testing.Short() && delay != 30*time.Millisecond {
			continue
		}
		t.Run(fmt.Sprint("delay ", delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { refuseOneLink(t, delay) })
		})
	}
}

func refuseOneLink(t *testing.T, delay time.Duration) {
	c := peercachetest.NewCluster(t, 3)
	c.Network.DelayAll(delay)
	time.Sleep(5 * time.Second)
	caches := make([]*peercache.Cache[string], 3)
	for i, n := range c.Nodes {
		var err error
		caches[i], err = peercache.New(n, "words", peercache.Options[string]{})
		require.NoError(t, err)
	}
	c.Network.Resets(c.Host(0), c.Host(1), true)
	for round := range 20 {
		for k := range 48 {
			key, value := fmt.Sprint("key", k), fmt.Sprint("round ", round)
			writer := caches[k%3]
			if k%5 == 0 && round%2 == 1 {
				took := timed(func() { assert.NoError(t, writer.Delete(t.Context(), key)) })
				require.LessOrEqual(t, took, settled)
				for i, reader := range caches {
					_, err := reader.Get(t.Context(), key)
					require.ErrorIs(t, err, peercache.ErrNotFound, "deleted by %d, read by %d", k%3, i)
				}
				continue
			}
			took := timed(func() { assert.NoError(t, writer.Set(t.Context(), key, value)) })
			require.LessOrEqual(t, took, settled)
			for i, reader := range caches {
				got, err := reader.Get(t.Context(), key)
				assert.NoError(t, err)
				assert.Equal(t, value, got, "written by %d, read by %d", k%3, i)
			}
			for _, n := range c.Nodes {
				require.Len(t, n.Members(), 3)
			}
		}
		time.Sleep(time.Second)
	}
	c.Network.Resets(c.Host(0), c.Host(1), false)
	time.Sleep(5 * time.Second)
	for _, n := range c.Nodes {
		for _, p := range n.Stats().Peers {
			require.Empty(t, p.Through)
		}
	}
}

// A member whose host takes no connections, but makes them, is not gone: what is
// acknowledged while it is in the tables is there as well.
func TestRefusedMemberThatIsHeardIsNotGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		caches := make([]*peercache.Cache[string], 3)
		for i, n := range c.Nodes {
			var err error
			caches[i], err = peercache.New(n, "words", peercache.Options[string]{})
			require.NoError(t, err)
		}
		c.Network.Refuse(c.Host(1), true)
		c.Network.Reset(c.Host(0), c.Host(1))
		c.Network.Reset(c.Host(2), c.Host(1))
		time.Sleep(100 * time.Millisecond) // it makes its own connections anew
		var wait sync.WaitGroup
		for k := range 64 {
			wait.Go(func() {
				key := fmt.Sprint("key", k)
				listed := len(c.Nodes[0].Members())
				took := timed(func() { assert.NoError(t, caches[0].Set(t.Context(), key, "v")) })
				assert.LessOrEqual(t, took, settled)
				for _, m := range c.Nodes[0].Owners("words", key) {
					assert.NotEqual(t, c.Nodes[1].Self().Incarnation, m.Incarnation, "acknowledged without an owner that is there, of %d", listed)
				}
			})
		}
		wait.Wait()
	})
}

// Of two members nobody else can tell which is out of reach: each goes on alone
// once the other's time is over, and what was written there stands there.
func TestWritesGoOnWhenTheOnlyLinkIsCut(t *testing.T) {
	for name, cut := range map[string]func(nw *peercachetest.Network, a, b string){
		"one way":   func(nw *peercachetest.Network, a, b string) { nw.CutOneWay(a, b) },
		"both ways": (*peercachetest.Network).Cut,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 2)
				cut(c.Network, c.Host(0), c.Host(1))
				var wait sync.WaitGroup
				for i, n := range c.Nodes {
					cache, err := peercache.New(n, "words", peercache.Options[string]{})
					assert.NoError(t, err)
					for k := range 16 {
						wait.Go(func() {
							key := fmt.Sprint(i, "key", k)
							took := timed(func() { assert.NoError(t, cache.Set(context.Background(), key, "v")) })
							assert.LessOrEqual(t, took, settled)
							took = timed(func() {
								assert.NoError(t, cache.Update(context.Background(), key, func(string, bool) (string, error) { return "w", nil }))
							})
							assert.LessOrEqual(t, took, settled)
							took = timed(func() { assert.NoError(t, cache.Set(context.Background(), key, "x")) })
							assert.LessOrEqual(t, took, settled)
						})
					}
				}
				wait.Wait()
			})
		})
	}
}

// Members around a link that is cut vouch for its ends by gossip, which comes
// to all members as long as there is a way: nobody is lost.
func TestLinksThatAreCutLoseNobody(t *testing.T) {
	lasts := 5 * time.Minute
	if testing.Short() {
		lasts = 30 * time.Second
	}
	for name, top := range map[string]topology{
		"bridge of 13": cutAllBut(13, func(a, b int) bool { return a == 0 || (a < 6) == (b < 6) }),
		"ring of 5":    topologies["ring of 5"],
		"chain":        topologies["chain"],
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, diaries := keepDiaries(t, top.nodes)
				top.cut(c)
				time.Sleep(lasts)
				for i := range diaries {
					assert.Empty(t, diaries[i].read(), "node %d", i)
				}
				c.Network.HealAll()
				time.Sleep(time.Minute)
				require.Zero(t, c.WaitAgree())
			})
		})
	}
}
