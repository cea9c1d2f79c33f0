package peercache_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// longHost returns a host name of as many bytes as one may have.
func longHost(i int) string {
	label := strings.Repeat("a", 63) + "."
	host := label + label + label + strings.Repeat("b", 59) + fmt.Sprintf("-%d", i)
	if len(host) != 253 {
		panic(len(host))
	}
	return host
}

// TestLongHostNames: members find and serve each other by names as long as DNS
// allows.
func TestLongHostNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *peercachetest.Cluster
		c = peercachetest.NewCluster(t, 0, func(i int, cfg *peercache.Config) {
			for j := range 4 {
				c.Network.SetName(longHost(j), c.Host(j))
			}
			port := "65535"
			listener, err := c.Network.Host(c.Host(i)).Listen(c.Host(i) + ":" + port)
			require.NoError(t, err)
			cfg.Listener.Close()
			cfg.Listener = listener
			cfg.Advertise = longHost(i) + ":" + port
			cfg.Secret = "secret"
			cfg.Zone = fmt.Sprint("zone ", i)
			cfg.Join = nil
			if i > 0 {
				cfg.Join = []string{longHost(0) + ":" + port}
			}
		})
		for i := range 3 {
			c.Start(i)
		}
		c.WaitAgree()
		all := caches(t, c, peercache.Options[string]{})
		for i := range 300 {
			require.NoError(t, all[i%3].Set(t.Context(), fmt.Sprint(i), fmt.Sprint("value ", i)))
		}
		for i := range 300 {
			v, err := all[(i+1)%3].Get(t.Context(), fmt.Sprint(i))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("value ", i), v)
		}
		for _, m := range c.Nodes[1].Members() {
			require.Len(t, m.Addr, 253+6)
		}
		require.Len(t, c.Nodes[2].Owners("c", "k")[0].Addr, 253+6)
		c.Shutdown(0)
		c.WaitAgree()
	})
}
