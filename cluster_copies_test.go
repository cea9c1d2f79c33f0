package peercache_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestCopiesGrowByARollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		copies := 2
		c := peercachetest.NewCluster(t, 4, func(_ int, cfg *peercache.Config) { cfg.Copies = copies })
		requireCopies := func(want int) {
			t.Helper()
			for _, n := range c.Running() {
				require.Len(t, n.Owners("users", "42"), want)
			}
		}
		requireCopies(2)
		copies = 3
		for i := range c.Nodes {
			c.Shutdown(i)
			c.WaitAgree()
			requireCopies(min(2+i, 3))
			c.Start(i)
			c.WaitAgree()
			requireCopies(3)
		}
		copies = 2
		for i := range c.Nodes {
			requireCopies(3)
			c.Shutdown(i)
			c.Start(i)
			c.WaitAgree()
		}
		requireCopies(2)
	})
}

func TestCopiesAreAtMostTheMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) { cfg.Copies = 3 })
		require.Len(t, c.Nodes[0].Owners("users", "42"), 3)
		c.Shutdown(2)
		c.WaitAgree()
		require.Len(t, c.Nodes[0].Owners("users", "42"), 2)
		c.Shutdown(1)
		c.WaitAgree()
		require.Equal(t, []string{"node-0"}, names(c.Nodes[0]))
	})
}
