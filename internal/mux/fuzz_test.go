package mux

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// FuzzConn feeds arbitrary bytes to a Conn that has a call of its own under
// way: no panic, nothing left behind, no room beyond the bounds.
func FuzzConn(f *testing.F) {
	frames := func(headers ...wire.Header) (b []byte) {
		for _, h := range headers {
			body := []byte("body")
			if h.Fields.BodySize != 0 {
				body = nil
			}
			b = wire.AppendFrame(b, &h, body, nil)
		}
		return b
	}
	const first = 1 << slotBits // the call id of the Conn's first call
	large := wire.Fields{BodySize: 8}
	f.Add(frames(wire.Header{Kind: wire.KindRequest, Call: 1, Code: 1}, wire.Header{Kind: wire.KindCancel, Call: 1}, wire.Header{Kind: wire.KindPacket}))
	f.Add(frames(wire.Header{Kind: wire.KindRequest, Call: 1, Fields: large}, wire.Header{Kind: wire.KindChunk, Call: 1}, wire.Header{Kind: wire.KindChunk, Call: 1}))
	f.Add(frames(wire.Header{Kind: wire.KindReply, Call: first, Fields: large}, wire.Header{Kind: wire.KindChunk, Flags: wire.FlagReply, Call: first},
		wire.Header{Kind: wire.KindChunk, Flags: wire.FlagReply, Call: first}))
	f.Add(frames(wire.Header{Kind: wire.KindProgress, Call: first}, wire.Header{Kind: wire.KindReply, Call: first}))
	f.Add(frames(wire.Header{Kind: wire.KindError, Call: first}, wire.Header{Kind: wire.KindGoaway}, wire.Header{Kind: wire.KindGoaway, Flags: wire.FlagAck}))
	f.Add(frames(wire.Header{Kind: wire.KindRequest, Fields: wire.Fields{BodySize: 1 << 40}}, wire.Header{Kind: wire.KindRequest, Call: 2, Fields: wire.Fields{Deadline: time.Microsecond}}))
	f.Add(critical(wire.KindRequest, 1))
	pieces := wire.AppendFrame(nil, &wire.Header{Kind: wire.KindRequest, Call: 1, Fields: wire.Fields{BodySize: 5 * minPiece}}, nil, nil)
	for range 2 {
		pieces = wire.AppendFrame(pieces, &wire.Header{Kind: wire.KindChunk, Call: 1}, make([]byte, 5*minPiece/2), nil)
	}
	f.Add(pieces)
	f.Add(pieces[:len(pieces)-minPiece])
	f.Add([]byte{255, 255, 255, 255, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		cn, sn := net.Pipe()
		opts := Options{
			MaxFrame: 4 * minPiece, MaxBody: 8 * minPiece, MaxInFlight: 8, MaxQueue: 16 << 10, Serve: echo,
			Fast:   func(req *Request) (Reply, bool) { return Reply{Body: req.Body}, req.Op%2 == 1 },
			Packet: func([]byte, uint64) {},
		}
		c := New(cn, opts)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, sn) })
		wg.Go(func() { _, _ = c.Call(context.Background(), Request{}, func(Reply) {}) })
		_, _ = sn.Write(data)
		s := c.Stats()
		require.LessOrEqual(t, s.Serving, opts.MaxInFlight)
		require.LessOrEqual(t, held(c), 2*maxStreams*opts.MaxBody)
		sn.Close()
		wg.Wait() // the call has failed or was answered
		c.Close()
		require.Error(t, c.Err())
		require.Zero(t, c.Stats().Calls)
		require.Zero(t, c.Stats().Serving-unfinished(c))
	})
}

// unfinished returns how many requests of c's peer were never received whole.
func unfinished(c *Conn) (n int) {
	for _, s := range c.served {
		if s.in != nil {
			n++
		}
	}
	return n
}

// FuzzServerHandshake feeds arbitrary bytes to the side that is dialed. With a
// secret nobody gets in.
func FuzzServerHandshake(f *testing.F) {
	c := record(f, local(1), local(2))
	f.Add(c.client)
	f.Add(c.server)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0, 1, msgProof})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := facing(data, true, asServer(local(2)))
		require.Error(t, err)
		require.NotEmpty(t, err.Error())
	})
}

// FuzzClientHandshake feeds arbitrary bytes to the side that dials.
func FuzzClientHandshake(f *testing.F) {
	c := record(f, local(1), local(2))
	f.Add(c.client)
	f.Add(c.server)
	f.Add(append([]byte{0, 6, msgRefusal}, "\x05\x01x\x01"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := facing(data, true, asClient(local(1)))
		require.Error(t, err)
		require.NotEmpty(t, err.Error())
	})
}

// FuzzHello reads an arbitrary hello; what can be read can be written.
func FuzzHello(f *testing.F) {
	h := hello{min: 1, max: 2, features: 3, purpose: PurposeCalls, secret: true, id: local(1).Self, expect: 4, clock: 5}
	f.Add(h.append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		any := func(uint16, uint16) bool { return true }
		var h, again hello
		if _, err := h.parse(data, any); err != nil {
			return
		}
		known, err := again.parse(h.append(nil), any)
		require.NoError(t, err)
		require.True(t, known)
		require.Equal(t, h, again)
		var p proof
		_ = p.parse(data)
		_ = parseRefusal(data)
	})
}
