package peercache_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestFrozenNodeIsTakenOutAndComesBack(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, n)
				frozen := c.Nodes[1]
				others := slices.Concat(c.Nodes[:1], c.Nodes[2:])

				c.Pause(1)
				began := time.Now()
				waitTables(c, deathKnown, others...)
				time.Sleep(10*time.Second - time.Since(began))
				require.Zero(t, frozen.Stats().Pauses, "a pause is noticed by its end")

				c.Resume(1)
				require.LessOrEqual(t, c.WaitAgree(), 3*time.Second)
				require.EqualValues(t, 1, frozen.Stats().Pauses)
				for _, other := range others {
					require.Zero(t, other.Stats().Pauses)
				}
				time.Sleep(time.Minute)
				require.Zero(t, c.WaitAgree(), "it stays")
				require.EqualValues(t, 1, frozen.Stats().Pauses)
			})
		})
	}
}

// A process that was stopped goes on with the table that it had, and believes
// that all is as before.
func TestFrozenNodeKeepsItsTable(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, diaries := keepDiaries(t, n)
				before := c.Nodes[1].Members()
				for range 3 {
					c.Pause(1)
					time.Sleep(5 * time.Second)
					for i, other := range c.Nodes {
						require.Equal(t, i != 1, len(other.Members()) == n-1, "they have taken it out")
					}
					c.Resume(1)
					synctest.Wait()
					require.Equal(t, before, c.Nodes[1].Members())
					c.WaitAgree()
					time.Sleep(5 * time.Second) // whom it suspects now may be dead when it is stopped again
				}
				require.Empty(t, diaries[1].read())
			})
		})
	}
}

func TestShortFreezeIsNoticedByNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, diaries := keepDiaries(t, 3)
		for range 10 {
			c.Pause(1)
			time.Sleep(500 * time.Millisecond)
			c.Resume(1)
			time.Sleep(5 * time.Second)
		}
		for i, n := range c.Nodes {
			require.Empty(t, diaries[i].read())
			require.Zero(t, n.Stats().Pauses)
		}
	})
}

// A pause that was too short for the others to act on it is noticed all the
// same: the node cannot know what they did. Nothing from before it counts, and
// nobody has to find out by a call that the connections are closed.
func TestFreezeThatOnlyTheNodeItselfNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, diaries := keepDiaries(t, 3)
		asker, frozen, third := c.Nodes[0], c.Nodes[1], c.Nodes[2]
		ctx := context.Background()
		require.NoError(t, asker.AskView(ctx, frozen.Self()))
		require.NoError(t, third.AskView(ctx, frozen.Self()))
		require.NoError(t, frozen.AskView(ctx, third.Self()))

		c.Pause(1)
		answered := make(chan error, 1)
		go func() { answered <- asker.AskView(ctx, frozen.Self()) }()
		time.Sleep(1225 * time.Millisecond) // no timer of the node's ends just then
		c.Resume(1)
		require.Error(t, <-answered, "a question from before the pause is not answered")
		require.EqualValues(t, 1, frozen.Stats().Pauses)

		synctest.Wait() // the old connections are closed
		require.NoError(t, asker.AskView(ctx, frozen.Self()), "over a new one it is")
		require.NoError(t, third.AskView(ctx, frozen.Self()))
		require.NoError(t, frozen.AskView(ctx, third.Self()))

		time.Sleep(10 * time.Second)
		for i := range diaries {
			require.Empty(t, diaries[i].read())
		}
	})
}

func TestAllNodesFrozenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		for i := range c.Nodes {
			c.Pause(i)
		}
		time.Sleep(10 * time.Minute)
		for i := range c.Nodes {
			c.Resume(i)
		}
		require.LessOrEqual(t, c.WaitAgree(), 3*time.Second)
		for _, n := range c.Nodes {
			require.EqualValues(t, 1, n.Stats().Pauses)
		}
	})
}

func TestNodeFrozenAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		for i := range 5 {
			c.Pause(i % 3)
			time.Sleep(4 * time.Second)
			c.Resume(i % 3)
			time.Sleep(300 * time.Millisecond)
		}
		waitTables(c, deathKnown, c.Running()...)
	})
}

