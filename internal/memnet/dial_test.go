package memnet_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

// dialing dials addrB from hostA and closes what it gets.
func dialing(ctx context.Context, nw *memnet.Network) *call {
	h := nw.Host(hostA)
	return start(func() error {
		c, err := h.DialContext(ctx, "tcp", addrB)
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

func TestDialIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ctx := context.Background()
		ln := listen(t, nw, addrB)
		refused := func(address string) {
			t.Helper()
			began := time.Now()
			_, err := nw.DialContext(ctx, "tcp", address)
			wantOpError(t, err, "dial", syscall.ECONNREFUSED)
			var call *os.SyscallError
			require.ErrorAs(t, err, &call)
			require.Equal(t, "connect", call.Syscall)
			require.Zero(t, time.Since(began))
		}
		refused("10.0.0.2:1")    // a host that does not listen there
		refused("10.0.0.9:7600") // a host that never was
		refused("nobody:7600")
		nw.Host("10.0.0.9")
		refused("10.0.0.9:7600")

		nw.Refuse(addrB, true)
		refused(addrB)
		nw.Refuse(hostB, false)
		require.NoError(t, dial(t, nw.Host(hostA), addrB).Close())
		require.NoError(t, ln.Close())
		refused(addrB)
	})
}

func TestDialRejectsBadArguments(t *testing.T) {
	nw := memnet.New()
	ctx := context.Background()
	for _, c := range []struct{ network, address string }{
		{"udp", addrB}, {"tcp", "10.0.0.2"}, {"tcp", "10.0.0.2:http"}, {"tcp", "10.0.0.2:70000"}, {"tcp", ""}, {"tcp", ":1"},
	} {
		_, err := nw.DialContext(ctx, c.network, c.address)
		var e *net.OpError
		require.ErrorAs(t, err, &e, "%v", c)
		require.Equal(t, "dial", e.Op)
	}
	for _, address := range []string{"10.0.0.2", "10.0.0.2:http", ":7600", "0.0.0.0:7600", "[::]:7600"} {
		_, err := nw.Listen(address)
		var e *net.OpError
		require.ErrorAs(t, err, &e, address)
		require.Equal(t, "listen", e.Op)
	}
	_, err := nw.Host(hostA).Listen(addrB)
	wantOpError(t, err, "listen", syscall.EADDRNOTAVAIL)
	_, err = nw.Host(hostA).Listen("7600")
	var bad *net.AddrError
	require.ErrorAs(t, err, &bad)
}

func TestListen(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		require.Equal(t, addrB, ln.Addr().String())
		_, err := nw.Listen(addrB)
		wantOpError(t, err, "listen", syscall.EADDRINUSE)
		other := listen(t, nw, hostA+":7600") // the port is free elsewhere
		picked := listen(t, nw, hostB+":0")
		again := listen(t, nw, hostB+":0")
		require.NotEqual(t, picked.Addr().String(), again.Addr().String())
		require.NoError(t, dial(t, nw.Host(hostA), picked.Addr().String()).Close())
		require.NoError(t, ln.Close())
		require.ErrorIs(t, ln.Close(), net.ErrClosed)
		_, err = ln.Accept()
		wantOpError(t, err, "accept", net.ErrClosed)
		ln, err = nw.Host(hostB).Listen(":7600")
		require.NoError(t, err)
		require.Equal(t, addrB, ln.Addr().String())
		for _, l := range []net.Listener{ln, other, picked, again} {
			require.NoError(t, l.Close())
		}
		require.Zero(t, nw.Open())
	})
}

func TestListenerCloseResetsWhatWasNotAccepted(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		c := dial(t, nw.Host(hostA), addrB)
		accepts := start(func() error {
			for {
				if _, err := ln.Accept(); err != nil {
					return err
				}
			}
		})
		accepts.wantWaiting(t) // this one is accepted, the next would be
		nw.Host(hostB).Pause()
		late := dial(t, nw.Host(hostA), addrB)
		nw.Host(hostB).Resume()
		synctest.Wait()
		nw.Host(hostB).Pause() // so that this one is not
		last := dial(t, nw.Host(hostA), addrB)
		require.NoError(t, ln.Close())
		wantOpError(t, accepts.wantDone(t), "accept", net.ErrClosed)
		wantSilence(t, last) // a paused host tells nobody
		nw.Host(hostB).Resume()
		wantReadError(t, last, syscall.ECONNRESET)
		wantSilence(t, late)
		wantSilence(t, c)
	})
}

