package memnet_test

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

func TestPausedHostNeitherReadsNorWrites(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		h := nw.Host(hostB)
		waiting := start(func() error {
			_, err := b.Read(make([]byte, 2))
			return err
		})
		waiting.wantWaiting(t)
		write(t, b, "before ")
		h.Pause()
		h.Pause()
		write(t, a, "hi")
		wantRead(t, a, "before ")
		w := start(func() error {
			_, err := b.Write([]byte("after"))
			return err
		})
		time.Sleep(time.Minute)
		waiting.wantWaiting(t)
		w.wantWaiting(t)
		wantSilence(t, a)
		h.Resume()
		h.Resume()
		require.NoError(t, waiting.wantDone(t))
		require.NoError(t, w.wantDone(t))
		wantRead(t, a, "after")
	})
}

func TestPausedHostsKernelTakesBytesAndConnections(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		h := nw.Host(hostB)
		h.Pause()
		accepted := make(chan net.Conn, 1)
		accept := start(func() error {
			c, err := ln.Accept()
			accepted <- c
			return err
		})
		nw.SetBuffer(100)
		a := dial(t, nw.Host(hostA), addrB)
		write(t, a, string(make([]byte, 100)))
		w := start(func() error {
			_, err := a.Write([]byte("x"))
			return err
		})
		w.wantWaiting(t)
		accept.wantWaiting(t)
		h.Resume()
		require.NoError(t, accept.wantDone(t))
		wantRead(t, <-accepted, string(make([]byte, 100))+"x")
		require.NoError(t, w.wantDone(t))
	})
}

// The goroutines of a paused host must be able to end, or the test could not.
func TestPausedHostsOwnCallsCanBeEnded(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		write(t, a, "unread")
		ln := listen(t, nw, addrB)
		nw.Host(hostB).Pause()

		require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Second)))
		wantReadError(t, b, os.ErrDeadlineExceeded)
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		r := start(func() error {
			_, err := b.Read(make([]byte, 1))
			return err
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := nw.Host(hostB).DialContext(ctx, "tcp", hostA+":1")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		r.wantWaiting(t)
		require.NoError(t, b.Close())
		wantOpError(t, r.wantDone(t), "read", net.ErrClosed)
		require.NoError(t, ln.Close())

		// Nobody else has noticed.
		wantSilence(t, a)
		write(t, a, "still there?")
		dial(t, nw.Host(hostA), addrB)
		nw.Host(hostB).Resume()
		wantEOF(t, a)
		wantWriteError(t, a, syscall.EPIPE)
		_, err = nw.Host(hostA).DialContext(context.Background(), "tcp", addrB)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestPausedHostWithholdsCloseWrite(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Host(hostB).Pause()
		require.NoError(t, b.(interface{ CloseWrite() error }).CloseWrite())
		wantSilence(t, a)
		nw.Host(hostB).Resume()
		wantEOF(t, a)
		write(t, a, "x")
		wantRead(t, b, "x")
	})
}

// Who asks whether the host runs stands still while it is paused, and is not
// left behind by whatever else ends that.
func TestRunning(t *testing.T) {
	for name, end := range map[string]func(nw *memnet.Network, h *memnet.Host, cancel func()){
		"resume":  func(_ *memnet.Network, h *memnet.Host, _ func()) { h.Resume() },
		"crash":   func(_ *memnet.Network, h *memnet.Host, _ func()) { h.Crash() },
		"vanish":  func(_ *memnet.Network, h *memnet.Host, _ func()) { h.Vanish() },
		"close":   func(nw *memnet.Network, _ *memnet.Host, _ func()) { nw.Close() },
		"context": func(_ *memnet.Network, _ *memnet.Host, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *memnet.Network) {
				h := nw.Host(hostB)
				ln := listen(t, nw, addrB).(clock)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				require.True(t, h.Running(ctx))
				h.Pause()
				require.True(t, nw.Host(hostA).Running(ctx))
				var waiting []*call
				for _, c := range []clock{h, ln} {
					waiting = append(waiting, start(func() error {
						require.False(t, c.Running(ctx))
						return nil
					}))
				}
				time.Sleep(time.Minute)
				nw.Host("10.0.0.3").Crash() // something else that changes
				for _, w := range waiting {
					w.wantWaiting(t)
				}
				end(nw, h, cancel)
				for _, w := range waiting {
					require.NoError(t, w.wantDone(t))
				}
				h.Resume()
				require.True(t, h.Running(ctx))
			})
		})
	}
}

type clock interface {
	Now() time.Time
	Elapsed() time.Duration
	Running(ctx context.Context) bool
}

func TestClock(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		h := nw.Host(hostB)
		began := time.Now()
		ln := listen(t, nw, addrB).(clock)
		check := func(now, elapsed time.Duration) {
			t.Helper()
			for _, c := range []clock{h, ln} {
				require.Equal(t, now, c.Now().Sub(began.Round(0)))
				require.Equal(t, elapsed, c.Elapsed())
			}
		}
		check(0, 0)
		time.Sleep(time.Second)
		check(time.Second, time.Second)

		h.Pause()
		check(time.Second, time.Second)
		time.Sleep(time.Minute)
		check(time.Second, time.Second)
		h.Resume()
		check(61*time.Second, 61*time.Second)
		time.Sleep(time.Second)
		check(62*time.Second, 62*time.Second)

		h.SetSkew(-time.Hour)
		check(62*time.Second-time.Hour, 62*time.Second)
		h.SetSkew(0)
		check(62*time.Second, 62*time.Second)
	})
}

