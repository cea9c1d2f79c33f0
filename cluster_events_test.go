package peercache_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// A replica of a node's members, made from its events alone.
type replica struct {
	mu      sync.Mutex
	members map[uint64]peercache.Member
	owned   int // shards
	faults  []string
}

// events makes the replica that of a node that is not started yet.
func (r *replica) events() *peercache.Events {
	r.members, r.owned = make(map[uint64]peercache.Member), 0
	expect := func(ok bool, format string, args ...any) {
		if !ok {
			r.faults = append(r.faults, fmt.Sprintf(format, args...))
		}
	}
	return &peercache.Events{
		MemberJoined: func(m peercache.Member) {
			r.mu.Lock()
			defer r.mu.Unlock()
			_, known := r.members[m.Incarnation]
			expect(!known, "%v joined twice", m)
			r.members[m.Incarnation] = m
		},
		MemberChanged: func(was, is peercache.Member) {
			r.mu.Lock()
			defer r.mu.Unlock()
			expect(r.members[is.Incarnation] == was, "%v changed from %v, was %v", is, was, r.members[is.Incarnation])
			expect(was != is, "%v changed in nothing", is)
			r.members[is.Incarnation] = is
		},
		MemberLeft: func(m peercache.Member) {
			r.mu.Lock()
			defer r.mu.Unlock()
			expect(r.members[m.Incarnation] == m, "%v left, was %v", m, r.members[m.Incarnation])
			delete(r.members, m.Incarnation)
		},
		TableChanged: func(change peercache.TableChange) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.owned += change.Gained - change.Lost
		},
	}
}

// requireLike fails the test if the replica is not like the node.
func (r *replica) requireLike(t *testing.T, n *peercache.Node) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(t, r.faults)
	members := slices.SortedFunc(maps.Values(r.members), func(a, b peercache.Member) int {
		return cmp.Compare(a.Incarnation, b.Incarnation)
	})
	require.Equal(t, n.Members(), members)
	require.Equal(t, n.Stats().ShardsOwned, r.owned)
}

func TestEventsTellEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas := make([]replica, 4)
		c := peercachetest.NewCluster(t, 4, func(i int, cfg *peercache.Config) { cfg.Events = replicas[i].events() })
		check := func() {
			t.Helper()
			c.WaitAgree()
			for i, n := range c.Nodes {
				if slices.Contains(c.Running(), n) {
					replicas[i].requireLike(t, n)
				}
			}
		}
		check()
		c.Kill(1)
		check()
		c.Shutdown(2)
		check()
		c.Start(1)
		check()
		c.Restart(3)
		c.Start(2)
		check()
		c.Pause(0)
		time.Sleep(10 * time.Second)
		c.Resume(0)
		check()
	})
}

func TestEventsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		c := peercachetest.NewCluster(t, 1, func(i int, cfg *peercache.Config) {
			if i == 0 {
				cfg.Events = d.events()
			}
		})
		require.Equal(t, []string{"node-0 joined, joining", "table changed", "node-0 changed, joining to active", "table changed"}, d.read())
		c.Start(1)
		c.WaitAgree()
		require.Equal(t, []string{"node-1 joined, joining", "node-1 changed, joining to active", "table changed"}, d.read())
		c.Kill(1)
		c.WaitAgree()
		require.Equal(t, []string{"node-1 left, active", "table changed"}, d.read())
	})
}

func TestSlowCallbackDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) {
			if i == 0 {
				e := d.events()
				note := e.MemberLeft
				e.MemberLeft = func(m peercache.Member) { time.Sleep(time.Minute); note(m) }
				cfg.Events = e
			}
		})
		c.Kill(1)
		waitTables(c, deathKnown, c.Running()...)
		d.read()
		c.Shutdown(2)
		require.LessOrEqual(t, c.WaitAgree(), leftKnown)
		c.Start(1)
		require.LessOrEqual(t, c.WaitAgree(), joinKnown)
		require.Empty(t, d.read(), "all wait for the first")
		time.Sleep(2 * time.Minute)
		lines := d.read()
		require.Len(t, slices.DeleteFunc(lines, func(line string) bool { return !strings.HasPrefix(line, "node-2 left") }), 1)
	})
}

func TestOldestEventsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, err := peercache.Start(context.Background(), peercache.Config{})
		require.NoError(t, err)
		defer n.Close()
		release := make(chan struct{})
		n.PushEvent(func() { <-release })
		synctest.Wait() // it is being called
		var called []int
		for i := range 1024 + 10 {
			n.PushEvent(func() { called = append(called, i) })
		}
		require.EqualValues(t, 10, n.Stats().EventsDropped)
		close(release)
		synctest.Wait()
		require.Len(t, called, 1024)
		require.Equal(t, 10, called[0])
		require.True(t, slices.IsSorted(called))
	})
}

func TestPanicInACallbackIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		c := peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) {
			if i == 0 {
				cfg.Events = d.events()
				cfg.Events.MemberLeft = func(peercache.Member) { panic("of the user's") }
			}
		})
		c.Kill(1)
		c.WaitAgree()
		c.Start(1)
		c.WaitAgree()
		joined := slices.DeleteFunc(d.read(), func(line string) bool { return !strings.HasPrefix(line, "node-1 joined") })
		require.Len(t, joined, 2)
	})
}

func TestCallbackMayAskItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *peercachetest.Cluster
		seen := make(chan int, 100)
		c = peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) {
			cfg.Events = &peercache.Events{MemberLeft: func(peercache.Member) {
				n := c.Nodes[i]
				n.Stats()
				n.Rediscover()
				_ = n.WaitReady(context.Background())
				seen <- len(n.Members())
			}}
		})
		c.Kill(1)
		c.WaitAgree()
		require.Equal(t, 1, <-seen)
	})
}
