package peercache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/peercachetest"
)

// Gossip counts a packet that fails as a sign of death, so one may fail only
// where it is proven that the member is not there.
func TestPacketFailsOnlyWhenTheMemberIsGone(t *testing.T) {
	const long = 10 * time.Second // for many attempts to connect
	tests := map[string]struct {
		strike func(c *peercachetest.Cluster)
		gone   bool
	}{
		"nothing":  {func(*peercachetest.Cluster) {}, false},
		"killed":   {func(c *peercachetest.Cluster) { c.Kill(1) }, true},
		"replaced": {func(c *peercachetest.Cluster) { c.Restart(1) }, true},
		"vanished": {func(c *peercachetest.Cluster) { c.Vanish(1) }, false},
		"frozen":   {func(c *peercachetest.Cluster) { c.Pause(1) }, false},
		"cut off":  {func(c *peercachetest.Cluster) { c.Network.Cut(c.Host(0), c.Host(1)) }, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 2)
				n, other := c.Nodes[0], c.Nodes[1].Self()
				test.strike(c)
				resetLinks(c, []int{0}, []int{1}) // only new connections count
				failed := false
				for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					failed = failed || n.SendPacket(other) != nil
				}
				require.Equal(t, test.gone, failed)
			})
		})
	}
}

// Whoever waits for a member's answer learns that the member was declared dead.
func TestCallToASilentMemberEndsWithItsDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		asker, silent := c.Nodes[0], c.Nodes[1].Self()
		require.NoError(t, asker.AskView(context.Background(), silent))
		c.Vanish(1)
		began := time.Now()
		require.Error(t, asker.AskView(context.Background(), silent))
		require.LessOrEqual(t, time.Since(began), deathKnown)
	})
}

// What a node keeps of those who are gone has an end.
func TestDeadIncarnationsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		for range 10 {
			c.Restart(1)
			time.Sleep(5 * time.Second)
		}
		require.Greater(t, c.Nodes[0].PeerCount(), 1)
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1, c.Nodes[0].PeerCount())
	})
}
