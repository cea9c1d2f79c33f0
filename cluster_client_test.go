package peercache_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// clientKnown is how soon a client has heard of what its member knows; a
// client whose member fell silent takes silentKnown to find another one.
const (
	clientKnown = 500 * time.Millisecond
	silentKnown = 10 * time.Second
)

// waitFollows waits until the client sees the cluster as its members do.
func waitFollows(c *peercachetest.Cluster, client *peercache.Node, within time.Duration) {
	c.WaitFor("the client sees what the members see", within, func() bool {
		digest := c.Running()[0].Stats().TableDigest
		return client.Stats().TableDigest == digest && len(client.Members()) == len(c.Running())
	})
}

func TestClientSeesTheClusterAndIsNoPartOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		client := c.StartClient()
		require.NoError(t, client.WaitReady(context.Background()))
		require.Equal(t, c.Nodes[0].Members(), client.Members())
		for i := range 100 {
			key := strconv.Itoa(i)
			require.Equal(t, c.Nodes[0].Owners("users", key), client.Owners("users", key))
		}
		require.Empty(t, client.Addr())
		require.Equal(t, peercache.MemberJoining, client.Self().State)
		stats := client.Stats()
		require.Zero(t, stats.ShardsOwned)
		require.Equal(t, c.Nodes[0].Stats().TableDigest, stats.TableDigest)
		require.Len(t, stats.Peers, 3)

		time.Sleep(time.Minute)
		require.Zero(t, c.WaitAgree(), "nobody lists it")
		require.NoError(t, client.Close())
		require.Zero(t, c.WaitAgree())
		require.Empty(t, client.Self().Addr)
	})
}

func TestClientFollowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		client := c.StartClient()
		for range 3 {
			c.Start(len(c.Nodes))
			c.WaitAgree()
			waitFollows(c, client, clientKnown)
		}
		for i := range 3 {
			c.Kill(i)
			c.WaitAgree()
			waitFollows(c, client, clientKnown)
		}
		c.Shutdown(3)
		c.WaitAgree()
		waitFollows(c, client, clientKnown)
		c.Restart(4)
		c.WaitAgree()
		waitFollows(c, client, clientKnown)
	})
}

func TestClientSurvivesTheSilenceOfItsMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 4)
		client := c.StartClient()
		for i := range 3 {
			c.Vanish(i)
			c.WaitAgree()
			waitFollows(c, client, silentKnown)
		}
		c.Start(0)
		c.WaitAgree()
		waitFollows(c, client, clientKnown)
		c.Pause(3)
		time.Sleep(10 * time.Second)
		require.Len(t, client.Members(), 1)
		c.Resume(3)
		c.WaitAgree()
		waitFollows(c, client, silentKnown)
	})
}

func TestClientSurvivesTheDeathOfAllMembers(t *testing.T) {
	for name, end := range map[string]func(*peercachetest.Cluster, int){
		"killed": (*peercachetest.Cluster).Kill, "vanished": (*peercachetest.Cluster).Vanish, "shut down": (*peercachetest.Cluster).Shutdown,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				client := c.StartClient()
				for i := range c.Nodes {
					end(c, i)
				}
				time.Sleep(time.Minute)
				require.Empty(t, client.Members(), "nobody whom it knew answers")
				c.StartTogether(0, 1, 2)
				c.WaitAgree()
				waitFollows(c, client, seedsRound)
			})
		})
	}
}

func TestClientThatIsThereFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0)
		client := c.StartClient(func(cfg *peercache.Config) {
			cfg.Discover = func(context.Context) ([]string, error) { return []string{c.Addr(1)}, nil }
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.ErrorIs(t, client.WaitReady(ctx), context.DeadlineExceeded)
		require.Empty(t, client.Members())
		require.Empty(t, client.Owners("users", "42"))

		c.StartTogether(0, 1)
		c.WaitAgree()
		waitFollows(c, client, seedsRound)
		require.NoError(t, client.WaitReady(context.Background()))
	})
}

func TestClientCutOffFromItsMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		client := c.StartClient(func(cfg *peercache.Config) { cfg.DialContext = c.Network.Host("10.254.0.1").DialContext })
		for i := range 2 {
			c.Network.Cut("10.254.0.1", c.Host(i))
			c.Start(len(c.Nodes))
			c.WaitAgree()
			waitFollows(c, client, silentKnown)
			c.Network.HealAll()
		}
	})
}

func TestTwoClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		a, b := c.StartClient(), c.StartClient()
		c.Restart(0)
		c.WaitAgree()
		waitFollows(c, a, silentKnown)
		waitFollows(c, b, silentKnown)
	})
}