func TestHostsWithNames(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, "node-1:7600")
		require.Equal(t, "node-1:7600", ln.Addr().String())
		require.Equal(t, "tcp", ln.Addr().Network())
		c, err := nw.DialContext(context.Background(), "tcp", "node-1:7600")
		require.NoError(t, err)
		host, _, err := net.SplitHostPort(c.LocalAddr().String())
		require.NoError(t, err)
		require.Equal(t, memnet.Anonymous, host)
		require.Equal(t, "node-1:7600", c.RemoteAddr().String())
	})
}

func TestSpellingsOfAnIPAddressAreOneHost(t *testing.T) {
	nw := memnet.New()
	listen(t, nw, "[0:0::1]:80")
	c, err := nw.DialContext(context.Background(), "tcp6", "[::1]:80")
	require.NoError(t, err)
	require.Equal(t, "[::1]:80", c.RemoteAddr().String())
	require.Same(t, nw.Host("::1"), nw.Host("[::1]:80"))
	require.Same(t, nw.Host("1.2.3.4"), nw.Host("::ffff:1.2.3.4"))
	require.Equal(t, "::1", nw.Host("::1").Name())
}

func TestNamesForSeveralHosts(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ctx := context.Background()
		listen(t, nw, addrB)
		listen(t, nw, "10.0.0.3:7600")
		nw.SetName("cache.test", hostA, hostB, "10.0.0.3:7600")
		hosts, err := nw.LookupHost(ctx, "cache.test")
		require.NoError(t, err)
		require.Equal(t, []string{hostA, hostB, "10.0.0.3"}, hosts)

		c, err := nw.DialContext(ctx, "tcp", "cache.test:7600") // hostA refuses
		require.NoError(t, err)
		require.Equal(t, addrB, c.RemoteAddr().String())

		// The one that hangs uses up its share of the time, not all of it.
		nw.Cut(memnet.Anonymous, hostB)
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		c, err = nw.DialContext(bounded, "tcp", "cache.test:7600")
		require.NoError(t, err)
		require.Equal(t, "10.0.0.3:7600", c.RemoteAddr().String())
		require.Equal(t, 5*time.Second, time.Since(began))

		nw.SetName("cache.test", hostA)
		_, err = nw.DialContext(ctx, "tcp", "cache.test:7600")
		wantOpError(t, err, "dial", syscall.ECONNREFUSED)

		var notFound *net.DNSError
		nw.SetName("cache.test")
		_, err = nw.DialContext(ctx, "tcp", "cache.test:7600")
		require.ErrorAs(t, err, &notFound)
		_, err = nw.LookupHost(ctx, "cache.test")
		require.ErrorAs(t, err, &notFound)
		require.True(t, notFound.IsNotFound)
	})
}

func TestLookupHost(t *testing.T) {
	nw := memnet.New()
	ctx := context.Background()
	for _, name := range []string{"192.0.2.1", "node-1"} {
		ln := listen(t, nw, "node-1:0")
		for _, lookup := range []func(context.Context, string) ([]string, error){
			nw.LookupHost, nw.Host(hostA).LookupHost, ln.(interface {
				LookupHost(context.Context, string) ([]string, error)
			}).LookupHost,
		} {
			hosts, err := lookup(ctx, name)
			require.NoError(t, err)
			require.Equal(t, []string{name}, hosts)
		}
	}
	_, err := nw.LookupHost(ctx, "nobody")
	var notFound *net.DNSError
	require.ErrorAs(t, err, &notFound)
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = nw.LookupHost(ended, "node-1")
	require.ErrorIs(t, err, context.Canceled)
}

func TestDialHangsUntilTheContextEnds(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		listen(t, nw, addrB)
		nw.Cut(hostA, hostB)
		ctx, cancel := context.WithCancel(context.Background())
		d := dialing(ctx, nw)
		d.wantWaiting(t)
		cancel()
		wantOpError(t, d.wantDone(t), "dial", context.Canceled)

		ctx, cancel = context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		d = dialing(ctx, nw)
		d.wantWaiting(t)
		time.Sleep(time.Second)
		err := d.wantDone(t)
		wantOpError(t, err, "dial", context.DeadlineExceeded)
		wantTimeout(t, err)

		ended, cancel := context.WithCancel(context.Background())
		cancel()
		nw.HealAll()
		wantOpError(t, dialing(ended, nw).wantDone(t), "dial", context.Canceled)
	})
}

