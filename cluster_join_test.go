package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// seeds gives node i the Join that it has in the map, and no other.
func seeds(join map[int][]string) func(int, *peercache.Config) {
	return func(i int, c *peercache.Config) { c.Join = join[i] }
}

// seed returns what a node says of one of its seeds.
func seed(t *testing.T, n *peercache.Node, addr string) peercache.SeedStats {
	t.Helper()
	for _, s := range n.Stats().Seeds {
		if s.Addr == addr {
			return s
		}
	}
	require.Fail(t, "not a seed", addr)
	return peercache.SeedStats{}
}

func TestSeedThatIsThereLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0, seeds(map[int][]string{1: {"10.0.0.1:7600"}}))
		require.Equal(t, "10.0.0.1:7600", c.Addr(0))

		early := c.Start(1)
		require.Zero(t, c.WaitAgree(), "alone it is active when Start returns")
		s := seed(t, early, c.Addr(0))
		require.ErrorIs(t, s.Err, syscall.ECONNREFUSED)
		require.Zero(t, s.LastContact)

		time.Sleep(time.Minute)
		c.Start(0) // it knows nobody and waits to be found
		require.LessOrEqual(t, c.WaitAgree(), seedsRound)
		s = seed(t, early, c.Addr(0))
		require.NoError(t, s.Err)
		require.WithinDuration(t, time.Now(), s.LastContact, time.Second)
	})
}

func TestSeedThatHangsAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		c.Network.Cut(c.Host(0), c.Host(1))
		began := time.Now()
		late := c.Start(1)
		require.Equal(t, 2*time.Second, time.Since(began), "what Start waits for one address")
		c.WaitAgreeAmong(late)
		require.ErrorIs(t, seed(t, late, c.Addr(0)).Err, context.DeadlineExceeded)

		c.Network.HealAll()
		require.LessOrEqual(t, c.WaitAgree(), time.Second, "who knows nobody asks again soon")
	})
}

func TestWaitReadyWaitsForTheFirstRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		defer nw.Close()
		nw.Host("10.0.0.2").Vanish()
		listener, err := nw.Listen("10.0.0.1:7600")
		require.NoError(t, err)
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		n, err := peercache.Start(ctx, peercache.Config{
			Listener: listener, Join: []string{"10.0.0.2:7600"}, DialContext: nw.Host("10.0.0.1").DialContext,
		})
		require.NoError(t, err)
		defer n.Close()
		require.Equal(t, 100*time.Millisecond, time.Since(began), "ctx bounds Start and nothing else")
		require.ErrorIs(t, n.WaitReady(ctx), context.DeadlineExceeded)
		require.NoError(t, n.WaitReady(context.Background()))
		require.Equal(t, 2*time.Second, time.Since(began))
		require.Equal(t, peercache.MemberActive, n.Self().State)
	})
}

func TestStartWaitsForManyHangingSeedsNoLongerThanOneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0, func(_ int, cfg *peercache.Config) {
			cfg.Join = nil
			for i := range 200 {
				cfg.Join = append(cfg.Join, fmt.Sprintf("10.9.0.%d:7600", i+1))
			}
		})
		for i := range 200 {
			c.Network.Host(fmt.Sprintf("10.9.0.%d", i+1)).Vanish()
		}
		began := time.Now()
		c.Start(0)
		require.Equal(t, 5*time.Second, time.Since(began))
		require.Zero(t, c.WaitAgree())
	})
}

func TestDiscoverFailsThenErrsThenIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errDiscover := errors.New("the registry is down")
		var phase atomic.Int32
		var c *peercachetest.Cluster
		c = peercachetest.NewCluster(t, 1, func(i int, cfg *peercache.Config) {
			cfg.Join = nil
			if i == 0 {
				return
			}
			cfg.Discover = func(context.Context) ([]string, error) {
				switch phase.Load() {
				case 0:
					return nil, errDiscover
				case 1:
					return []string{"10.0.9.9:7600"}, nil
				default:
					return []string{c.Addr(0)}, nil
				}
			}
		})
		late := c.Start(1)
		c.WaitAgreeAmong(late)
		require.ErrorIs(t, late.Stats().DiscoverErr, errDiscover)
		require.Empty(t, late.Stats().Seeds)

		phase.Store(1)
		time.Sleep(seedsRound)
		require.NoError(t, late.Stats().DiscoverErr)
		require.ErrorIs(t, seed(t, late, "10.0.9.9:7600").Err, syscall.ECONNREFUSED)
		require.Len(t, late.Members(), 1)

		phase.Store(2)
		require.LessOrEqual(t, c.WaitAgree(), seedsRound)

		phase.Store(0)
		time.Sleep(2 * seedsRound)
		require.Error(t, late.Stats().DiscoverErr)
		require.Equal(t, c.Addr(0), late.Stats().Seeds[0].Addr, "an error keeps what it said before")
		require.NoError(t, late.Stats().Seeds[0].Err)
	})
}

func TestDiscoverThatPanicsOrHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var phase atomic.Int32
		c := peercachetest.NewCluster(t, 1, func(i int, cfg *peercache.Config) {
			if i == 0 {
				return
			}
			join := cfg.Join
			cfg.Join = nil
			cfg.Discover = func(ctx context.Context) ([]string, error) {
				switch phase.Load() {
				case 0:
					panic("of the user's")
				case 1:
					time.Sleep(time.Hour) // does not look at ctx
				}
				return join, nil
			}
		})
		late := c.Start(1)
		c.WaitAgreeAmong(late)
		require.ErrorContains(t, late.Stats().DiscoverErr, "of the user's")

		c.Kill(1)
		phase.Store(1)
		began := time.Now()
		late = c.Start(1)
		require.LessOrEqual(t, time.Since(began), 5*time.Second, "Start returns")
		c.WaitAgreeAmong(late)
		require.ErrorIs(t, late.Stats().DiscoverErr, context.DeadlineExceeded)

		phase.Store(2)
		time.Sleep(time.Hour)
		c.WaitAgree()
	})
}

func TestNodesWithDiscoverOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) {
			join := cfg.Join
			cfg.Join = nil
			cfg.Discover = func(context.Context) ([]string, error) { return join, nil }
		})
		c.Kill(1)
		c.WaitAgree()
		c.Start(1)
		require.LessOrEqual(t, c.WaitAgree(), joinKnown)
	})
}

func TestSeedNameThatMeansNothingAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "cache.test:7600"
		c := peercachetest.NewCluster(t, 0, func(_ int, cfg *peercache.Config) { cfg.Join = []string{name} })
		c.StartTogether(0, 1, 2)
		for _, n := range c.Nodes {
			c.WaitAgreeAmong(n)
			var unknown *net.DNSError
			require.ErrorAs(t, seed(t, n, name).Err, &unknown)
		}

		c.Network.SetName("cache.test", c.Hosts(0)...)
		require.LessOrEqual(t, c.WaitAgree(), 3*time.Second, "node 0 is in the name, so the others find it")
		c.Network.SetName("cache.test", c.Hosts(0, 1, 2)...)
		time.Sleep(seedsRound)
		for _, n := range c.Nodes {
			require.NoError(t, seed(t, n, name).Err)
		}

		c.Network.SetName("cache.test")
		time.Sleep(seedsRound)
		require.Error(t, seed(t, c.Nodes[0], name).Err)
		require.Zero(t, c.WaitAgree(), "members are not lost with the name")
	})
}

func TestSeedNameMeansAllItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const name = "cache.test:7600"
		c := peercachetest.NewCluster(t, 0, func(i int, cfg *peercache.Config) {
			cfg.Join = nil
			if i == 3 {
				cfg.Join = []string{name}
			}
		})
		// Three that do not know each other, and addresses where nobody is.
		c.StartTogether(0, 1, 2)
		c.Network.Host("10.9.0.2").Vanish()
		c.Network.SetName("cache.test", append(c.Hosts(0, 1, 2), "10.9.0.1", "10.9.0.2")...)
		c.Start(3)
		require.LessOrEqual(t, c.WaitAgree(), joinKnown, "the fourth has made them one cluster")
		require.NoError(t, seed(t, c.Nodes[3], name).Err, "one that answers is enough")
	})
}

func TestNodesStartedAtTheSameMoment(t *testing.T) {
	for _, n := range []int{2, 5} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 0)
				c.StartTogether(upTo(n)...)
				require.LessOrEqual(t, c.WaitAgree(), joinKnown)
			})
		})
	}
}

func TestSeedErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const refuses, hangs, bad = "10.9.0.1:7600", "10.9.0.2:7600", "10.9.0.3"
		c := peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) {
			if i == 0 {
				cfg.Join = []string{"10.0.0.1:7600", "10.0.0.2:7600", refuses, hangs}
				cfg.Discover = func(context.Context) ([]string, error) { return []string{bad, refuses}, nil }
			}
		})
		c.Network.Host("10.9.0.2").Vanish()
		n := c.Nodes[0]
		n.Rediscover()
		time.Sleep(3 * time.Second)
		var addrs []string
		for _, s := range n.Stats().Seeds {
			addrs = append(addrs, s.Addr)
		}
		require.Equal(t, []string{"10.0.0.1:7600", "10.0.0.2:7600", refuses, hangs, bad}, addrs, "each once, in order")
		require.NoError(t, seed(t, n, c.Addr(0)).Err, "this node itself is no error")
		require.NoError(t, seed(t, n, c.Addr(1)).Err)
		require.ErrorIs(t, seed(t, n, refuses).Err, syscall.ECONNREFUSED)
		require.ErrorIs(t, seed(t, n, hangs).Err, context.DeadlineExceeded)
		require.ErrorContains(t, seed(t, n, bad).Err, "missing port")
		for _, s := range n.Stats().Seeds {
			require.Equal(t, s.Err != nil, s.LastContact.IsZero(), s.Addr)
		}

		met := seed(t, n, c.Addr(1)).LastContact
		require.NotZero(t, met)
		c.Kill(1)
		c.WaitAgree()
		time.Sleep(seedsRound + 3*time.Second)
		gone := seed(t, n, c.Addr(1))
		require.ErrorIs(t, gone.Err, syscall.ECONNREFUSED)
		require.False(t, gone.LastContact.Before(met), "when it was last there is kept")
	})
}

// A node that meets itself under an address that it does not announce has met
// no stranger.
func TestOwnAddressUnderAnotherName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0, func(_ int, cfg *peercache.Config) { cfg.Advertise = "node.test:7600" })
		c.Network.SetName("node.test", c.Host(0))
		n := c.Start(0)
		c.WaitAgree()
		require.Equal(t, "node.test:7600", n.Addr())
		require.NoError(t, seed(t, n, c.Addr(0)).Err)
	})
}

func TestRediscoverAsksAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0, seeds(map[int][]string{1: {"10.0.0.1:7600"}}))
		early := c.Start(1)
		time.Sleep(time.Hour)
		c.Start(0)
		early.Rediscover()
		require.LessOrEqual(t, c.WaitAgree(), 500*time.Millisecond)
	})
}
