package peercache_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// The last of these is far beyond the time for which gossip remembers the
// dead: the two halves find each other through their seeds alone.
func TestSplitHeals(t *testing.T) {
	lengths := []time.Duration{5 * time.Second, time.Minute, time.Hour}
	if testing.Short() {
		lengths[2] = 5 * time.Minute
	}
	for _, lasts := range lengths {
		t.Run(lasts.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 5)
				few, many := c.Nodes[:2], c.Nodes[2:]
				c.Network.Partition(c.Hosts(0, 1), c.Hosts(2, 3, 4))
				end := time.Now().Add(deathKnown)
				waitTables(c, time.Until(end), few...)
				waitTables(c, time.Until(end), many...)

				time.Sleep(lasts)
				require.Zero(t, c.WaitAgreeAmong(few...), "each side goes on")
				require.Zero(t, c.WaitAgreeAmong(many...), "each side goes on")

				resetLinks(c, []int{0, 1}, []int{2, 3, 4})
				c.Network.HealAll()
				require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
			})
		})
	}
}

// resetLinks breaks the connections between two sides of a split, as their
// kernels do sooner or later. The network in memory keeps them for ever.
func resetLinks(c *peercachetest.Cluster, side, other []int) {
	for _, a := range side {
		for _, b := range other {
			c.Network.Reset(c.Host(a), c.Host(b))
		}
	}
}

func TestSplitIntoSingleNodesHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		c.Network.Partition(c.Hosts(0), c.Hosts(1), c.Hosts(2))
		end := time.Now().Add(deathKnown)
		for _, n := range c.Nodes {
			waitTables(c, time.Until(end), n)
		}
		time.Sleep(10 * time.Minute)
		c.Network.HealAll()
		require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
	})
}

// A side of a split is a cluster like any other: members die there, and new
// ones join. What the other side does not know of it, it learns when the split
// is over.
func TestMembersComeAndGoDuringASplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 5)
		c.Network.Partition(c.Hosts(0, 1, 5), c.Hosts(2, 3, 4))
		c.WaitAgreeAmong(c.Nodes[:2]...)
		c.Kill(1)
		c.Start(5)
		c.Shutdown(2)
		c.Restart(3)
		c.WaitAgreeAmong(c.Nodes[0], c.Nodes[5])
		c.WaitAgreeAmong(c.Nodes[3], c.Nodes[4])
		time.Sleep(time.Minute)
		c.Network.HealAll()
		require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
	})
}

// In a cluster of three or more, the members around a link that is cut, be it
// in one direction or in both, vouch for its two ends: nobody loses anybody.
func TestOneLinkThatIsCutChangesNothing(t *testing.T) {
	cuts := map[string]func(nw *peercachetest.Network, a, b string){
		"forth": func(nw *peercachetest.Network, a, b string) { nw.CutOneWay(a, b) },
		"back":  func(nw *peercachetest.Network, a, b string) { nw.CutOneWay(b, a) },
		"both":  (*peercachetest.Network).Cut,
	}
	for _, n := range []int{3, 5} {
		for name, cut := range cuts {
			t.Run(fmt.Sprint(n, " nodes, ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, diaries := keepDiaries(t, n)
					cut(c.Network, c.Host(0), c.Host(1))
					time.Sleep(2 * time.Minute)
					require.Zero(t, c.WaitAgree())
					c.Network.HealAll()
					time.Sleep(time.Minute)
					require.Zero(t, c.WaitAgree())
					for i := range diaries {
						require.Empty(t, diaries[i].read(), "node %d", i)
					}
				})
			})
		}
	}
}

// Of two members nobody else can vouch: each takes the other out, once.
func TestOnlyLinkCutInOneDirectionParts(t *testing.T) {
	for _, from := range []int{0, 1} {
		t.Run(fmt.Sprint("from node ", from), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, diaries := keepDiaries(t, 2)
				c.Network.CutOneWay(c.Host(from), c.Host(1-from))
				end := time.Now().Add(deathKnown)
				waitTables(c, time.Until(end), c.Nodes[0])
				waitTables(c, time.Until(end), c.Nodes[1])
				time.Sleep(2 * time.Minute)
				for i := range diaries {
					require.Equal(t, []string{fmt.Sprintf("node-%d left, active", 1-i), "table changed"}, diaries[i].read())
				}
				c.Network.HealAll()
				require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
			})
		})
	}
}

// A member that hears everybody and is heard by nobody, or the other way
// round, is alone, and the others are without it.
func TestMemberThatIsDeafOrMute(t *testing.T) {
	for _, mute := range []bool{true, false} {
		t.Run(fmt.Sprint("mute ", mute), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, diaries := keepDiaries(t, 4)
				for i := 1; i < 4; i++ {
					if mute {
						c.Network.CutOneWay(c.Host(0), c.Host(i))
					} else {
						c.Network.CutOneWay(c.Host(i), c.Host(0))
					}
				}
				end := time.Now().Add(deathKnown)
				waitTables(c, time.Until(end), c.Nodes[0])
				waitTables(c, time.Until(end), c.Nodes[1:]...)
				time.Sleep(2 * time.Minute)
				for i := 1; i < 4; i++ {
					require.Equal(t, []string{"node-0 left, active", "table changed"}, diaries[i].read())
				}
				require.Zero(t, c.WaitAgreeAmong(c.Nodes[0]))
				c.Network.HealAll()
				require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
			})
		})
	}
}

// When two sides meet one sees the other first, and asks owners who take what
// they hold for good. Nobody reads anything older than what was acknowledged on
// its own side.
func TestReadsWhenSidesMeetAreNotOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 5)
		all := caches(t, c, peercache.Options[string]{})
		owned := keysOf(c, 20, 0)
		keys, deleted := owned[:10:10], owned[10:]
		for _, key := range owned {
			require.NoError(t, all[1].Set(ctx, key, "before"))
		}
		for range 5 {
			for i := 1; i < 5; i++ {
				c.Network.Cut(c.Host(0), c.Host(i))
			}
			waitTables(c, deathKnown, c.Nodes[1:]...)
			for _, key := range keys {
				require.NoError(t, all[1].Set(ctx, key, "after"))
			}
			require.NoError(t, all[1].Delete(ctx, deleted...))
			c.Network.HealAll()
			for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(time.Millisecond) {
				for i, cache := range all[1:] {
					v, ok, err := cache.Lookup(ctx, keys[i])
					require.NoError(t, err)
					require.Equal(t, "after", v, "%s at node %d, %v after the heal: %t", keys[i], i+1, time.Since(began), ok)
					v, ok, err = cache.Lookup(ctx, deleted[i])
					require.NoError(t, err)
					require.False(t, ok, "%s is %q at node %d, %v after the heal", deleted[i], v, i+1, time.Since(began))
				}
				keys, deleted = append(keys[1:], keys[0]), append(deleted[1:], deleted[0])
			}
			c.WaitAgree()
			for _, key := range owned {
				require.NoError(t, all[1].Set(ctx, key, "before"))
			}
		}
	})
}
