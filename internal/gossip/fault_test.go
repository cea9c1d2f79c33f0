package gossip

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHalfDiesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(10)
		time.Sleep(time.Second + rand.N(time.Second))
		for _, p := range all[5:] {
			n.silence(p, true)
		}
		took := n.agree(5*time.Second, all[:5])
		t.Logf("after %v", took)
	})
}

func TestShortSilenceKillsNobody(t *testing.T) {
	for _, count := range []int{2, 3, 5, 10} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(count)
				for _, silence := range []time.Duration{500 * time.Millisecond, time.Second} {
					time.Sleep(rand.N(time.Second))
					victim := all[rand.IntN(count)]
					n.silence(victim, true)
					n.holds(silence, all)
					n.silence(victim, false)
					n.holds(4*time.Second, all)
				}
			})
		})
	}
}

func TestLostPacketsKillNobody(t *testing.T) {
	t.Run("one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(2)
			for _, way := range [][2]string{{all[0].addr, all[1].addr}, {all[1].addr, all[0].addr}} {
				n.mu.Lock()
				n.lossOne[way] = 1
				n.mu.Unlock()
				n.holds(3*time.Second, all)
			}
		})
	})
	t.Run("many", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(10)
			n.mu.Lock()
			n.loss = 0.2
			n.mu.Unlock()
			n.holds(30*time.Second, all)
		})
	})
}

// TestOneLinkCutKillsNobody cuts one pair off each other: the others relay.
func TestOneLinkCutKillsNobody(t *testing.T) {
	for _, f := range []fate{drop, refuse} {
		t.Run(fmt.Sprint(f), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(5)
				n.split(all[:1], all[1:2], f)
				n.holds(20*time.Second, all)
			})
		})
	}
}

// TestFrozenMemberComesBack: the others have declared it dead, or forgotten it;
// it counts them as live, as no time has passed for it.
func TestFrozenMemberComesBack(t *testing.T) {
	for _, frozen := range []time.Duration{4 * time.Second, 25 * time.Second, 50 * time.Second, 4 * time.Minute} {
		t.Run(frozen.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(5)
				ice := n.add(func(c *Config) { c.Timeout = time.Hour })
				require.NoError(t, ice.Join(t.Context(), all[0].addr))
				n.agree(time.Second, append(all[:5:5], ice))
				n.silence(ice, true)
				time.Sleep(frozen)
				n.agree(0, all)
				n.silence(ice, false)
				took := n.agree(1500*time.Millisecond, append(all[:5:5], ice))
				t.Logf("back after %v", took)
				n.holds(3*time.Second, append(all[:5:5], ice))
			})
		})
	}
}

// TestStrangerIsTakenIn: whoever speaks to a member as to one it knows is asked
// for its list.
func TestStrangerIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := append(n.cluster(3), n.add())
		time.Sleep(time.Second)
		nack := encode(kindNack, "SeqNo", 1)
		require.NoError(t, all[3].Send(Peer{Name: all[0].name, Addr: all[0].addr}, nack))
		took := n.agree(time.Second, all)
		t.Logf("after %v", took)

		// But not one that has said that it goes.
		require.NoError(t, all[3].Leave(t.Context()))
		n.agree(time.Second, all[:3])
		opened := func() int { n.mu.Lock(); defer n.mu.Unlock(); return n.opened[all[3].addr] }
		before := opened()
		require.NoError(t, all[3].Send(Peer{Name: all[0].name, Addr: all[0].addr}, nack))
		n.holds(time.Second, all[:3])
		require.Equal(t, before, opened())
	})
}

// TestShortSplitHealsItself: no side sends the other anything any more, but the
// dead are tried again.
func TestShortSplitHealsItself(t *testing.T) {
	for _, split := range []time.Duration{4 * time.Second, 20 * time.Second, 80 * time.Second, 8 * time.Minute} {
		t.Run(split.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(6)
				n.split(all[:3], all[3:], drop)
				time.Sleep(split)
				n.agree(0, all[:3])
				n.agree(0, all[3:])
				n.split(all[:3], all[3:], pass)
				took := n.agree(3500*time.Millisecond, all) // a try that hangs, the pause, and the next
				t.Logf("one after %v", took)
				n.holds(3*time.Second, all)
			})
		})
	}
}

func TestJoinMergesSplit(t *testing.T) {
	for _, split := range []time.Duration{4 * time.Second, 20 * time.Second, 80 * time.Second, 15 * time.Minute} {
		t.Run(split.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(10)
				n.split(all[:5], all[5:], drop)
				time.Sleep(split)
				n.agree(0, all[:5])
				n.agree(0, all[5:])
				n.split(all[:5], all[5:], pass)
				if split > 10*time.Minute {
					time.Sleep(20 * time.Second)
					n.agree(0, all[:5])
					n.agree(0, all[5:])
				}
				require.NoError(t, all[2].Join(t.Context(), all[7].addr))
				took := n.agree(time.Second, all)
				t.Logf("one after %v", took)
				n.holds(3*time.Second, all)
			})
		})
	}
}

// TestEndOfSplitLosesNobody: while the sides still tell their own that the
// others are dead, the split ends, and those hear it of themselves. Whoever has
// heard from them knows better.
func TestEndOfSplitLosesNobody(t *testing.T) {
	for split := 1800 * time.Millisecond; split < 3*time.Second; split += 200 * time.Millisecond {
		t.Run(split.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				all := n.cluster(7)
				sides := [][]*peer{all[:3], all[3:]}
				n.split(sides[0], sides[1], drop)
				time.Sleep(split)
				n.split(sides[0], sides[1], pass)
				for range 600 {
					for _, side := range sides {
						for _, p := range side {
							require.Subset(t, p.list(), names(side))
						}
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
		})
	}
}

// TestHeardElsewhere: a member from which nothing came by gossip is believed
// to live as long as it is heard from in another way.
func TestHeardElsewhere(t *testing.T) {
	for _, heard := range []time.Duration{0, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(2, func(c *Config) { c.SinceHeard = func(string) time.Duration { return heard } })
			n.split(all[:1], all[1:], drop)
			time.Sleep(1300 * time.Millisecond)
			dead := encode(kindDead, "Incarnation", 1, "Node", all[1].name, "From", someone)
			all[0].Packet(Peer{Name: someone}, withCRC(dead))
			time.Sleep(time.Millisecond)
			require.Equal(t, heard == 0, len(all[0].list()) == 2)
		})
	}
}
