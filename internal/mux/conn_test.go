package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// TestClose: it ends handlers' contexts, waits for them, and may be repeated.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed []error
		handler := false
		c, s := pair(t, Options{}, Options{
			Serve: func(ctx context.Context, _ Request, _ func(Reply) bool) Reply {
				<-ctx.Done()
				time.Sleep(time.Second)
				handler = true
				return Reply{}
			},
			Closed: func(err error) { closed = append(closed, err) },
		})
		var err error
		go func() { _, err = c.Call(t.Context(), Request{}, nil) }()
		synctest.Wait()
		require.NoError(t, s.Err())
		begin := time.Now()
		for range 2 {
			require.NoError(t, s.Close())
			require.True(t, handler)
			require.Equal(t, time.Second, time.Since(begin))
		}
		s.Abort(io.EOF)
		require.Equal(t, ErrClosed, s.Err())
		require.Equal(t, []error{ErrClosed}, closed)
		synctest.Wait()
		require.ErrorIs(t, err, io.EOF)
		require.ErrorIs(t, c.Err(), io.EOF)
		require.False(t, c.Send(nil))
	})
}

func TestAbortFromAnywhere(t *testing.T) {
	why := errors.New("why")
	var s *Conn
	ready := make(chan struct{})
	abort := func() { <-ready; s.Abort(why) }
	for name, opts := range map[string]Options{
		"serve":  {Serve: func(context.Context, Request, func(Reply) bool) Reply { abort(); return Reply{} }},
		"fast":   {Fast: func(*Request) (Reply, bool) { abort(); return Reply{}, true }},
		"heard":  {Heard: func() error { abort(); return nil }},
		"packet": {Packet: func([]byte, uint64) { abort() }},
		"error":  {Heard: func() error { return why }},
	} {
		t.Run(name, func(t *testing.T) {
			ready = make(chan struct{})
			var closed atomic.Int32
			opts.Closed = func(err error) {
				require.Equal(t, why, err)
				closed.Add(1)
			}
			var c *Conn
			c, s = pair(t, Options{}, opts)
			close(ready)
			c.Send([]byte("packet"))
			_, err := c.Call(t.Context(), Request{}, nil)
			require.Error(t, err)
			require.NoError(t, s.Close())
			require.Equal(t, why, s.Err())
			require.Equal(t, int32(1), closed.Load())
		})
	}
}

// TestNothingIsHandledAfterHeardFails: what a node read after a pause must not
// be acted on.
func TestNothingIsHandledAfterHeardFails(t *testing.T) {
	handled := false
	paused := errors.New("paused")
	c, r := withRogue(t, Options{
		Heard: func() error { return paused },
		Fast:  func(*Request) (Reply, bool) { handled = true; return Reply{}, true },
	})
	r.send(wire.Header{Kind: wire.KindRequest})
	require.Equal(t, paused, ended(t, c))
	c.Close()
	require.False(t, handled)
}

// TestNothingIsHandledAfterAbort: frames of the same read included.
func TestNothingIsHandledAfterAbort(t *testing.T) {
	handled := 0
	var c *Conn
	ready := make(chan struct{})
	c, r := withRogue(t, Options{Packet: func([]byte, uint64) { <-ready; handled++; c.Abort(nil) }})
	close(ready)
	h := wire.Header{Kind: wire.KindPacket}
	two := wire.AppendFrame(wire.AppendFrame(nil, &h, nil, nil), &h, nil, nil)
	_, err := r.nc.Write(two)
	require.NoError(t, err)
	<-c.Done()
	c.Close()
	require.Equal(t, 1, handled)
}

