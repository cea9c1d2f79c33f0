package peercache_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/peercachetest"
)

// Gossip counts a packet that fails as a sign of death, so one may fail only
// where it is proven that the member is not there.
func TestPacketFailsOnlyWhenTheMemberIsGone(t *testing.T) {
	const long = 10 * time.Second // many attempts to connect
	tests := map[string]struct {
		end  func(c *peercachetest.Cluster)
		want bool
	}{
		"lives":          {func(*peercachetest.Cluster) {}, false},
		"killed":         {func(c *peercachetest.Cluster) { c.Kill(1) }, true},
		"replaced":       {func(c *peercachetest.Cluster) { c.Restart(1) }, true},
		"vanished":       {func(c *peercachetest.Cluster) { c.Vanish(1) }, false},
		"frozen":         {func(c *peercachetest.Cluster) { c.Pause(1) }, false},
		"cut off":        {func(c *peercachetest.Cluster) { c.Network.Cut(c.Host(0), c.Host(1)) }, false},
		"connection cut": {func(c *peercachetest.Cluster) { c.Network.Reset(c.Host(0), c.Host(1)) }, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 2)
				n, other := c.Nodes[0], c.Nodes[1].Self()
				test.end(c)
				failed := false
				for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
					failed = failed || n.SendPacket(other) != nil
				}
				require.Equal(t, test.want, failed)
			})
		})
	}
}
