package mux

import (
	"bytes"
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// TestSizes: bodies around every bound, in two parts, both ways.
func TestSizes(t *testing.T) {
	t.Run("in memory", func(t *testing.T) { testSizes(t, pair) })
	t.Run("over loopback", func(t *testing.T) { testSizes(t, loopback) })
}

func testSizes(t *testing.T, pair func(t testing.TB, client, server Options) (c, s *Conn)) {
	const chunk = 64 << 10
	c, s := pair(t, Options{}, Options{Serve: func(_ context.Context, req Request, _ func(Reply) bool) Reply {
		return Reply{Body: req.Body[:len(req.Body)/3], Tail: req.Body[len(req.Body)/3:]}
	}})
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, MaxWhole - 1, MaxWhole, MaxWhole + 1, 5 * chunk, 5*chunk - 1, 3 << 20} {
		for _, split := range []int{0, n / 2, chunk, n} {
			body := pattern(n)
			split = min(split, n)
			r, err := c.Call(t.Context(), Request{Body: body[:split], Tail: body[split:]}, nil)
			require.NoError(t, err)
			requireBytes(t, body, r.Body)
		}
	}
	eventually(t, func() bool { return held(c) == 0 && held(s) == 0 })
}

// TestFastLarge: a fast answer that has to be cut or to wait is copied.
func TestFastLarge(t *testing.T) {
	shared := make([]byte, 3<<20)
	c, _ := pair(t, Options{}, Options{Serve: echo, Fast: func(req *Request) (Reply, bool) {
		copy(shared, pattern(len(shared)))
		shared[0] = req.Op
		return Reply{Body: shared[:1], Tail: shared[1:]}, true
	}})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r, err := c.Call(t.Context(), Request{Op: uint8(i)}, nil)
			if err != nil || len(r.Body) != len(shared) || r.Body[0] != uint8(i) {
				t.Error(err, len(r.Body))
			}
		})
	}
	wg.Wait()
}

// TestInterleaved: while large bodies are sent, small frames go between their
// chunks, and not too many large ones are under way.
func TestInterleaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{WriteTimeout: time.Hour})
		const size = 1 << 20
		for range maxStreams + 3 {
			go func() { _, _ = c.Call(t.Context(), Request{Body: pattern(size)}, nil) }()
		}
		synctest.Wait()
		got := map[uint64][]byte{}
		whole := 0
		for whole < maxStreams+3 {
			require.True(t, c.Send([]byte("small")))
			synctest.Wait()
			chunks := 0
			for small := false; !small; {
				var f wire.Frame
				require.NoError(t, r.fr.Read(&f))
				switch f.Kind {
				case wire.KindPacket:
					small = true
				case wire.KindRequest:
					require.Equal(t, uint64(size), f.Fields.BodySize)
					require.Empty(t, f.Body)
					got[f.Call] = []byte{}
					require.LessOrEqual(t, len(got)-whole, maxStreams)
				case wire.KindChunk:
					require.LessOrEqual(t, len(f.Body), 64<<10)
					if got[f.Call] = append(got[f.Call], f.Body...); len(got[f.Call]) == size {
						requireBytes(t, pattern(size), got[f.Call])
						whole++
					}
					chunks++
				}
			}
			require.LessOrEqual(t, chunks, 2, "the small frame had to wait")
		}
	})
}

// TestLargeAndSmall: bodies of all sizes at the same time, both ways.
func TestLargeAndSmall(t *testing.T) {
	c, s := loopback(t, Options{Serve: echo}, Options{Serve: echo})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			from, body := c, pattern(10<<(i+7))
			if i%2 == 0 {
				from = s
			}
			for j := range 20 {
				r, err := from.Call(t.Context(), Request{Op: uint8(j), Body: body[j:], Tail: body[:j]}, nil)
				if err != nil || r.Code != uint8(j) || !bytes.Equal(r.Body, append(body[j:len(body):len(body)], body[:j]...)) {
					t.Error(err, len(r.Body))
				}
			}
		})
	}
	wg.Wait()
}

