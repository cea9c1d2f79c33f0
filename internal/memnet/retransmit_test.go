package memnet_test

import (
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

// What a cut held up arrives when the sender's timer, which doubles, runs out next.
func TestRetransmission(t *testing.T) {
	for _, c := range []struct{ cut, again time.Duration }{
		{100 * time.Millisecond, 200 * time.Millisecond},
		{time.Second, 1400 * time.Millisecond},
		{5 * time.Second, 6200 * time.Millisecond},
		{20 * time.Second, 25400 * time.Millisecond},
		{60 * time.Second, 102200 * time.Millisecond},
		{5 * time.Minute, 324600 * time.Millisecond}, // two minutes apart at most
		{6 * time.Minute, 444600 * time.Millisecond},
	} {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			a, b := connect(t, nw)
			nw.Cut(hostA, hostB)
			began := time.Now()
			write(t, a, "lost ")
			time.Sleep(c.cut / 2)
			write(t, a, "waits ")
			time.Sleep(c.cut - c.cut/2)
			nw.Heal(hostA, hostB)
			write(t, a, "behind")
			wantRead(t, b, "lost waits behind")
			require.Equal(t, c.again, time.Since(began), "a cut of %v", c.cut)
			write(t, a, "goes at once")
			wantRead(t, b, "goes at once")
			require.Equal(t, c.again, time.Since(began))
		})
	}
}

func TestRetransmissionOfWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.DelayAll(50 * time.Millisecond)
		a, b := connect(t, nw)
		write(t, a, "lost")
		time.Sleep(20 * time.Millisecond)
		nw.CutOneWay(hostA, hostB)
		cut := time.Now()
		time.Sleep(time.Second)
		nw.Heal(hostA, hostB)
		wantRead(t, b, "lost")
		// Its timer begins with the round trip, 300 ms in all.
		require.Equal(t, 2100*time.Millisecond+50*time.Millisecond, time.Since(cut))
	})
}

// Connections that carried nothing are as before, and so are new ones.
func TestRetransmissionIsOfOneConnection(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		quiet, other := connect(t, nw)
		nw.Cut(hostA, hostB)
		write(t, a, "lost")
		time.Sleep(time.Minute)
		nw.Heal(hostA, hostB)
		healed := time.Now()
		write(t, quiet, "quiet")
		wantRead(t, other, "quiet")
		fresh, end := connect(t, nw)
		write(t, fresh, "fresh")
		wantRead(t, end, "fresh")
		require.Equal(t, 1, nw.Waiting(hostB, hostA))
		write(t, b, "the other way")
		wantRead(t, a, "the other way")
		require.Zero(t, time.Since(healed))
		wantRead(t, b, "lost")
		require.NotZero(t, time.Since(healed))
		require.Zero(t, nw.Waiting(hostA, hostB))
	})
}

// Acknowledgements that get lost stop the sender as well, a little later.
func TestRetransmissionWithoutAcknowledgements(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.CutOneWay(hostB, hostA)
		began := time.Now()
		for range 4 {
			write(t, a, "first")
			wantRead(t, b, "first")
			time.Sleep(50 * time.Millisecond)
		}
		write(t, a, "stuck")
		wantSilence(t, b)
		time.Sleep(10 * time.Second)
		nw.Heal(hostB, hostA)
		wantRead(t, b, "stuck")
		require.Equal(t, 12600*time.Millisecond, time.Since(began))
	})
}

// A second cut strikes while a connection waits for the end of the first.
func TestRetransmissionAfterTwoCuts(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Cut(hostA, hostB)
		began := time.Now()
		write(t, a, "x")
		time.Sleep(10 * time.Second) // until 12.6 s
		nw.Heal(hostA, hostB)
		time.Sleep(time.Second)
		nw.CutOneWay(hostB, hostA)
		time.Sleep(5 * time.Second) // until 25.4 s
		nw.Heal(hostB, hostA)
		wantRead(t, b, "x")
		require.Equal(t, 25400*time.Millisecond, time.Since(began))
	})
}

func TestRetransmissionSwitchedOff(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetRetransmission(false)
		a, b := connect(t, nw)
		nw.CutOneWay(hostA, hostB)
		write(t, a, "stalled")
		time.Sleep(time.Minute)
		for range 10 {
			write(t, b, "through")
			wantRead(t, a, "through")
			time.Sleep(time.Second)
		}
		healed := time.Now()
		nw.HealAll()
		wantRead(t, b, "stalled")
		require.Zero(t, time.Since(healed))
	})
}

func setUserTimeout(t *testing.T, c net.Conn, d time.Duration) {
	t.Helper()
	require.NoError(t, c.(interface{ SetUserTimeout(time.Duration) error }).SetUserTimeout(d))
}

func TestUserTimeout(t *testing.T) {
	for name, cut := range map[string]func(*memnet.Network){
		"there":    func(nw *memnet.Network) { nw.CutOneWay(hostA, hostB) },
		"back":     func(nw *memnet.Network) { nw.CutOneWay(hostB, hostA) },
		"vanished": func(nw *memnet.Network) { nw.Host(hostB).Vanish() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *memnet.Network) {
				a, b := connect(t, nw)
				setUserTimeout(t, a, 3*time.Second)
				write(t, a, "arrives")
				time.Sleep(time.Hour)
				cut(nw)
				time.Sleep(time.Hour) // nothing is outstanding
				began := time.Now()
				write(t, a, "unanswered")
				wantReadError(t, a, syscall.ETIMEDOUT)
				require.Equal(t, 3*time.Second, time.Since(began))
				wantWriteError(t, a, syscall.ETIMEDOUT)
				if name == "vanished" {
					return
				}
				nw.HealAll()
				_, err := io.ReadAll(b)
				require.ErrorIs(t, err, syscall.ECONNRESET)
			})
		})
	}
}

func TestUserTimeoutIsSetWhileItRuns(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, _ := connect(t, nw)
		nw.Cut(hostA, hostB)
		write(t, a, "x")
		setUserTimeout(t, a, 3*time.Second)
		time.Sleep(2 * time.Second)
		setUserTimeout(t, a, 0)
		time.Sleep(time.Hour)
		write(t, a, "still there")
		setUserTimeout(t, a, time.Second)
		time.Sleep(time.Nanosecond)
		wantWriteError(t, a, syscall.ETIMEDOUT)
	})
}

// What is acknowledged in time ends no connection.
func TestUserTimeoutThatIsNotReached(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		setUserTimeout(t, a, 3*time.Second)
		for range 10 {
			nw.Cut(hostA, hostB)
			write(t, a, "x")
			time.Sleep(1200 * time.Millisecond)
			nw.Heal(hostA, hostB)
			wantRead(t, b, "x")
		}
		time.Sleep(time.Hour)
		write(t, a, "x")
		wantRead(t, b, "x")
	})
}
