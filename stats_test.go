package peercache_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) { cfg.MaxBytes = int64(i+1) << 20 })
		time.Sleep(20 * time.Second) // a round of seeds, with all there
		owned, primary := 0, 0
		for i, n := range c.Nodes {
			s := n.Stats()
			require.Equal(t, peercache.MemberActive, s.State)
			require.Equal(t, int64(i+1)<<20, s.MaxBytes)
			require.Equal(t, c.Nodes[0].Stats().TableDigest, s.TableDigest)
			require.Equal(t, peercache.ShardCount, s.Shards)
			require.Equal(t, s.ShardsOwned, s.ShardsFilled)
			owned, primary = owned+s.ShardsOwned, primary+s.ShardsPrimary
			require.NotZero(t, s.Views)
			require.False(t, s.LastViewChange.Before(began))
			require.False(t, s.ClockOff)
			require.Zero(t, s.Pauses)
			require.Zero(t, s.Refused)
			require.Zero(t, s.EventsDropped)
			require.NoError(t, s.DiscoverErr)
			require.NoError(t, s.AnnounceErr)

			require.Len(t, s.Seeds, 3, "its own address included")
			for _, seed := range s.Seeds {
				require.NoError(t, seed.Err)
				require.False(t, seed.LastContact.Before(began))
			}
			require.Len(t, s.Peers, 2)
			for _, p := range s.Peers {
				require.NotEqual(t, n.Self().Incarnation, p.Incarnation)
				require.Contains(t, n.Members(), p.Member)
			}
		}
		require.Equal(t, 2*peercache.ShardCount, owned)
		require.Equal(t, peercache.ShardCount, primary)

		require.NoError(t, c.Nodes[0].AskView(t.Context(), c.Nodes[1].Self()))
		time.Sleep(10 * time.Second)
		for _, p := range c.Nodes[0].Stats().Peers {
			require.Equal(t, p.Incarnation == c.Nodes[1].Self().Incarnation, p.Connected, "for calls")
			require.NoError(t, p.Err)
			require.WithinDuration(t, time.Now(), p.LastHeard, 10*time.Second)
			require.Positive(t, p.BytesOut)
		}

		// A peer that is gone is no peer any more; before that it has an error.
		c.Kill(1)
		eventually(t, "the peer's error is known", func() bool {
			for _, p := range c.Nodes[0].Stats().Peers {
				if p.Err != nil {
					require.Equal(t, "node-1", p.Name)
					require.ErrorContains(t, p.Err, "connection refused")
					return true
				}
			}
			return false
		})
		c.WaitAgree()
		require.Len(t, c.Nodes[0].Stats().Peers, 1)
		require.Greater(t, c.Nodes[0].Stats().Views, uint64(2))
	})
}

// What a node hands out is the caller's.
func TestSlicesAreTheCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		n := c.Nodes[0]
		members, owners, stats := n.Members(), n.Owners("users", "42"), n.Stats()
		wreck := func(m []peercache.Member) {
			for i := range m {
				m[i] = peercache.Member{Name: "wrecked"}
			}
			_ = append(m[:0], peercache.Member{Name: "wrecked"})
		}
		wreck(n.Members())
		wreck(n.Owners("users", "42"))
		s := n.Stats()
		for i := range s.Seeds {
			s.Seeds[i] = peercache.SeedStats{Addr: "wrecked"}
		}
		for i := range s.Peers {
			s.Peers[i] = peercache.PeerStats{}
		}
		require.Equal(t, members, n.Members())
		require.Equal(t, owners, n.Owners("users", "42"))
		require.Equal(t, stats.Seeds, n.Stats().Seeds)
		require.Len(t, n.Stats().Peers, 2)
		for _, p := range n.Stats().Peers {
			require.NotZero(t, p.Incarnation)
		}
		require.Zero(t, c.WaitAgree())
	})
}

func TestMethodsAfterClose(t *testing.T) {
	for is, end := range map[string]func(*peercache.Node) error{
		"Close":    (*peercache.Node).Close,
		"Shutdown": func(n *peercache.Node) error { return n.Shutdown(context.Background()) },
	} {
		t.Run(is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 2)
				client := c.StartClient()
				mounted := startNode(t, from(c.Network, "10.1.0.1:80", peercache.Config{Join: []string{c.Addr(1)}}))
				for _, n := range []*peercache.Node{c.Nodes[0], client, mounted, startNode(t, peercache.Config{})} {
					addr := n.Addr()
					waiting := make(chan error, 1)
					if n == mounted {
						go func() { waiting <- n.WaitReady(context.Background()) }()
						synctest.Wait()
					}
					require.NoError(t, end(n))
					if n == mounted {
						require.ErrorIs(t, <-waiting, peercache.ErrClosed, "who waits is told")
					}
					for range 2 {
						require.NoError(t, n.Close())
						require.NoError(t, n.Shutdown(context.Background()))
					}
					require.ErrorIs(t, n.WaitReady(context.Background()), peercache.ErrClosed)
					require.ErrorIs(t, n.SetMaxBytes(1<<20), peercache.ErrClosed)
					n.Rediscover()
					require.Equal(t, addr, n.Addr())
					require.NotZero(t, n.Self().Incarnation)
					n.Members()
					n.Owners("users", "42")
					n.Stats()
					code := http.StatusServiceUnavailable
					if n.Addr() == "" {
						code = http.StatusNotFound
					}
					require.Equal(t, code, get(n, "/_peercache/v1/connect", upgradeHeader).Code)
					require.ErrorIs(t, n.AskView(t.Context(), c.Nodes[1].Self()), peercache.ErrClosed)
				}
			})
		})
	}
}

func TestShutdownWithAContextThatEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		began := time.Now()
		require.ErrorIs(t, c.Nodes[0].Shutdown(ended), context.Canceled)
		require.Less(t, time.Since(began), time.Millisecond, "of virtual time")
		require.ErrorIs(t, c.Nodes[0].WaitReady(t.Context()), peercache.ErrClosed, "it is closed all the same")
		require.NoError(t, c.Nodes[0].Shutdown(t.Context()), "the second time there is nothing to do")
	})
}

// A node that leaves while nobody can be told is no error of the caller's.
func TestShutdownOfTheLastThatIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		c.Network.Partition(c.Hosts(0), c.Hosts(1, 2))
		require.NoError(t, c.Nodes[0].Shutdown(t.Context()))
	})
}