func TestDialHangsUntilTheCutIsHealed(t *testing.T) {
	for name, cut := range map[string]func(nw *memnet.Network){
		"both ways": func(nw *memnet.Network) { nw.Cut(hostA, hostB) },
		"there":     func(nw *memnet.Network) { nw.CutOneWay(hostA, hostB) },
		"back":      func(nw *memnet.Network) { nw.CutOneWay(hostB, hostA) },
		"partition": func(nw *memnet.Network) { nw.Partition([]string{hostA}, []string{hostB}) },
		"paused":    func(nw *memnet.Network) { nw.Host(hostA).Pause() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *memnet.Network) {
				listen(t, nw, addrB)
				cut(nw)
				d := dialing(context.Background(), nw)
				time.Sleep(time.Minute)
				d.wantWaiting(t)
				nw.HealAll()
				nw.Host(hostA).Resume()
				require.NoError(t, d.wantDone(t))
			})
		})
	}
}

func TestDialGivesUpAsLinuxDoes(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.Cut(hostA, hostB)
		d := dialing(context.Background(), nw)
		time.Sleep(126 * time.Second)
		d.wantWaiting(t)
		time.Sleep(time.Second)
		err := d.wantDone(t)
		wantOpError(t, err, "dial", syscall.ETIMEDOUT)
		wantTimeout(t, err)
	})
}

func TestDialTakesARoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		listen(t, nw, addrB)
		nw.Delay(hostA, hostB, 30*time.Millisecond)
		nw.Delay(hostB, hostA, 20*time.Millisecond)
		began := time.Now()
		d := dialing(context.Background(), nw)
		time.Sleep(49 * time.Millisecond)
		d.wantWaiting(t)
		time.Sleep(time.Millisecond)
		require.NoError(t, d.wantDone(t))
		require.Equal(t, 50*time.Millisecond, time.Since(began))

		// A cut in the middle of the handshake makes it begin anew.
		d = dialing(context.Background(), nw)
		time.Sleep(40 * time.Millisecond)
		nw.CutOneWay(hostB, hostA)
		time.Sleep(time.Second)
		d.wantWaiting(t)
		nw.Heal(hostA, hostB)
		time.Sleep(49 * time.Millisecond)
		d.wantWaiting(t)
		time.Sleep(time.Millisecond)
		require.NoError(t, d.wantDone(t))
	})
}

func TestBacklogIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		ln := listen(t, nw, addrB)
		for range 128 {
			dial(t, nw.Host(hostA), addrB)
		}
		d := dialing(context.Background(), nw)
		d.wantWaiting(t)
		_, err := ln.Accept()
		require.NoError(t, err)
		require.NoError(t, d.wantDone(t))

		d = dialing(context.Background(), nw)
		d.wantWaiting(t)
		require.NoError(t, ln.Close())
		wantOpError(t, d.wantDone(t), "dial", syscall.ECONNREFUSED)
	})
}

func TestNetworkCloseEndsEverything(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, _ := connect(t, nw)
		ln := listen(t, nw, addrB)
		nw.Host("10.0.0.3").Pause()
		dial(t, nw.Host(hostA), addrB)
		calls := []*call{
			start(func() error { _, err := a.Read(make([]byte, 1)); return err }),
			start(func() error {
				_, err := nw.Host("10.0.0.3").DialContext(context.Background(), "tcp", addrB)
				return err
			}),
			start(func() error {
				_, err := ln.Accept()
				if err == nil {
					_, err = ln.Accept()
				}
				return err
			}),
		}
		for _, c := range calls {
			c.wantWaiting(t)
		}
		require.NoError(t, nw.Close())
		for i, c := range calls {
			require.ErrorIs(t, c.wantDone(t), net.ErrClosed, "%d", i)
		}
		_, err := nw.Listen(addrB)
		require.ErrorIs(t, err, net.ErrClosed)
		require.Zero(t, nw.Open())
		require.NoError(t, nw.Close())
	})
}

// Without a bubble the network works in real time.
func TestRealTime(t *testing.T) {
	nw := memnet.New()
	nw.DelayAll(time.Millisecond)
	a, b := connect(t, nw)
	write(t, a, "x")
	wantRead(t, b, "x")
	require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
	wantReadError(t, b, os.ErrDeadlineExceeded)
	require.NotContains(t, nw.Host(hostA).Now().String(), "m=", "a clock that may jump must not look monotonic")
}

func TestDialErrorText(t *testing.T) {
	_, err := memnet.New().DialContext(context.Background(), "tcp", addrB)
	require.EqualError(t, err, "dial tcp 10.0.0.2:7600: connect: connection refused")
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded))
	require.Equal(t, "dial tcp 10.0.0.2:7600: connect: connection refused", fmt.Sprint(err))
}