// TestReplyIsFreed: whatever becomes of a reply, it is told once that nothing
// reads it any more.
func TestReplyIsFreed(t *testing.T) {
	var freed atomic.Int64
	serve := func(_ context.Context, req Request, _ func(Reply) bool) Reply {
		return Reply{Body: make([]byte, int(req.Op)<<20), Free: func() { freed.Add(1) }}
	}
	for _, pair := range []func(t testing.TB, client, server Options) (c, s *Conn){pair, loopback} {
		freed.Store(0)
		c, _ := pair(t, Options{}, Options{Serve: serve, MaxBody: 4 << 20})
		for op := range uint8(5) {
			_, err := c.Call(t.Context(), Request{Op: op}, nil)
			require.NoError(t, err)
		}
		eventually(t, func() bool { return freed.Load() == 5 })
		_, err := c.Call(t.Context(), Request{Op: 5}, nil)
		requireRemote(t, wire.CodeTooLarge, err)
		eventually(t, func() bool { return freed.Load() == 6 })
	}

	// A peer that reads nothing: while the writer stands in the middle of a
	// body, the one who asked for it leaves.
	freed.Store(0)
	cn, sn := tcpPair(t)
	defer cn.Close()
	s := New(sn, Options{Serve: serve, WriteTimeout: time.Hour})
	_, err := cn.Write(wire.AppendFrame(nil, &wire.Header{Kind: wire.KindRequest, Code: 16, Call: 1}, nil, nil))
	require.NoError(t, err)
	standing := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.out.active) == 1 && s.out.active[0].writing
	}
	at := int64(-1)
	eventually(t, func() bool { // the socket has taken all that it takes
		now := s.bytesOut.Load()
		stands := standing() && now == at
		at = now
		time.Sleep(20 * time.Millisecond)
		return stands
	})
	_, err = cn.Write(wire.AppendFrame(nil, &wire.Header{Kind: wire.KindCancel, Call: 1}, nil, nil))
	require.NoError(t, err)
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.served) == 0
	})
	require.Zero(t, freed.Load(), "the writer still reads it")
	require.NoError(t, s.Close())
	require.EqualValues(t, 1, freed.Load())
}

// TestLargeRequestAbandoned: a caller may leave in the middle of its large
// body.
func TestLargeRequestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{WriteTimeout: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		body := pattern(1 << 20)
		errs := make([]error, maxStreams+1)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = c.Call(ctx, Request{Body: body}, nil) })
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		for i, err := range errs {
			// The first was being written alone; the writer took no more.
			requireSent(t, i == 0, err, context.Canceled)
		}
		id := r.next(wire.KindRequest).Call
		r.next(wire.KindChunk)
		require.Equal(t, id, r.next(wire.KindCancel).Call)
		require.True(t, c.Send(nil))
		r.next(wire.KindPacket)
		require.Empty(t, c.out.active)
		require.Empty(t, c.out.queue)
	})
}

// TestLargeRequestAnsweredEarly: a peer that refuses does not get the rest.
func TestLargeRequestAnsweredEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{})
		var err error
		go func() { _, err = c.Call(t.Context(), Request{Body: pattern(8 << 20)}, nil) }()
		id := r.next(wire.KindRequest).Call
		go r.send(wire.Header{Kind: wire.KindError, Code: uint8(wire.CodeBusy), Call: id})
		chunks := 0
		for {
			var f wire.Frame
			require.NoError(t, r.fr.Read(&f))
			if f.Kind == wire.KindCancel {
				break
			}
			chunks++
			time.Sleep(time.Nanosecond) // lets the refusal be read
		}
		require.Less(t, chunks, 10)
		synctest.Wait()
		requireRemote(t, wire.CodeBusy, err)
	})
}

