package peercache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// watchAddrs fails the test if within d any node that runs ever lists two
// members of one address.
func watchAddrs(t *testing.T, c *peercachetest.Cluster, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Millisecond) {
		synctest.Wait()
		for _, n := range c.Running() {
			addrs := make(map[string]peercache.Member)
			for _, m := range n.Members() {
				other, twice := addrs[m.Addr]
				require.False(t, twice, "%s lists %v and %v", n.Self(), m, other)
				addrs[m.Addr] = m
			}
		}
	}
}

func TestRestartedNodeReplacesItself(t *testing.T) {
	ends := map[string]func(*testing.T, *peercachetest.Cluster, int){
		"killed":    func(_ *testing.T, c *peercachetest.Cluster, i int) { c.Kill(i) },
		"closed":    func(t *testing.T, c *peercachetest.Cluster, i int) { require.NoError(t, c.Nodes[i].Close()) },
		"shut down": func(_ *testing.T, c *peercachetest.Cluster, i int) { c.Shutdown(i) },
		"vanished":  func(_ *testing.T, c *peercachetest.Cluster, i int) { c.Vanish(i) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				old := c.Nodes[1].Self()
				end(t, c, 1)
				c.Start(1)
				is := c.Nodes[1].Self()
				require.Equal(t, old.Name, is.Name)
				require.Equal(t, old.Addr, is.Addr)
				require.Greater(t, is.Incarnation, old.Incarnation)

				watchAddrs(t, c, time.Second)
				require.Zero(t, c.WaitAgree())
				time.Sleep(time.Minute)
				require.Zero(t, c.WaitAgree(), "the old one does not come back")
			})
		})
	}
}

func TestRestartOfTheOnlyOtherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		for range 5 {
			c.Restart(1)
			require.LessOrEqual(t, c.WaitAgree(), joinKnown)
			time.Sleep(deathKnown)
		}
	})
}

// One that crashes faster than its earlier incarnations are found dead makes
// gossip late: most of it goes to them. Heartbeats then show who sees other
// tables, and is to be told the rest.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		for range 10 {
			c.Restart(1)
			time.Sleep(50 * time.Millisecond)
		}
		require.LessOrEqual(t, c.WaitAgree(), 3*time.Second)
	})
}

func TestRestartUnderAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) { cfg.Name = "same" })
		c.Kill(2)
		c.Start(3)
		waitTables(c, deathKnown, c.Running()...)
	})
}

// A clock that was set back makes the later start look like the earlier one.
// Then it takes until the old incarnation is found dead.
func TestRestartWithClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		c.Kill(1)
		c.Network.Host(c.Host(1)).SetSkew(-300 * time.Millisecond)
		c.Start(1)
		waitTables(c, deathKnown, c.Running()...)
	})
}

func TestRollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 5)
		for i := range c.Nodes {
			c.Shutdown(i)
			require.LessOrEqual(t, c.WaitAgree(), leftKnown)
			c.Start(i)
			require.LessOrEqual(t, c.WaitAgree(), joinKnown)
		}
	})
}

func TestRollingRestartThatDoesNotWait(t *testing.T) {
	ends := map[string]func(*peercachetest.Cluster, int){
		"shut down": (*peercachetest.Cluster).Shutdown,
		"killed":    (*peercachetest.Cluster).Kill,
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 5)
				for i := range c.Nodes {
					end(c, i)
					c.Start(i)
				}
				watchAddrs(t, c, joinKnown)
				require.Zero(t, c.WaitAgree())
			})
		})
	}
}
