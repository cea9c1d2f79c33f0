package mux

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

const silent = 2 * time.Second

// linked is pair over a network whose link can be cut.
func linked(t *testing.T, client, server Options) (nw *memnet.Network, c, s *Conn) {
	nw = memnet.New()
	ln, err := nw.Host("b").Listen("b:1")
	require.NoError(t, err)
	cn, err := nw.Host("a").DialContext(t.Context(), "tcp", "b:1")
	require.NoError(t, err)
	sn, err := ln.Accept()
	require.NoError(t, err)
	c, s = New(cn, client), New(sn, server)
	t.Cleanup(func() {
		c.Close()
		s.Close()
		ln.Close()
	})
	return nw, c, s
}

// alive fails the test when a connection has ended.
func alive(t *testing.T, conns ...*Conn) {
	t.Helper()
	synctest.Wait()
	for _, c := range conns {
		require.NoError(t, c.Err())
	}
}

// A connection that takes packets and gives no sign of life is closed: the
// kernel takes them for minutes, and delivers none.
func TestSilenceOfPackets(t *testing.T) {
	for name, cut := range map[string]func(nw *memnet.Network){
		"both ways": func(nw *memnet.Network) { nw.Cut("a", "b") },
		"there":     func(nw *memnet.Network) { nw.CutOneWay("a", "b") },
		"back":      func(nw *memnet.Network) { nw.CutOneWay("b", "a") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				packets := 0
				nw, c, s := linked(t, Options{Silence: silent}, Options{Silence: silent, Packet: func([]byte, uint64) { packets++ }})
				for range 600 {
					require.True(t, c.Send([]byte("x")))
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(time.Hour) // nothing to say
				c.Send([]byte("x"))
				time.Sleep(time.Hour)
				alive(t, c, s)
				require.Equal(t, 601, packets)

				cut(nw)
				time.Sleep(time.Hour) // nobody waits for anything
				alive(t, c, s)
				c.Send([]byte("x"))
				began := time.Now()
				require.ErrorIs(t, ended(t, c), ErrSilent)
				require.Equal(t, silent, time.Since(began))
			})
		})
	}
}

// It makes no difference that more is sent all the time, or that the socket
// takes no more.
func TestSilenceWhileMuchIsSent(t *testing.T) {
	for _, size := range []int{10, 60 << 10} {
		synctest.Test(t, func(t *testing.T) {
			nw, c, _ := linked(t, Options{Silence: silent}, Options{})
			for range 33 {
				c.Send(make([]byte, size))
				time.Sleep(10 * time.Millisecond)
			}
			nw.Cut("a", "b")
			began := time.Now()
			for c.Err() == nil {
				c.Send(make([]byte, size))
				time.Sleep(10 * time.Millisecond)
			}
			require.ErrorIs(t, c.Err(), ErrSilent)
			require.LessOrEqual(t, time.Since(began), silent+10*time.Millisecond)
			require.GreaterOrEqual(t, time.Since(began), silent/2)
		})
	}
}

// A call may take long, as long as the peer lives.
func TestSilenceOfCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw, c, s := linked(t, Options{Silence: silent}, Options{
			Silence: silent,
			Serve: func(ctx context.Context, req Request, _ func(Reply) bool) Reply {
				select {
				case <-ctx.Done():
				case <-time.After(time.Hour):
				}
				return Reply{}
			},
		})
		_, err := c.Call(t.Context(), Request{}, nil)
		require.NoError(t, err)
		alive(t, c, s)

		time.AfterFunc(10*time.Minute, func() { nw.Cut("a", "b") })
		began := time.Now()
		_, err = c.Call(t.Context(), Request{}, nil)
		requireSent(t, true, err, ErrSilent)
		require.LessOrEqual(t, time.Since(began), 10*time.Minute+silent+silent/lookEvery)
	})
}

// A cut that is shorter than that does no harm.
func TestSilenceThatIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw, c, s := linked(t, Options{Silence: silent}, Options{})
		for range 20 {
			nw.Cut("a", "b")
			for range 14 {
				c.Send([]byte("x"))
				time.Sleep(100 * time.Millisecond)
			}
			nw.HealAll()
			time.Sleep(time.Second)
		}
		alive(t, c, s)
	})
}

// slowConn writes a few bytes at a time.
type slowConn struct {
	net.Conn
	rate int // bytes a second
}

func (c slowConn) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = c.Conn.Write(b[n:min(n+c.rate/100, len(b))])
		n += k
		time.Sleep(10 * time.Millisecond)
	}
	return n, err
}

// A large body over a slow link takes longer than that, either way.
func TestSilenceOfALargeBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := net.Pipe()
		opts := Options{Silence: silent, WriteTimeout: time.Hour, Serve: echo}
		c, s := New(slowConn{cn, 100_000}, opts), New(slowConn{sn, 100_000}, opts)
		defer c.Close()
		defer s.Close()
		body := pattern(5 << 20)
		reply, err := c.Call(t.Context(), Request{Body: body}, nil)
		require.NoError(t, err)
		requireBytes(t, body, reply.Body)
	})
}

// What is looked for while this process does not run has not been looked for.
func TestSilenceOfThisProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw, c, _ := linked(t, Options{Silence: silent}, Options{})
		nw.Cut("a", "b")
		c.Send([]byte("x"))
		time.Sleep(silent * 3 / 4)
		c.mu.Lock()
		c.quietness.due -= time.Hour // as if the timer had come late
		c.mu.Unlock()
		began := time.Now()
		require.ErrorIs(t, ended(t, c), ErrSilent)
		require.Greater(t, time.Since(began), silent/2)
	})
}