// A program that is resumed sees the jump of the clock before anything else.
func TestClockJumpsBeforeReadsReturn(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		h := nw.Host(hostB)
		var elapsed time.Duration
		r := start(func() error {
			_, err := b.Read(make([]byte, 1))
			elapsed = h.Elapsed()
			return err
		})
		synctest.Wait()
		h.Pause()
		write(t, a, "x")
		time.Sleep(time.Minute)
		h.Resume()
		require.NoError(t, r.wantDone(t))
		require.Equal(t, time.Minute, elapsed)
	})
}

func TestCrash(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		h := nw.Host(hostB)
		a := dial(t, nw.Host(hostA), addrB)
		b, err := ln.Accept()
		require.NoError(t, err)
		rude := dial(t, nw.Host(hostA), addrB)
		_, err = ln.Accept()
		require.NoError(t, err)
		waiting := dial(t, nw.Host(hostA), addrB) // not accepted
		write(t, b, "acknowledged")
		write(t, rude, "will not be read")
		accept := start(func() error {
			_, err := ln.Accept()
			if err == nil {
				_, err = ln.Accept()
			}
			return err
		})
		accept.wantWaiting(t)
		h.Pause() // and is killed while it stands
		last := dial(t, nw.Host(hostA), addrB)
		h.Crash()
		h.Crash()

		wantRead(t, a, "acknowledged")
		wantEOF(t, a)
		wantWriteError(t, a, syscall.EPIPE)
		wantReadError(t, rude, syscall.ECONNRESET)
		wantWriteError(t, rude, syscall.ECONNRESET)
		wantEOF(t, waiting) // it had been accepted
		wantReadError(t, last, syscall.ECONNRESET)
		_, err = nw.Host(hostA).DialContext(context.Background(), "tcp", addrB)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)

		// What is left of the process in this test reaches nobody.
		wantReadError(t, b, net.ErrClosed)
		wantWriteError(t, b, net.ErrClosed)
		wantOpError(t, accept.wantDone(t), "accept", net.ErrClosed)
		listen(t, nw, hostA+":1")
		_, err = h.DialContext(context.Background(), "tcp", hostA+":1")
		wantOpError(t, err, "dial", syscall.ENETUNREACH)
		h.Pause() // nothing is left to pause
		require.NoError(t, b.Close())
		require.ErrorIs(t, b.Close(), net.ErrClosed)
		require.NoError(t, ln.Close())

		// It comes back as if nothing had been.
		again, err := h.Listen(":7600")
		require.NoError(t, err)
		c := dial(t, nw.Host(hostA), addrB)
		d, err := again.Accept()
		require.NoError(t, err)
		write(t, c, "hello again")
		wantRead(t, d, "hello again")
		require.NoError(t, dial(t, h, hostA+":1").Close())
	})
}

func TestCrashBehindACut(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		c, d := connect(t, nw)
		write(t, c, "not read")
		nw.Cut(hostA, hostB)
		write(t, b, "last words")
		write(t, d, "lost in the reset")
		nw.Host(hostB).Crash()
		wantSilence(t, a)
		wantSilence(t, c)
		nw.Host(hostB).Restart()
		wantSilence(t, a)
		nw.HealAll()
		wantRead(t, a, "last words")
		wantEOF(t, a)
		wantReadError(t, c, syscall.ECONNRESET)
	})
}

func TestCrashEndsItsDials(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.Cut(hostA, hostB)
		d := dialing(context.Background(), nw)
		d.wantWaiting(t)
		nw.Host(hostA).Crash()
		wantOpError(t, d.wantDone(t), "dial", syscall.ENETUNREACH)
	})
}

func TestVanish(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		h := nw.Host(hostB)
		a := dial(t, nw.Host(hostA), addrB)
		b, err := ln.Accept()
		require.NoError(t, err)
		nw.Delay(hostB, hostA, time.Second)
		write(t, b, "arrived")
		time.Sleep(time.Second)
		write(t, b, "lost")
		h.Vanish()

		wantRead(t, a, "arrived")
		write(t, a, "into the void")
		require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Second)))
		_, err = a.Write(make([]byte, 256<<10)) // which takes no more than a buffer
		wantOpError(t, err, "write", os.ErrDeadlineExceeded)
		require.NoError(t, a.SetWriteDeadline(time.Time{}))
		wantSilence(t, a)
		d := dialing(context.Background(), nw)
		time.Sleep(time.Minute)
		d.wantWaiting(t)
		wantReadError(t, b, net.ErrClosed)
		require.NoError(t, b.Close())
		_, err = ln.Accept()
		wantOpError(t, err, "accept", net.ErrClosed)
		_, err = h.DialContext(context.Background(), "tcp", hostA+":1")
		wantOpError(t, err, "dial", syscall.ENETUNREACH)

		nw.DelayAll(0)
		h.Restart()
		h.Restart()
		wantOpError(t, d.wantDone(t), "dial", syscall.ECONNREFUSED)
		wantReadError(t, a, syscall.ECONNRESET)
		wantWriteError(t, a, syscall.ECONNRESET)
		require.NoError(t, a.Close())
		require.Zero(t, nw.Open())
		listen(t, nw, addrB)
		require.NoError(t, dial(t, nw.Host(hostA), addrB).Close())
	})
}

func TestVanishAfterClose(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.Host(hostB).Pause()
		require.NoError(t, b.Close()) // withheld for ever
		nw.Host(hostB).Vanish()
		wantSilence(t, a)
		nw.Host(hostB).Restart()
		wantReadError(t, a, syscall.ECONNRESET)
	})
}