// TestLargeReplyAbandoned: the peer stops sending, and this side has its room
// back.
func TestLargeReplyAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{MaxBody: 1 << 20})
		for range 10 { // more than there is room for at a time
			ctx, cancel := context.WithCancel(t.Context())
			var err error
			go func() { _, err = c.Call(ctx, Request{}, nil) }()
			id := r.next(wire.KindRequest).Call
			r.send(wire.Header{Kind: wire.KindReply, Call: id, Fields: wire.Fields{BodySize: 1 << 20}})
			r.send(wire.Header{Kind: wire.KindChunk, Flags: wire.FlagReply, Call: id}, pattern(1000)...)
			synctest.Wait()
			require.Equal(t, 1<<20, held(c))
			cancel()
			require.Equal(t, id, r.next(wire.KindCancel).Call)
			synctest.Wait()
			requireSent(t, true, err, context.Canceled)
			require.Zero(t, held(c))
			r.send(wire.Header{Kind: wire.KindChunk, Flags: wire.FlagReply, Call: id}, pattern(1000)...) // crossed
		}
		require.NoError(t, c.Err())
	})
}

// TestServerStopsLargeReply: of a reply whose caller left no more is sent.
func TestServerStopsLargeReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{Serve: func(context.Context, Request, func(Reply) bool) Reply {
			return Reply{Body: pattern(8 << 20)}
		}})
		r.send(wire.Header{Kind: wire.KindRequest, Call: 5})
		require.Equal(t, uint64(8<<20), r.next(wire.KindReply).Fields.BodySize)
		r.next(wire.KindChunk)
		r.send(wire.Header{Kind: wire.KindCancel, Call: 5})
		r.send(wire.Header{Kind: wire.KindRequest, Call: 6})
		for {
			var f wire.Frame
			require.NoError(t, r.fr.Read(&f))
			if f.Kind == wire.KindReply {
				require.Equal(t, uint64(6), f.Call)
				break
			}
		}
		require.Equal(t, uint64(6), r.next(wire.KindChunk).Call)
		require.Equal(t, uint64(6), r.next(wire.KindChunk).Call)
		require.Equal(t, 1, c.Stats().Serving)
	})
}

// TestDeadlineOfLargeReply: a reply that cannot be sent in time is given up,
// and whoever still waits is told.
func TestDeadlineOfLargeReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{Serve: func(context.Context, Request, func(Reply) bool) Reply {
			return Reply{Body: pattern(8 << 20)}
		}})
		r.send(wire.Header{Kind: wire.KindRequest, Call: 5, Fields: wire.Fields{Deadline: time.Second}})
		time.Sleep(2 * time.Second)
		for {
			var f wire.Frame
			require.NoError(t, r.fr.Read(&f))
			if f.Kind == wire.KindError {
				require.Equal(t, uint8(wire.CodeDeadline), f.Code)
				break
			}
		}
		synctest.Wait()
		require.Zero(t, c.Stats().Serving)
	})
}

// TestRoomForRequests: bodies being received and served are bounded together.
func TestRoomForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		c, r := withRogue(t, Options{MaxBody: size, Serve: echo})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range maxStreams {
			r.send(wire.Header{Kind: wire.KindRequest, Call: uint64(i), Fields: wire.Fields{BodySize: size}})
		}
		synctest.Wait()
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(size), "room is made when the first chunk comes")
		r.send(wire.Header{Kind: wire.KindRequest, Call: 100, Fields: wire.Fields{BodySize: size}})
		f := r.next(wire.KindError)
		require.Equal(t, uint64(100), f.Call)
		require.Equal(t, uint8(wire.CodeBusy), f.Code)
		r.send(wire.Header{Kind: wire.KindChunk, Call: 100}, 1, 2, 3) // was on its way: ignored
		r.send(wire.Header{Kind: wire.KindCancel, Call: 0})
		r.send(wire.Header{Kind: wire.KindRequest, Call: 101, Fields: wire.Fields{BodySize: size}})
		synctest.Wait()
		require.Equal(t, maxStreams, c.Stats().Serving)
		require.Equal(t, maxStreams*size, held(c))
		r.send(wire.Header{Kind: wire.KindRequest, Call: 102, Fields: wire.Fields{BodySize: 1 << 62}})
		require.Equal(t, uint8(wire.CodeTooLarge), r.next(wire.KindError).Code)
	})
}

