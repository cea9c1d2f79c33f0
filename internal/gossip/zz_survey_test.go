package gossip

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func TestZSurvey(t *testing.T) {
	if os.Getenv("SURVEY") == "" {
		t.Skip()
	}
	trials, _ := strconv.Atoi(os.Getenv("SURVEY"))
	for _, c := range []struct{ n, die int }{{2, 1}, {3, 1}, {5, 1}, {10, 1}, {30, 1}, {100, 1}, {10, 5}, {6, 3}, {30, 10}} {
		for _, how := range []string{"killed", "silent"} {
			var all []time.Duration
			k := trials
			if c.n == 100 {
				k = max(1, trials/8)
			}
			for range k {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					ps := n.cluster(c.n)
					time.Sleep(time.Second + rand.N(time.Second))
					for _, v := range ps[c.n-c.die:] {
						if how == "killed" {
							n.kill(v)
						} else {
							n.silence(v, true)
						}
					}
					all = append(all, n.agree(20*time.Second, ps[:c.n-c.die]))
				})
			}
			slices.Sort(all)
			fmt.Printf("n=%d die=%d %s: min %v median %v p90 %v max %v\n", c.n, c.die, how, all[0], all[len(all)/2], all[len(all)*9/10], all[len(all)-1])
		}
	}
}