// TestNothingIsServedAfterAbort: a request of which the last piece came with
// the read that ended the connection.
func TestNothingIsServedAfterAbort(t *testing.T) {
	var c *Conn
	served, ready := false, make(chan struct{})
	const size = 4 * minPiece
	c, r := withRogue(t, Options{
		Serve: func(_ context.Context, req Request, _ func(Reply) bool) Reply {
			served = true
			return Reply{}
		},
		Heard: func() error {
			<-ready
			c.mu.Lock()
			s := c.served[1]
			last := s != nil && s.in != nil && s.in.complete()
			c.mu.Unlock()
			if last {
				c.Abort(nil)
			}
			return nil
		},
	})
	close(ready)
	r.send(wire.Header{Kind: wire.KindRequest, Call: 1, Fields: wire.Fields{BodySize: size}})
	r.send(wire.Header{Kind: wire.KindChunk, Call: 1}, make([]byte, size)...)
	<-c.Done()
	c.Close()
	require.False(t, served)
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var digests []uint64
		digest := uint64(0)
		c, _ := pair(t, Options{PacketDigest: func() uint64 { digest++; return digest }}, Options{
			Packet: func(p []byte, d uint64) { got, digests = append(got, string(p)), append(digests, d) },
		})
		for _, p := range []string{"one", "", "three"} {
			b := []byte(p)
			require.True(t, c.Send(b))
			clear(b) // it was copied
		}
		synctest.Wait()
		require.Equal(t, []string{"one", "", "three"}, got)
		require.Equal(t, []uint64{1, 2, 3}, digests)
		require.False(t, c.Send(make([]byte, MaxWhole+1)))
		require.Equal(t, int64(1), c.Stats().PacketsDropped)
	})
}

// TestPacketsAreDropped: never queued beyond the bound, never in anybody's way.
func TestPacketsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{MaxPackets: 3})
		require.True(t, c.Send([]byte{0}))
		synctest.Wait() // it is being written, for ever
		sent := 0
		for i := range 10 {
			if c.Send([]byte{byte(i)}) {
				sent++
			}
		}
		require.Equal(t, 3, sent)
		require.Equal(t, int64(7), c.Stats().PacketsDropped)
		for range 4 {
			r.next(wire.KindPacket)
		}
		synctest.Wait()
		require.True(t, c.Send(nil))
	})
}

// TestPacketsAreDroppedByBytes: many bytes are too much as well.
func TestPacketsAreDroppedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := withRogue(t, Options{MaxQueue: 1000})
		require.True(t, c.Send(nil))
		synctest.Wait()
		require.True(t, c.Send(make([]byte, 600)))
		require.False(t, c.Send(make([]byte, 600)))
	})
}

func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := 0
		begin := time.Now()
		c, r := withRogue(t, Options{Heard: func() error { heard++; return nil }})
		time.Sleep(time.Second)
		require.Equal(t, time.Second, c.SinceHeard())
		require.True(t, c.LastHeard().Equal(begin))
		r.send(wire.Header{Kind: wire.KindVoid})
		synctest.Wait()
		require.Equal(t, 1, heard)
		require.Zero(t, c.SinceHeard())
		time.Sleep(2 * time.Second)
		require.Equal(t, 2*time.Second, c.SinceHeard())
		require.True(t, c.LastHeard().Equal(begin.Add(time.Second)))
	})
}

// TestWriteTimeout: a peer that does not read loses the connection.
func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{WriteTimeout: 4 * time.Second})
		go func() { r.next(wire.KindPacket) }()
		c.Send(nil)
		time.Sleep(time.Second / 2) // the deadline set then still stands
		begin := time.Now()
		_, err := c.Call(t.Context(), Request{}, nil)
		requireSent(t, true, err, os.ErrDeadlineExceeded)
		require.GreaterOrEqual(t, time.Since(begin), 3*time.Second)
		require.LessOrEqual(t, time.Since(begin), 4*time.Second)
	})
}

// TestIdleIsNoTimeout: a deadline that passed while nothing was written harms
// nobody.
func TestIdleIsNoTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Options{}, Options{Serve: echo})
		for range 5 {
			_, err := c.Call(t.Context(), Request{}, nil)
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
	})
}

// TestPeerAsksAndDoesNotRead: answers that nobody reads do not pile up.
func TestPeerAsksAndDoesNotRead(t *testing.T) {
	for name, opts := range map[string]Options{
		"refusals": {},
		"fast":     {Fast: func(*Request) (Reply, bool) { return Reply{Body: make([]byte, 1000)}, true }},
		"serve":    {Fast: func(*Request) (Reply, bool) { return Reply{Body: make([]byte, 1000)}, true }, Serve: echo},
	} {
		t.Run(name, func(t *testing.T) {
			opts.MaxQueue, opts.MaxInFlight, opts.WriteTimeout = 10_000, 10, time.Hour
			c, r := withRogue(t, opts)
			var b []byte
			for i := range 100 {
				b = wire.AppendFrame(b, &wire.Header{Kind: wire.KindRequest, Call: uint64(i)}, nil, nil)
			}
			for {
				if _, err := r.nc.Write(b); err != nil {
					break
				}
				for i := range 100 {
					b[i*wire.HeaderSize+13]++ // other call ids
					if b[i*wire.HeaderSize+13] == 0 {
						b[i*wire.HeaderSize+12]++
					}
				}
				c.mu.Lock()
				pending := len(c.out.buf)
				c.mu.Unlock()
				require.LessOrEqual(t, pending, 10_000+MaxWhole+1100)
			}
			require.ErrorIs(t, c.Err(), ErrSlow)
		})
	}
}