// TestRoomForReplies: a peer that answers everything at once loses those that
// find no room, and only those.
func TestRoomForReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		c, r := withRogue(t, Options{MaxBody: size})
		errs := make([]error, maxStreams+1)
		for i := range errs {
			go func() { _, errs[i] = c.Call(t.Context(), Request{Op: uint8(i)}, nil) }()
		}
		var last uint8
		for range errs {
			f := r.next(wire.KindRequest)
			last = f.Code
			r.send(wire.Header{Kind: wire.KindReply, Call: f.Call, Fields: wire.Fields{BodySize: size}})
		}
		r.next(wire.KindCancel)
		synctest.Wait()
		requireSent(t, true, errs[last], errRoom)
		require.Equal(t, maxStreams*size, held(c))
		require.Equal(t, maxStreams, c.Stats().Calls)
	})
}

// TestViolations: what the protocol does not allow ends the connection.
func TestViolations(t *testing.T) {
	request := func(call uint64, size uint64) wire.Frame {
		return wire.Frame{Header: wire.Header{Kind: wire.KindRequest, Call: call, Fields: wire.Fields{BodySize: size}}}
	}
	chunk := func(call uint64, n int) wire.Frame {
		return wire.Frame{Header: wire.Header{Kind: wire.KindChunk, Call: call}, Body: make([]byte, n)}
	}
	block := func(ctx context.Context, _ Request, _ func(Reply) bool) Reply { <-ctx.Done(); return Reply{} }
	for name, frames := range map[string][]wire.Frame{
		"call id twice":                 {request(1, 0), request(1, 0)},
		"call id twice, large":          {request(1, 9), request(1, 9)},
		"chunk beyond":                  {request(1, 9), chunk(1, 10)},
		"chunks beyond":                 {request(1, 9), chunk(1, 5), chunk(1, 5)},
		"empty chunk":                   {request(1, 9), chunk(1, 0)},
		"body with the announcement":    {{Header: request(1, 9).Header, Body: []byte("x")}},
		"a kind of snapshots":           {{Header: wire.Header{Kind: wire.KindData}}},
		"critical field in the unknown": nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, r := withRogue(t, Options{Serve: block})
			var b []byte
			for _, f := range frames {
				b = wire.AppendFrame(b, &f.Header, f.Body, nil)
			}
			if frames == nil {
				b = critical(wire.KindPacket, 0)
			}
			_, _ = r.nc.Write(b)
			require.ErrorIs(t, ended(t, c), ErrProtocol)
		})
	}
	t.Run("frame too large", func(t *testing.T) {
		c, r := withRogue(t, Options{MaxFrame: 1000})
		_, _ = r.nc.Write([]byte{0, 0, 4, 0})
		require.ErrorIs(t, ended(t, c), wire.ErrTooLarge)
		require.ErrorIs(t, c.Err(), ErrProtocol)
	})
	t.Run("reply announced twice", func(t *testing.T) {
		c, r := withRogue(t, Options{})
		go func() { _, _ = c.Call(t.Context(), Request{}, nil) }()
		id := r.next(wire.KindRequest).Call
		r.send(wire.Header{Kind: wire.KindReply, Call: id, Fields: wire.Fields{BodySize: 9}})
		_, _ = r.nc.Write(wire.AppendFrame(nil, &wire.Header{Kind: wire.KindReply, Call: id, Fields: wire.Fields{BodySize: 9}}, nil, nil))
		require.ErrorIs(t, ended(t, c), ErrProtocol)
	})
}

// critical is a frame with a critical field that nobody knows.
func critical(kind wire.Kind, call byte) []byte {
	return []byte{0, 0, 0, 14, byte(kind), 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, call, 0x80 | 99, 0}
}

// TestCritical: an unknown critical field costs that call and no other.
func TestCritical(t *testing.T) {
	c, r := withRogue(t, Options{Serve: echo})
	_, err := r.nc.Write(critical(wire.KindRequest, 9))
	require.NoError(t, err)
	f := r.next(wire.KindError)
	require.Equal(t, uint64(9), f.Call)
	require.Equal(t, uint8(wire.CodeUnsupported), f.Code)
	require.Contains(t, string(f.Body), "critical field")

	done := make(chan error)
	go func() {
		_, err := c.Call(t.Context(), Request{}, nil)
		done <- err
	}()
	b := critical(wire.KindReply, 0)
	id := r.next(wire.KindRequest).Call
	for i := range 7 {
		b[9+i] = byte(id >> (8 * (6 - i)))
	}
	_, err = r.nc.Write(b)
	require.NoError(t, err)
	r.next(wire.KindCancel)
	requireSent(t, true, <-done, wire.ErrCritical)
	require.NoError(t, c.Err())
}

