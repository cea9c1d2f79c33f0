package memnet_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

func TestCutStallsBothWays(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		write(t, a, "arrived ")
		nw.Cut(hostA, hostB)
		write(t, a, "stalled")
		write(t, b, "too")
		wantRead(t, b, "arrived ")
		wantSilence(t, b)
		wantSilence(t, a)
		nw.Heal(hostA, hostB)
		wantRead(t, b, "stalled")
		wantRead(t, a, "too")
	})
}

func TestCutLeavesOtherLinksAlone(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Cut(hostA, "10.0.0.3")
		nw.CutOneWay("10.0.0.3", hostB)
		write(t, a, "x")
		wantRead(t, b, "x")
	})
}

func TestCutTakesHostAndPort(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Cut(hostA+":1", hostB+":2")
		write(t, a, "x")
		wantSilence(t, b)
	})
}

func TestCutFillsTheBuffer(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetBuffer(100)
		a, b := connect(t, nw)
		nw.CutOneWay(hostA, hostB)
		w := start(func() error {
			_, err := a.Write(make([]byte, 101))
			return err
		})
		w.wantWaiting(t)
		time.Sleep(24 * time.Hour)
		w.wantWaiting(t)
		nw.HealAll()
		wantRead(t, b, string(make([]byte, 101)))
		require.NoError(t, w.wantDone(t))
	})
}

func TestCutOneWayLetsTheOtherWayThrough(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.CutOneWay(hostA, hostB)
		write(t, a, "stalled")
		write(t, b, "through")
		wantRead(t, a, "through")
		wantSilence(t, b)
		nw.Heal(hostB, hostA) // the order does not matter
		wantRead(t, b, "stalled")
	})
}

func TestCutHidesCloses(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		c, d := connect(t, nw)
		nw.Cut(hostA, hostB)
		write(t, a, "bye")
		require.NoError(t, a.Close())
		wantSilence(t, b)
		write(t, b, "anybody there?")
		// Both ends close: what was held up has nobody to go to.
		require.NoError(t, c.Close())
		require.NoError(t, d.Close())
		require.Equal(t, 1, nw.Open())
		nw.HealAll()
		wantRead(t, b, "bye")
		wantEOF(t, b)
		wantWriteError(t, b, syscall.EPIPE)
	})
}

func TestPartition(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		hosts := []string{"n1", "n2", "n3", "n4", "outside"}
		conns := make(map[[2]string][2]net.Conn)
		for _, to := range hosts {
			ln := listen(t, nw, to+":1")
			for _, from := range hosts {
				c := dial(t, nw.Host(from), to+":1")
				d, err := ln.Accept()
				require.NoError(t, err)
				conns[[2]string{from, to}] = [2]net.Conn{c, d}
			}
		}
		connected := func(from, to string) bool {
			c := conns[[2]string{from, to}]
			write(t, c[0], "x")
			require.NoError(t, c[1].SetReadDeadline(time.Now().Add(time.Millisecond)))
			n, _ := c[1].Read(make([]byte, 100))
			return n > 0
		}
		side := map[string]int{"n1": 1, "n2": 1, "n3": 2, "n4": 2}
		nw.Cut("n1", "n2") // healed, being within a group
		nw.Partition([]string{"n1", "n2"}, []string{"n3", "n4"})
		for _, from := range hosts {
			for _, to := range hosts {
				want := side[from] == side[to] || side[from] == 0 || side[to] == 0
				require.Equal(t, want, connected(from, to), "%s to %s", from, to)
			}
		}
		nw.HealAll()
		time.Sleep(2 * time.Second) // until all is sent again
		for _, from := range hosts {
			for _, to := range hosts {
				require.True(t, connected(from, to), "%s to %s", from, to)
			}
		}
	})
}

func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Delay(hostA, hostB, 50*time.Millisecond)
		began := time.Now()
		write(t, a, "slow")
		write(t, b, "fast")
		wantRead(t, a, "fast")
		require.Zero(t, time.Since(began))
		wantRead(t, b, "slow")
		require.Equal(t, 50*time.Millisecond, time.Since(began))
		require.NoError(t, a.Close())
		wantEOF(t, b)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

func TestLowerDelayDoesNotReorder(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		began := time.Now()
		nw.Delay(hostA, hostB, time.Second)
		write(t, a, "first ")
		nw.Delay(hostA, hostB, -1)
		write(t, a, "second")
		require.NoError(t, a.Close())
		wantRead(t, b, "first second")
		wantEOF(t, b)
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestBytesUnderWayArriveOneByOne(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.DelayAll(time.Second)
		began := time.Now()
		for range 5 {
			write(t, a, "x")
			time.Sleep(100 * time.Millisecond)
		}
		for i := range 5 {
			wantRead(t, b, "x")
			require.Equal(t, time.Second+time.Duration(i)*100*time.Millisecond, time.Since(began))
		}
	})
}

