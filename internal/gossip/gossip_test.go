package gossip

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStartedMembersAgree(t *testing.T) {
	for _, count := range []int{1, 2, 30} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				start := time.Now()
				n.cluster(count)
				n.mu.Lock()
				defer n.mu.Unlock()
				t.Logf("%d agree after %v, %d packets", count, time.Since(start), n.sent)
			})
		})
	}
}

// TestAllJoinOne starts members at one moment, all of which know one seed.
func TestAllJoinOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := []*peer{n.add()}
		for range 29 {
			all = append(all, n.add())
		}
		errs := make(chan error, len(all))
		for _, p := range all[1:] {
			go func() { errs <- p.Join(t.Context(), all[0].addr) }()
		}
		for range all[1:] {
			require.NoError(t, <-errs)
		}
		took := n.agree(3*time.Second, all)
		t.Logf("30 agree after %v", took)
	})
}

// TestGoneMemberIsFound: the time until a first probe is random, and one
// silence in a thousand lasts longer than 3 s.
func TestGoneMemberIsFound(t *testing.T) {
	const trials = 4
	for _, count := range []int{2, 3, 5, 10, 30} {
		for _, how := range []string{"killed", "silent"} {
			t.Run(fmt.Sprintf("%d/%s", count, how), func(t *testing.T) {
				var took []time.Duration
				for range trials {
					synctest.Test(t, func(t *testing.T) {
						n := newNetwork(t)
						all := n.cluster(count)
						time.Sleep(time.Second + rand.N(time.Second))
						victim := all[rand.IntN(count)]
						if how == "killed" {
							n.kill(victim)
						} else {
							n.silence(victim, true)
						}
						took = append(took, n.agree(4*time.Second, without(all, victim)))
					})
				}
				slices.Sort(took)
				t.Log(took)
				require.LessOrEqual(t, took[trials-2], 3*time.Second)
				require.Greater(t, took[0], 1500*time.Millisecond, "it had its time to object")
			})
		}
	}
}

func TestLeaverIsDroppedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(5)
		start := time.Now()
		left := make(chan error, 1)
		go func() { left <- all[2].Leave(t.Context()) }()
		took := n.agree(500*time.Millisecond, without(all, all[2]))
		require.NoError(t, <-left)
		t.Logf("dropped after %v, Leave took %v", took, time.Since(start))
		require.NotContains(t, all[2].list(), all[2].name)
		// It answers on, yet nobody takes it back.
		n.holds(5*time.Second, without(all, all[2]))
		require.NoError(t, all[2].Leave(t.Context()))
		require.NoError(t, all[2].Update())
		all[2].Close()
		require.ErrorIs(t, all[2].Leave(t.Context()), ErrClosed)
	})
}

func TestLeaveIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		n.silence(all[0], true)
		start := time.Now()
		require.NoError(t, all[0].Leave(t.Context()))
		require.LessOrEqual(t, time.Since(start), 2*time.Second)

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, all[1].Leave(ctx), context.Canceled)

		alone := n.add()
		start = time.Now()
		require.NoError(t, alone.Leave(t.Context()))
		require.Zero(t, time.Since(start))
	})
}

func TestUpdateReachesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(10)
		all[3].mu.Lock()
		all[3].extra = "news"
		all[3].mu.Unlock()
		start := time.Now()
		require.NoError(t, all[3].Update())
		require.Zero(t, time.Since(start).Truncate(time.Microsecond))
		want := all[3].addr + "|news"
		took := n.eventually(time.Second, func() bool {
			for _, p := range all {
				for _, m := range p.Members() {
					if m.Name == all[3].name && string(m.Meta) != want {
						return false
					}
				}
			}
			return true
		})
		t.Logf("known to all after %v", took)

		all[3].mu.Lock()
		all[3].extra = string(make([]byte, MaxMeta))
		all[3].mu.Unlock()
		require.ErrorIs(t, all[3].Update(), ErrMeta)
	})
}

func TestChangedIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(5)
		time.Sleep(time.Second)
		changed := func() int { all[0].mu.Lock(); defer all[0].mu.Unlock(); return all[0].changed }
		before := changed()
		time.Sleep(10 * time.Second)
		require.Equal(t, before, changed(), "nothing changes, nothing is said")
		n.kill(all[1])
		n.agree(3*time.Second, without(all, all[1]))
		synctest.Wait()
		require.Equal(t, before+1, changed())
	})
}

func TestClocksAreCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		n.mu.Lock()
		n.skew[all[1].addr] = 700 * time.Millisecond
		n.mu.Unlock()
		time.Sleep(2 * time.Second)
		all[0].mu.Lock()
		defer all[0].mu.Unlock()
		require.InDelta(t, 700*time.Millisecond, all[0].offsets[all[1].name], float64(2*time.Millisecond))
		require.InDelta(t, 0, all[0].offsets[all[2].name], float64(2*time.Millisecond))
	})
}

// TestOtherPace: everything scales with Interval and Timeout.
func TestOtherPace(t *testing.T) {
	for _, scale := range []time.Duration{20, 400} { // percent
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(5, func(c *Config) {
				c.Interval = 200 * time.Millisecond * scale / 100
				c.Timeout = 2 * time.Second * scale / 100
			})
			time.Sleep(time.Second)
			n.silence(all[1], true)
			took := n.agree(4*time.Second*scale/100, without(all, all[1]))
			require.Greater(t, took, 1500*time.Millisecond*scale/100)
		})
	}
}

func TestJoinOneself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(2)
		require.NoError(t, all[0].Join(t.Context(), all[0].addr))
		n.holds(time.Second, all)
	})
}

// TestUpdateBeatsObjections: an objection that overtakes the update carries the
// old metadata and the higher number.
func TestUpdateBeatsObjections(t *testing.T) {
	var meta atomic.Pointer[string]
	set := func(s string) { meta.Store(&s) }
	set("self:1|")
	g, err := Start(Config{
		Name: someone, Link: nowhere{}, AddrOf: addrOf,
		Meta:     func() []byte { return []byte(*meta.Load()) },
		Interval: time.Minute, Timeout: time.Hour,
	})
	require.NoError(t, err)
	defer g.Close()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				g.Packet(Peer{}, encode(kindSuspect, "Incarnation", 100*i, "Node", someone, "From", "x"))
			}
		}
	})
	for i := range 20000 {
		set(fmt.Sprintf("self:1|%d", i))
		require.NoError(t, g.Update())
		require.Equal(t, *meta.Load(), string(g.Members()[0].Meta))
	}
}

// TestSuspicionTime: whatever memberlist's formula makes of it, it is near to
// what was wanted.
func TestSuspicionTime(t *testing.T) {
	p := paceFor(200*time.Millisecond, 2*time.Second)
	for n := 1; n <= 2000; n++ {
		got := float64(p.suspicionMult(n)) * max(1, math.Log10(float64(n))) * p.interval.Seconds()
		require.InDelta(t, p.suspicion.Seconds(), got, 0.31, "%d members", n)
	}
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(30)
		synctest.Wait()
		require.Equal(t, p.suspicionMult(30), all[0].conf.SuspicionMult)
		require.NotEqual(t, p.suspicionMult(1), all[0].conf.SuspicionMult)
	})
}

func TestSuspectIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		suspect := func() bool {
			for _, m := range all[0].Members() {
				require.False(t, m.Suspect && m.Name == all[0].name, "nobody suspects itself")
				if m.Suspect && m.Name == all[1].name {
					return true
				}
			}
			return false
		}
		time.Sleep(time.Second)
		require.False(t, suspect())
		n.silence(all[1], true)
		n.eventually(time.Second, suspect)
		n.silence(all[1], false)
		n.eventually(time.Second, func() bool { return !suspect() })
		n.holds(3*time.Second, all)
	})
}