// TestForNobody: answers and pieces that nobody waits for are ignored.
func TestForNobody(t *testing.T) {
	c, r := withRogue(t, Options{Serve: echo})
	for _, h := range []wire.Header{
		{Kind: wire.KindReply, Call: 1}, {Kind: wire.KindReply, Call: wire.MaxCall, Fields: wire.Fields{BodySize: 9}},
		{Kind: wire.KindError}, {Kind: wire.KindProgress, Call: 1}, {Kind: wire.KindCancel, Call: 1},
		{Kind: wire.KindChunk, Call: 1}, {Kind: wire.KindChunk, Flags: wire.FlagReply, Call: 1},
		{Kind: wire.KindVoid}, {Kind: wire.KindPacket}, {Kind: wire.KindGoaway, Flags: wire.FlagAck},
	} {
		r.send(h, 1)
	}
	r.send(wire.Header{Kind: wire.KindRequest, Call: 3, Code: 4})
	require.Equal(t, uint8(4), r.next(wire.KindReply).Code)
	require.NoError(t, c.Err())
}

// TestSignsOfLife: a peer that sends a large request slowly hears of it while it
// arrives, whether in whole chunks or in pieces of them, and not otherwise.
func TestSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r := withRogue(t, Options{Serve: echo, ChunkAbove: 1})
		const size = 1 << 20
		body := pattern(size)
		r.send(wire.Header{Kind: wire.KindRequest, Call: 1, Fields: wire.Fields{BodySize: size}})
		signs := 0
		var reply []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			for len(reply) < size {
				var f wire.Frame
				if r.fr.Read(&f) != nil {
					return
				}
				switch f.Kind {
				case wire.KindVoid:
					signs++
				case wire.KindChunk:
					reply = append(reply, f.Body...)
				}
			}
		}()
		const chunk = 64 << 10
		for at := 0; at < size; at += chunk {
			h := wire.Header{Kind: wire.KindChunk, Call: 1}
			if at < size/2 {
				time.Sleep(2 * signEvery)
				r.send(h, body[at:at+chunk]...)
				continue
			}
			frame := wire.AppendFrame(nil, &h, body[at:at+chunk], nil)
			for len(frame) > 0 {
				time.Sleep(signEvery / 2)
				n := min(len(frame), 16<<10)
				_, err := r.nc.Write(frame[:n])
				require.NoError(t, err)
				frame = frame[n:]
			}
		}
		<-done
		requireBytes(t, body, reply)
		require.InDelta(t, 8+4*8/2, signs, 4)
	})
}

// TestLargeBodiesTakeTurns: of bodies that are very large fewer are sent at a time,
// so that the receiver, who bounds what it takes, refuses none.
func TestLargeBodiesTakeTurns(t *testing.T) {
	const most, size = largeBody + 1<<20, 20 << 20
	o := new(outbox)
	for i := range 6 {
		o.add(&stream{header: wire.Header{Call: uint64(i)}, size: size, body: make([]byte, size), done: make(chan struct{})})
	}
	o.add(&stream{header: wire.Header{Call: 6}, size: most, body: make([]byte, most), done: make(chan struct{})})
	greatest := 0
	for {
		s, _, _ := o.advance(size/3, maxActive(most))
		if s == nil {
			break
		}
		sum := 0
		for _, a := range o.active {
			sum += a.size
		}
		require.Equal(t, sum, o.sending)
		require.LessOrEqual(t, sum, maxActive(most))
		greatest = max(greatest, len(o.active))
		o.buf = o.buf[:0]
	}
	require.Equal(t, 3, greatest)
	require.Zero(t, o.sending)
	require.Empty(t, o.queue)
}
