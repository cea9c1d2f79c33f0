package memnet_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/peercache/peercache/internal/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	hostA = "10.0.0.1"
	hostB = "10.0.0.2"
	addrB = "10.0.0.2:7600"
)

// bubble runs f in a bubble of virtual time. The test fails when f leaves a goroutine behind.
func bubble(t *testing.T, f func(t *testing.T, nw *memnet.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, memnet.New()) })
}

// connect returns a connection from hostA to hostB and its other end.
func connect(t *testing.T, nw *memnet.Network) (a, b net.Conn) {
	t.Helper()
	ln, err := nw.Listen(hostB + ":0")
	require.NoError(t, err)
	a, err = nw.Host(hostA).DialContext(context.Background(), "tcp", ln.Addr().String())
	require.NoError(t, err)
	b, err = ln.Accept()
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return a, b
}

func listen(t *testing.T, nw *memnet.Network, address string) net.Listener {
	t.Helper()
	ln, err := nw.Listen(address)
	require.NoError(t, err)
	return ln
}

func dial(t *testing.T, h *memnet.Host, address string) net.Conn {
	t.Helper()
	c, err := h.DialContext(context.Background(), "tcp", address)
	require.NoError(t, err)
	return c
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	n, err := c.Write([]byte(s))
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// wantRead reads exactly what is wanted.
func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

// wantSilence sees to it that nothing can be read for a second.
func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	wantTimeout(t, err)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	require.Equal(t, io.EOF, err)
}

// wantReadError checks the type of the error, too.
func wantReadError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	require.Zero(t, n)
	wantOpError(t, err, "read", want)
}

func wantWriteError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	wantOpError(t, err, "write", want)
}

func wantOpError(t *testing.T, err error, op string, want error) {
	t.Helper()
	var e *net.OpError
	require.ErrorAs(t, err, &e)
	require.Equal(t, op, e.Op)
	require.Equal(t, "tcp", e.Net)
	require.ErrorIs(t, err, want)
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	var e net.Error
	require.True(t, errors.As(err, &e) && e.Timeout(), "want a timeout, got %v", err)
}

// call is a function running in a goroutine of its own.
type call struct {
	done chan struct{}
	err  error
}

func start(f func() error) *call {
	c := &call{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = f()
	}()
	return c
}

// wantWaiting sees to it that the call is still waiting when nothing in the bubble can go on.
func (c *call) wantWaiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
		require.Fail(t, "the call has returned", "%v", c.err)
	default:
	}
}

// wantDone sees to it that the call has returned without time passing.
func (c *call) wantDone(t *testing.T) error {
	t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
	default:
		require.Fail(t, "the call is still waiting")
	}
	return c.err
}
