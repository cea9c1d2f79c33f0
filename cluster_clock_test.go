package peercache_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// clockKnown is how soon a clock that is off, or right again, shows in every
// table of a small cluster.
const clockKnown = 3 * time.Second

// tablesOf waits until the tables of all nodes that run are over exactly the
// named members, and equal.
func tablesOf(c *peercachetest.Cluster, within time.Duration, want ...string) {
	c.WaitFor("tables over these members", within, func() bool {
		digest := c.Running()[0].Stats().TableDigest
		for _, n := range c.Running() {
			if n.Stats().TableDigest != digest || !slices.Equal(names(n), want) {
				return false
			}
		}
		return true
	})
}

func setClock(c *peercachetest.Cluster, i int, ahead time.Duration) {
	c.Network.Host(c.Host(i)).SetSkew(ahead)
}

func TestClockALittleOffIsNoMatter(t *testing.T) {
	for _, off := range []time.Duration{400 * time.Millisecond, -400 * time.Millisecond} {
		t.Run(off.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				setClock(c, 1, off)
				time.Sleep(time.Minute)
				require.Zero(t, c.WaitAgree())
				require.False(t, c.Nodes[1].Stats().ClockOff)
				c.Restart(1)
				waitTables(c, deathKnown, c.Running()...)
				require.False(t, c.Nodes[1].Stats().ClockOff)
			})
		})
	}
}

func TestClockFarOffKeepsANodeOutOfEveryTable(t *testing.T) {
	for _, off := range []time.Duration{700 * time.Millisecond, -700 * time.Millisecond, time.Hour, -time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				n := c.Nodes[1]
				setClock(c, 1, off)
				tablesOf(c, clockKnown, "node-0", "node-2")
				require.True(t, n.Stats().ClockOff)
				require.Zero(t, n.Stats().ShardsOwned)
				require.Len(t, c.Nodes[0].Members(), 3, "it is a member all the same")
				ended, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				require.ErrorIs(t, n.WaitReady(ended), context.DeadlineExceeded)

				time.Sleep(time.Minute)
				tablesOf(c, 0, "node-0", "node-2")
				for _, i := range []int{0, 2} {
					require.False(t, c.Nodes[i].Stats().ClockOff)
				}

				setClock(c, 1, max(min(off, 450*time.Millisecond), -450*time.Millisecond))
				time.Sleep(time.Minute)
				tablesOf(c, 0, "node-0", "node-2") // a little more right than it was wrong
				setClock(c, 1, 0)
				require.LessOrEqual(t, c.WaitAgree(), clockKnown)
				require.False(t, n.Stats().ClockOff)
			})
		})
	}
}

func TestNodeThatStartsWithItsClockOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		c := peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) {
			if i == 0 {
				cfg.Events = d.events()
			}
		})
		d.read()
		setClock(c, 2, 700*time.Millisecond)
		c.Start(2)
		tablesOf(c, clockKnown, "node-0", "node-1")
		require.NotContains(t, d.read(), "table changed", "it was never in a table")
		setClock(c, 2, 0)
		require.LessOrEqual(t, c.WaitAgree(), clockKnown)
	})
}

func TestOfTwoClocksApartTheFasterIsOut(t *testing.T) {
	for _, ahead := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			c := peercachetest.NewCluster(t, 2)
			setClock(c, ahead, 700*time.Millisecond)
			in := []string{"node-1", "node-0"}[ahead]
			tablesOf(c, clockKnown, in)
			time.Sleep(time.Minute)
			tablesOf(c, 0, in)
			require.True(t, c.Nodes[ahead].Stats().ClockOff)
			require.False(t, c.Nodes[1-ahead].Stats().ClockOff)
		})
	}
}

func TestNodeWithItsClockOffIsRightWhenItIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		setClock(c, 1, 700*time.Millisecond)
		tablesOf(c, clockKnown, "node-0", "node-2")
		c.Kill(0)
		tablesOf(c, deathKnown, "node-2")
		c.Kill(2)
		waitTables(c, deathKnown, c.Running()...)
		require.False(t, c.Nodes[1].Stats().ClockOff, "there is no other clock")
	})
}

func TestMajorityOfClocksIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 5)
		for i := range 3 {
			setClock(c, i, 700*time.Millisecond)
		}
		tablesOf(c, clockKnown, "node-0", "node-1", "node-2")
		time.Sleep(time.Minute)
		tablesOf(c, 0, "node-0", "node-1", "node-2")
	})
}

func TestClockOffsetsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		setClock(c, 1, 123*time.Millisecond)
		time.Sleep(5 * time.Second)
		require.Equal(t, 123*time.Millisecond, c.Nodes[0].Stats().Peers[0].ClockOffset)
		require.Equal(t, -123*time.Millisecond, c.Nodes[1].Stats().Peers[0].ClockOffset)
	})
}
