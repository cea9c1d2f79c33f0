package peercache_test

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// How soon a cluster must know, in virtual time.
const (
	leftKnown   = 500 * time.Millisecond // a member that left on purpose is in no table any more
	deathKnown  = 3 * time.Second        // neither is one that was killed or fell silent
	joinKnown   = time.Second            // one that joined is in every table
	seedsRound  = 15 * time.Second       // the longest pause between two rounds of seeds
	rejoinKnown = seedsRound + 5*time.Second
)

// lists reports whether n lists another node as a member.
func lists(n, other *peercache.Node) bool {
	return slices.ContainsFunc(n.Members(), func(m peercache.Member) bool { return m.Incarnation == other.Self().Incarnation })
}

// names returns the names of the members that are in a node's table: the
// owners of any of many keys.
func names(n *peercache.Node) []string {
	var all []string
	for i := range 500 {
		for _, m := range n.Owners("users", strconv.Itoa(i)) {
			all = append(all, m.Name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// upTo returns the numbers below n.
func upTo(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// waitTables waits until each of the nodes lists them and nobody else, and all
// have the same tables. What they own by these need not have arrived yet, which
// [peercachetest.Cluster.WaitAgree] waits for, too.
func waitTables(c *peercachetest.Cluster, within time.Duration, nodes ...*peercache.Node) {
	c.WaitFor("equal tables over exactly these nodes", within, func() bool {
		for _, n := range nodes {
			if len(n.Members()) != len(nodes) || n.Stats().TableDigest != nodes[0].Stats().TableDigest ||
				slices.ContainsFunc(nodes, func(other *peercache.Node) bool { return !lists(n, other) }) {
				return false
			}
		}
		return true
	})
}

// A diary has the events of one node, in the order in which it told them.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// read returns what was written since the last read.
func (d *diary) read() []string {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

func (d *diary) events() *peercache.Events {
	return &peercache.Events{
		MemberJoined:  func(m peercache.Member) { d.write("%s joined, %s", m.Name, m.State) },
		MemberChanged: func(was, is peercache.Member) { d.write("%s changed, %s to %s", is.Name, was.State, is.State) },
		MemberLeft:    func(m peercache.Member) { d.write("%s left, %s", m.Name, m.State) },
		TableChanged:  func(peercache.TableChange) { d.write("table changed") },
	}
}

// keepDiaries starts n nodes and returns what each of them tells from then on.
func keepDiaries(t *testing.T, n int) (*peercachetest.Cluster, []diary) {
	t.Helper()
	diaries := make([]diary, n)
	c := peercachetest.NewCluster(t, n, func(i int, cfg *peercache.Config) { cfg.Events = diaries[i].events() })
	for i := range diaries {
		diaries[i].read()
	}
	return c, diaries
}

func TestThreeNodesAgreeAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		for _, n := range c.Nodes {
			require.Len(t, n.Members(), 3)
			require.Len(t, n.Owners("users", "42"), 2)
			require.Equal(t, c.Nodes[0].Owners("users", "42"), n.Owners("users", "42"))
		}
	})
}

func TestThirtyNodesAgreeAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 30)
		c.Kill(7)
		waitTables(c, deathKnown, c.Running()...)
		c.Shutdown(8)
		require.LessOrEqual(t, c.WaitAgree(), leftKnown)
		c.Start(7)
		require.LessOrEqual(t, c.WaitAgree(), joinKnown)
	})
}

func TestThirtyNodesStartAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0)
		c.StartTogether(upTo(30)...)
		require.LessOrEqual(t, c.WaitAgree(), joinKnown)
	})
}

func TestDeadPeerIsOutOfEveryTableWithinThreeSeconds(t *testing.T) {
	ends := map[string]func(*peercachetest.Cluster, int){
		"killed":   (*peercachetest.Cluster).Kill,
		"vanished": (*peercachetest.Cluster).Vanish,
	}
	for name, end := range ends {
		for _, n := range []int{2, 3, 5, 10} {
			t.Run(fmt.Sprint(n, " nodes, ", name), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, n)
					end(c, n/2)
					waitTables(c, deathKnown, c.Running()...)
				})
			})
		}
	}
}

func TestHalfOfTheClusterDiesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 10)
		for i := range 5 {
			c.Vanish(i)
		}
		waitTables(c, deathKnown+2*time.Second, c.Running()...)
	})
}
