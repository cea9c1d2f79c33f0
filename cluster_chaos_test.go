package peercache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// chaos does something to a cluster of n nodes and returns what.
func chaos(c *peercachetest.Cluster, random *rand.Rand, n int, frozen []bool) string {
	i, j := random.IntN(n), random.IntN(n)
	up := c.IsRunning(i)
	switch what := random.IntN(10); {
	case !up:
		c.Start(i)
		frozen[i] = false
		return fmt.Sprint("start ", i)
	case frozen[i]:
		c.Resume(i)
		frozen[i] = false
		return fmt.Sprint("resume ", i)
	case what == 0:
		c.Kill(i)
		return fmt.Sprint("kill ", i)
	case what == 1:
		c.Vanish(i)
		return fmt.Sprint("vanish ", i)
	case what == 2:
		_ = c.Nodes[i].Shutdown(context.Background()) // nobody may be there to take over
		c.Kill(i)
		return fmt.Sprint("shut down ", i)
	case what == 3:
		c.Restart(i)
		return fmt.Sprint("restart ", i)
	case what == 4:
		c.Pause(i)
		frozen[i] = true
		return fmt.Sprint("pause ", i)
	case what == 5 && i != j:
		c.Network.Cut(c.Host(i), c.Host(j))
		return fmt.Sprint("cut ", i, " ", j)
	case what == 6 && i != j:
		c.Network.CutOneWay(c.Host(i), c.Host(j))
		return fmt.Sprint("cut from ", i, " to ", j)
	case what == 7 && i != j:
		c.Network.Reset(c.Host(i), c.Host(j))
		return fmt.Sprint("reset ", i, " ", j)
	case what == 8:
		c.Network.HealAll()
		return "heal"
	default:
		return "nothing"
	}
}

// Whatever happens to nodes and links, when it is over and all nodes run, they
// agree, and their events have told all of it.
func TestAfterChaosAllAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 4
		seed := rand.Uint64()
		random := rand.New(rand.NewPCG(seed, 0))
		replicas := make([]replica, n)
		c := peercachetest.NewCluster(t, n, func(i int, cfg *peercache.Config) { cfg.Events = replicas[i].events() })
		frozen := make([]bool, n)
		var story []string
		for range 30 {
			story = append(story, chaos(c, random, n, frozen))
			pause := time.Duration(random.ExpFloat64() * float64(time.Second)).Round(time.Millisecond)
			story = append(story, pause.String())
			time.Sleep(pause)
		}
		for i := range n {
			c.Resume(i)
			if !c.IsRunning(i) {
				c.Start(i)
			}
		}
		c.Network.HealAll()
		t.Log("seed", seed, story)
		require.LessOrEqual(t, c.WaitAgree(), rejoinKnown)
		for i, node := range c.Nodes {
			replicas[i].requireLike(t, node)
		}
	})
}