// Of three owners two are stopped while all is cleared: both have what was
// there, and it is still gone.
func TestClearedWhileTwoOwnersOfThreeAreFrozen(t *testing.T) {
	rounds := 5 // who is asked first is for the scheduler to say
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		synctest.Test(t, func(t *testing.T) {
			ctx := t.Context()
			c := peercachetest.NewCluster(t, 5, func(_ int, cfg *peercache.Config) { cfg.Copies = 3 })
			all := caches(t, c, peercache.Options[string]{})
			keys := append(keysOf(c, 10, 0, 1), keysOf(c, 10, 2, 0, 1)...)
			for _, key := range keys {
				require.NoError(t, all[2].Set(ctx, key, "before"))
			}
			c.Pause(0)
			c.Pause(1)
			waitTables(c, deathKnown, c.Nodes[2:]...)
			time.Sleep(time.Second)
			require.NoError(t, all[2].Clear(ctx))
			c.Resume(0)
			c.Resume(1)
			for began := time.Now(); time.Since(began) < 300*time.Millisecond; time.Sleep(time.Millisecond) {
				for i, cache := range all {
					for _, key := range keys[i : i+3] {
						v, ok, err := cache.Lookup(ctx, key)
						require.NoError(t, err)
						require.False(t, ok, "%q at %d", v, i)
					}
				}
				keys = append(keys[3:], keys[:3]...)
			}
			c.WaitAgree()
			for _, key := range keys {
				require.NoError(t, all[3].Set(ctx, key, "after"))
				v, _, err := all[0].Lookup(ctx, key)
				require.NoError(t, err)
				require.Equal(t, "after", v)
			}
		})
	}
}

// All that a node knew are replaced while it is stopped: it goes on with a table
// of members who are gone, and none of them contradicts it.
func TestOthersAreReplacedWhileOneIsFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		keys := append(keysOf(c, 10, 0), keysOf(c, 10, 1, 0)...)
		for _, key := range keys {
			require.NoError(t, all[1].Set(ctx, key, "before"))
		}
		c.Pause(0)
		waitTables(c, deathKnown, c.Nodes[1:]...)
		for i := 1; i < 3; i++ {
			c.Shutdown(i)
			c.Start(i)
			waitTables(c, deathKnown, c.Nodes[1:]...)
		}
		fresh := newCache(t, c.Nodes[1], peercache.Options[string]{})
		for _, key := range keys {
			require.NoError(t, fresh.Set(ctx, key, "after"))
		}
		c.Resume(0)
		for i, began := 0, time.Now(); time.Since(began) < 6*time.Second; i++ {
			v, _, err := all[0].Lookup(ctx, keys[i%len(keys)])
			require.NoError(t, err)
			require.Equal(t, "after", v, "%v after the pause", time.Since(began))
			time.Sleep(10 * time.Millisecond)
		}
		c.WaitAgree()
	})
}

// A node that goes on after a pause serves nothing as up to date before the
// others count it in again: until then they do not send it what is written.
func TestReadsAfterAPauseAreNotOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{})
		keys := append(keysOf(c, 20, 0), keysOf(c, 20, 1, 0)...)
		for _, key := range keys {
			require.NoError(t, all[1].Set(ctx, key, "before"))
		}
		for range 5 {
			c.Pause(0)
			waitTables(c, deathKnown, c.Nodes[1:]...)
			time.Sleep(time.Second)
			c.Resume(0)
			for i := range 100 {
				key, value := keys[i%len(keys)], fmt.Sprint("value ", i)
				require.NoError(t, all[1].Set(ctx, key, value))
				hurried, cancel := context.WithTimeout(ctx, time.Duration(i%7)*time.Millisecond)
				v, ok, err := all[0].Lookup(hurried, key)
				cancel()
				if err == nil {
					require.True(t, ok)
					require.Equal(t, value, v)
				}
				v, ok, err = all[0].Lookup(ctx, key)
				require.NoError(t, err)
				require.True(t, ok)
				require.Equal(t, value, v)
				time.Sleep(5 * time.Millisecond)
			}
			c.WaitAgree()
		}
	})
}

// A Clear right after a pause reaches those who own the keys by now, or fails;
// and whatever it did, all members see the same in the end.
func TestClearRightAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		c := peercachetest.NewCluster(t, 4)
		all := caches(t, c, peercache.Options[string]{})
		keys := append(keysOf(c, 20, 0), keysOf(c, 20, 1, 0)...)
		cleared, failed := 0, 0
		for _, patience := range []time.Duration{0, 3 * time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second} {
			c.Pause(0)
			waitTables(c, deathKnown, c.Nodes[1:]...)
			for _, key := range keys {
				require.NoError(t, all[1].Set(ctx, key, "meanwhile"))
			}
			c.Resume(0)
			hurried, cancel := context.WithTimeout(ctx, patience)
			err := all[0].Clear(hurried)
			cancel()
			if err == nil {
				cleared++
			} else {
				failed++
			}
			held := func(node int) (held []string) {
				for _, key := range keys {
					_, ok, lost := all[node].Lookup(ctx, key)
					require.NoError(t, lost)
					if ok {
						held = append(held, key)
					}
				}
				return held
			}
			for node := range c.Nodes {
				if err == nil {
					require.Empty(t, held(node), "node %d after %v", node, patience)
				}
			}
			c.WaitAgree()
			for node := range c.Nodes {
				require.Equal(t, held(1), held(node), "after %v: %v", patience, err)
			}
		}
		require.NotZero(t, cleared)
		require.NotZero(t, failed)
	})
}
