package mux

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/peercache/peercache/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns two Conns over an in-memory connection without any buffer.
func pair(t testing.TB, client, server Options) (c, s *Conn) {
	cn, sn := net.Pipe()
	c, s = New(cn, client), New(sn, server)
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

// loopback is pair over TCP.
func loopback(t testing.TB, client, server Options) (c, s *Conn) {
	cn, sn := tcpPair(t)
	c, s = New(cn, client), New(sn, server)
	t.Cleanup(func() {
		c.Close()
		s.Close()
	})
	return c, s
}

// echo answers with what it got.
func echo(_ context.Context, req Request, _ func(Reply) bool) Reply {
	return Reply{Code: req.Op, Fields: req.Fields, Body: req.Body}
}

// rogue is the far end of a Conn in the hands of the test.
type rogue struct {
	t  testing.TB
	nc net.Conn
	fr *wire.FrameReader
}

// withRogue returns a Conn and its far end.
func withRogue(t testing.TB, opts Options) (*Conn, *rogue) {
	cn, sn := net.Pipe()
	c := New(cn, opts)
	t.Cleanup(func() {
		c.Close()
		sn.Close()
	})
	return c, &rogue{t, sn, wire.NewFrameReader(sn, 1<<20)}
}

func (r *rogue) send(h wire.Header, body ...byte) {
	r.t.Helper()
	_, err := r.nc.Write(wire.AppendFrame(nil, &h, body, nil))
	require.NoError(r.t, err)
}

// next reads a frame; its body is valid until the next call.
func (r *rogue) next(kind wire.Kind) wire.Frame {
	r.t.Helper()
	var f wire.Frame
	require.NoError(r.t, r.fr.Read(&f))
	require.Equal(r.t, kind, f.Kind)
	return f
}

// ended waits until c has ended and returns why.
func ended(t testing.TB, c *Conn) error {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		require.Fail(t, "the connection has not ended")
	}
	return c.Err()
}

// eventually waits for something that other goroutines bring about.
func eventually(t testing.TB, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "it does not happen")
	}
}

// pattern is n bytes that differ by place.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 31 >> 3)
	}
	return b
}

// requireSent checks err's kind and whether the request may have been sent.
func requireSent(t testing.TB, sent bool, err, target error) {
	t.Helper()
	require.ErrorIs(t, err, target)
	var call *CallError
	require.ErrorAs(t, err, &call)
	require.Equal(t, sent, call.Sent, err.Error())
	if sent {
		require.NotErrorIs(t, err, ErrNotSent)
	} else {
		require.ErrorIs(t, err, ErrNotSent)
	}
}

func requireRemote(t testing.TB, code wire.ErrorCode, err error) *RemoteError {
	t.Helper()
	var remote *RemoteError
	require.ErrorAs(t, err, &remote)
	require.Equal(t, code, remote.Code, err.Error())
	return remote
}

func requireBytes(t testing.TB, want, got []byte) {
	t.Helper()
	require.True(t, bytes.Equal(want, got), "%d bytes wanted, %d got, or they differ", len(want), len(got))
}

// held returns the bytes of bodies that c makes room for.
func held(c *Conn) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held + c.in.held
}
