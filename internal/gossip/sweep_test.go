package gossip

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestManyDieAtOnce: however few are left, they do not probe the dead one by
// one.
func TestManyDieAtOnce(t *testing.T) {
	ends := map[string]func(n *network, p *peer){
		"killed":   (*network).kill,
		"vanished": func(n *network, p *peer) { n.silence(p, true) },
	}
	for name, end := range ends {
		for _, left := range []int{1, 2, 10, 20} {
			t.Run(fmt.Sprint(name, ", left ", left), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					all := n.cluster(21)
					time.Sleep(10 * time.Second)
					for _, p := range all[left:] {
						end(n, p)
					}
					took := n.agree(3*time.Second, all[:left])
					t.Logf("noticed after %v", took)
					n.holds(5*time.Second, all[:left])
				})
			})
		}
	}
}

// TestSweepBelievesRelays: with some links cut, members that answer others are
// not suspected, though many pings fail.
func TestSweepBelievesRelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(6)
		for i, p := range all { // a ring
			for j, q := range all {
				if d := (i - j + 6) % 6; d != 1 && d != 5 && d != 0 && (i+j)%2 == 1 {
					n.cut(p, q, drop)
				}
			}
		}
		n.holds(time.Minute, all)
		for _, p := range all {
			for _, m := range p.Members() {
				require.False(t, m.Suspect, "%s suspects %s", p.name, m.Name)
			}
		}
	})
}

// TestSweepAfterAPause: a process that did not run takes nobody for silent.
func TestSweepAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(2)
		table := all[0].table
		table.asked(all[1].name, time.Now().Add(-time.Hour))
		silent := table.silent(time.Now())
		require.Equal(t, []string{all[1].name}, silent.ask)
		table.unask()
		require.Equal(t, silence{}, table.silent(time.Now()))
	})
}

// What sweep sends is what memberlist takes apart, and what others object to.
func TestSweepMessages(t *testing.T) {
	for _, b := range [][]byte{
		pingPacket(firstSweep|7, someone, someone), indirectPingPacket(firstSweep|7, someone, someone), suspectPacket(7, someone, someone),
	} {
		require.NoError(t, check(b, func(m message) {
			require.Equal(t, someone, string(m.node))
			require.True(t, m.seq == firstSweep|7 || m.inc == 7)
		}))
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		before := all[1].table.members[all[1].name]
		require.NotNil(t, before)
		inc := func() uint64 {
			all[0].table.mu.Lock()
			defer all[0].table.mu.Unlock()
			return all[0].table.members[all[1].name].inc
		}
		was := inc()
		require.NotZero(t, was)
		all[0].suspect(all[1].name, uint32(was))
		time.Sleep(time.Millisecond)
		require.True(t, all[0].Members()[1].Suspect)
		time.Sleep(time.Second)
		require.Greater(t, inc(), was, "it has objected")
		require.False(t, all[0].Members()[1].Suspect)
		n.holds(3*time.Second, all)
	})
}
