package peercache_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// deafness makes connections that were written to while their link was cut deaf
// for good: what is written from then on is taken, and does not arrive. TCP does
// that for about as long again as the cut has lasted.
type deafness struct {
	mu   sync.Mutex
	cut  bool
	last time.Time // when something was last written that did not arrive
}

func (d *deafness) set(cut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = cut
}

func (d *deafness) lastLost() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

// dialer makes the connections of a node, of which those to some addresses cross
// the cut.
func (d *deafness) dialer(dial func(context.Context, string, string) (net.Conn, error), crosses func(addr string) bool) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || !crosses(addr) {
			return conn, err
		}
		return &deafConn{Conn: conn, d: d}, nil
	}
}

type deafConn struct {
	net.Conn
	d    *deafness
	deaf bool // guarded by d.mu
}

func (c *deafConn) Write(b []byte) (int, error) {
	c.d.mu.Lock()
	c.deaf = c.deaf || c.d.cut
	deaf := c.deaf
	if deaf {
		c.d.last = time.Now()
	}
	c.d.mu.Unlock()
	if deaf {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// newDeafCluster is a cluster in which nodes below few may be cut off.
func newDeafCluster(t *testing.T, n, few int) (c *peercachetest.Cluster, cut, heal func()) {
	d := &deafness{}
	nodes := make(map[string]bool) // addresses of the few
	c = peercachetest.NewCluster(t, 0)
	for i := range few {
		nodes[c.Addr(i)] = true
	}
	c = peercachetest.NewCluster(t, n, func(i int, cfg *peercache.Config) {
		cfg.DialContext = d.dialer(cfg.DialContext, func(addr string) bool { return nodes[addr] != (i < few) })
	})
	var sides [2][]string
	for i := range n {
		k := 0
		if i >= few {
			k = 1
		}
		sides[k] = append(sides[k], c.Host(i))
	}
	cut = func() {
		d.set(true)
		c.Network.Partition(sides[0], sides[1])
	}
	heal = func() {
		d.set(false)
		c.Network.HealAll()
		healed := time.Now()
		// All is one again soon, and nobody uses a deaf connection any more.
		require.LessOrEqual(t, c.WaitAgree(), 4*time.Second)
		time.Sleep(10 * time.Second)
		require.Zero(t, c.WaitAgree())
		require.LessOrEqual(t, d.lastLost().Sub(healed), 2500*time.Millisecond)
	}
	return c, cut, heal
}

// Connections that a cut has caught are of no use for long after the link is
// whole again.
func TestNoConnectionIsDeafForLong(t *testing.T) {
	for _, n := range []int{2, 5} {
		for _, lasts := range []time.Duration{time.Second, 1900 * time.Millisecond, 3 * time.Second, 20 * time.Second, time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				_, cut, heal := newDeafCluster(t, n, 1)
				cut()
				time.Sleep(lasts)
				heal()
			})
		}
	}
}

// Members whose own link is whole do not drop each other in any of several
// splits.
func TestSplitsOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, cut, heal := newDeafCluster(t, 5, 2)
		for _, lasts := range []time.Duration{5, 60, 5, 30, 5, 120, 10} {
			cut()
			for end := time.Now().Add(lasts * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				for _, side := range [][]*peercache.Node{c.Nodes[:2], c.Nodes[2:]} {
					for _, n := range side {
						for _, other := range side {
							require.Contains(t, incarnationsIn(n), other.Self().Incarnation)
						}
					}
				}
			}
			heal()
		}
	})
}

func incarnationsIn(n *peercache.Node) (all []uint64) {
	for _, m := range n.Members() {
		all = append(all, m.Incarnation)
	}
	return all
}

// All but one are killed and started again, and do not know that one: it finds
// them.
func TestAllButOneAreStartedAgain(t *testing.T) {
	for name, gap := range map[string]time.Duration{
		"at once": 0, "one by one": 300 * time.Millisecond, "later": 5 * time.Second, "much later": 90 * time.Second,
	} {
		for _, n := range []int{2, 5, 12} {
			if n > 5 && (gap != 0 || testing.Short()) {
				continue
			}
			t.Run(fmt.Sprint(name, ", ", n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var survivor string
					c := peercachetest.NewCluster(t, n, func(_ int, cfg *peercache.Config) {
						var seeds []string
						for _, addr := range cfg.Join {
							if addr != survivor {
								seeds = append(seeds, addr)
							}
						}
						cfg.Join = seeds
					})
					time.Sleep(15 * time.Second) // the next round of seeds may be far away
					survivor = c.Addr(n - 1)
					for i := range n - 1 {
						c.Kill(i)
					}
					killed := time.Now()
					if gap == 0 {
						numbers := make([]int, n-1)
						for i := range numbers {
							numbers[i] = i
						}
						c.StartTogether(numbers...)
					} else {
						for i := range n - 1 {
							if gap > time.Second && i == 0 {
								c.WaitAgreeAmong(c.Nodes[n-1])
								require.LessOrEqual(t, time.Since(killed), deathKnown)
								time.Sleep(gap)
							}
							c.Start(i)
							time.Sleep(min(gap, 300*time.Millisecond))
						}
					}
					started := time.Now()
					c.WaitAgree()
					require.LessOrEqual(t, time.Since(started), 1500*time.Millisecond)
				})
			})
		}
	}
}

// As for the survivor, so for those who vanished.
func TestAllButOneVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 12
		c := peercachetest.NewCluster(t, n)
		time.Sleep(15 * time.Second)
		for i := range n - 1 {
			c.Vanish(i)
		}
		waitTables(c, deathKnown, c.Nodes[n-1])
	})
}