// TestDrain: what is under way is answered, what comes later is refused on the
// other side, unsent.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := pair(t, Options{Serve: echo}, Options{Serve: func(ctx context.Context, req Request, _ func(Reply) bool) Reply {
			time.Sleep(time.Second)
			return Reply{Body: pattern(300_000)}
		}})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := c.Call(t.Context(), Request{}, nil)
				require.NoError(t, err)
			})
		}
		synctest.Wait()
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		require.ErrorIs(t, s.Drain(ctx), context.DeadlineExceeded)
		require.True(t, c.GoingAway())
		for range 2 {
			wg.Go(func() { require.NoError(t, s.Drain(t.Context())) })
		}
		wg.Wait()
		require.Equal(t, time.Second, time.Since(begin))
		_, err := c.Call(t.Context(), Request{}, nil)
		requireSent(t, false, err, ErrGoingAway)
		_, err = s.Call(t.Context(), Request{}, nil) // the other direction goes on
		require.NoError(t, err)
		require.NoError(t, s.Drain(t.Context()))
		s.Close()
		require.ErrorIs(t, s.Drain(t.Context()), ErrClosed)
	})
}

// TestDrainWaitsForTheAck: until the peer has seen that it shall send no more,
// a request may be on its way.
func TestDrainWaitsForTheAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{Serve: echo})
		drained := false
		go func() {
			require.NoError(t, c.Drain(t.Context()))
			drained = true
		}()
		r.next(wire.KindGoaway)
		synctest.Wait()
		require.False(t, drained)
		r.send(wire.Header{Kind: wire.KindRequest, Call: 1, Code: 7})
		require.Equal(t, uint8(7), r.next(wire.KindReply).Code)
		synctest.Wait()
		require.False(t, drained)
		r.send(wire.Header{Kind: wire.KindGoaway, Flags: wire.FlagAck})
		synctest.Wait()
		require.True(t, drained)
	})
}

// TestDrainAndLargeRequests: those that were announced come through, others
// fail unsent.
func TestDrainAndLargeRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{})
		errs := make([]error, maxStreams+2)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = c.Call(t.Context(), Request{Body: pattern(MaxWhole + 1)}, nil) })
			synctest.Wait()
		}
		r.send(wire.Header{Kind: wire.KindGoaway})
		synctest.Wait()
		got := map[uint64]int{}
		acked := false
		for done := 0; done < len(got) || !acked; {
			var f wire.Frame
			require.NoError(t, r.fr.Read(&f))
			switch f.Kind {
			case wire.KindGoaway:
				require.Equal(t, wire.FlagAck, f.Flags)
				acked = true
			case wire.KindRequest:
				require.False(t, acked)
				got[f.Call] = 0
			case wire.KindChunk:
				if got[f.Call] += len(f.Body); got[f.Call] == MaxWhole+1 {
					done++
				}
			}
		}
		for id := range got {
			r.send(wire.Header{Kind: wire.KindReply, Call: id})
		}
		wg.Wait()
		failed := 0
		for _, err := range errs {
			if err != nil {
				requireSent(t, false, err, ErrGoingAway)
				failed++
			}
		}
		require.Equal(t, len(errs)-len(got), failed)
		require.Positive(t, failed)
	})
}

// TestCloseSaysNoGoodbye: a connection that says goodbye when it is closed, as
// TLS does, is closed at once although its peer reads nothing.
func TestCloseSaysNoGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cn, sn := net.Pipe()
		defer sn.Close()
		c := New(polite{cn}, Options{})
		begin := time.Now()
		c.Close()
		require.Zero(t, time.Since(begin))
	})
}

// polite says goodbye when it is closed.
type polite struct{ net.Conn }

func (p polite) NetConn() net.Conn { return p.Conn }

func (p polite) Close() error {
	_ = p.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, _ = p.Write([]byte("bye"))
	return p.Conn.Close()
}