func TestDelayAllReplacesDelays(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.Delay(hostA, hostB, time.Hour)
		nw.DelayAll(time.Second)
		began := time.Now()
		a, b := connect(t, nw) // two seconds
		write(t, a, "x")
		wantRead(t, b, "x")
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

// A cut catches what is under way, and after the heal it takes the way once more.
func TestCutDuringADelay(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetRetransmission(false)
		a, b := connect(t, nw)
		nw.Delay(hostA, hostB, time.Second)
		cut := func() { nw.Cut(hostA, hostB) }
		time.AfterFunc(time.Second, cut) // at the instant of arrival, a little before or after
		write(t, a, "arrives")
		time.AfterFunc(time.Second, cut)
		time.Sleep(500 * time.Millisecond)
		write(t, a, "stalls")
		time.Sleep(time.Second)
		wantRead(t, b, "arrives")
		wantSilence(t, b)
		healed := time.Now()
		nw.Heal(hostA, hostB)
		nw.Heal(hostA, hostB)
		wantRead(t, b, "stalls")
		require.Equal(t, time.Second, time.Since(healed))
	})
}

func TestReset(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		other := dial(t, nw.Host("10.0.0.3"), listen(t, nw, hostB+":0").Addr().String())
		write(t, a, "lost")
		r := start(func() error {
			_, err := a.Read(make([]byte, 1))
			return err
		})
		r.wantWaiting(t)
		nw.Cut(hostA, hostB) // no matter
		nw.Reset(hostB, hostA)
		wantOpError(t, r.wantDone(t), "read", syscall.ECONNRESET)
		wantReadError(t, b, syscall.ECONNRESET)
		wantWriteError(t, a, syscall.ECONNRESET)
		wantWriteError(t, b, syscall.ECONNRESET)
		nw.Heal(hostA, hostB)
		require.NoError(t, a.Close())
		wantReadError(t, b, syscall.ECONNRESET)
		require.NoError(t, b.Close())
		write(t, other, "not touched")

		a, b = connect(t, nw)
		write(t, a, "anew")
		wantRead(t, b, "anew")
		nw.Reset("x", "y") // nothing to break
	})
}

// Jitter changes the order of what travels on two connections, and of nothing
// else.
func TestJitterKeepsTheOrderWithinAConnection(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		const count = 200
		nw.JitterAll(10*time.Millisecond, 1)
		var arrived []byte // by connection
		a, b := connect(t, nw)
		c, d := connect(t, nw)
		var mu sync.Mutex
		readAll := func(conn net.Conn, mark byte) *call {
			return start(func() error {
				buf := make([]byte, 1)
				for i := range count {
					if _, err := conn.Read(buf); err != nil || buf[0] != byte(i) {
						return fmt.Errorf("byte %d is %d: %v", i, buf[0], err)
					}
					mu.Lock()
					arrived = append(arrived, mark)
					mu.Unlock()
				}
				return nil
			})
		}
		first, second := readAll(b, 1), readAll(d, 2)
		for i := range count {
			write(t, a, string([]byte{byte(i)}))
			write(t, c, string([]byte{byte(i)}))
			time.Sleep(15 * time.Millisecond)
		}
		require.NoError(t, first.wantDone(t))
		require.NoError(t, second.wantDone(t))
		overtaken := 0
		for i := 0; i < 2*count; i += 2 {
			if arrived[i] == 2 {
				overtaken++
			}
		}
		require.Greater(t, overtaken, count/4)
		require.Less(t, overtaken, 3*count/4)
	})
}

// A link that answers with resets breaks what there is and refuses dials, in
// both directions, and touches nothing else.
func TestResetsRefusesDialsOfOneLink(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		listener, err := nw.Listen(addrB)
		require.NoError(t, err)
		defer listener.Close()
		nw.Resets(hostB, hostA, true)
		wantReadError(t, a, syscall.ECONNRESET)
		wantReadError(t, b, syscall.ECONNRESET)
		_, err = nw.Host(hostA).DialContext(context.Background(), "tcp", addrB)
		wantOpError(t, err, "dial", syscall.ECONNREFUSED)
		require.NoError(t, dial(t, nw.Host("other"), addrB).Close())
		nw.Resets(hostA, hostB, false)
		require.NoError(t, dial(t, nw.Host(hostA), addrB).Close())
	})
}
