package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// TestManyCalls: a thousand callers on each side of one connection, each gets
// its own answer.
func TestManyCalls(t *testing.T) {
	cn, sn := tcpPair(t)
	fast := func(req *Request) (Reply, bool) {
		return Reply{Code: req.Op, Body: append(req.Scratch, req.Body...)}, req.Op%2 == 0
	}
	opts := Options{Serve: echo, Fast: fast}
	c, s := New(cn, opts), New(sn, opts)
	defer c.Close()
	defer s.Close()
	var wg sync.WaitGroup
	for i := range 1000 {
		for _, from := range []*Conn{c, s} {
			wg.Go(func() {
				for round := range 3 {
					body := binary.BigEndian.AppendUint64(nil, uint64(i*10+round))
					tail := pattern(i * 7)
					r, err := from.Call(t.Context(), Request{Op: uint8(i), Body: body, Tail: tail}, nil)
					if err != nil || r.Code != uint8(i) || string(r.Body) != string(body)+string(tail) {
						t.Error(i, round, err, len(r.Body))
					}
				}
			})
		}
	}
	wg.Wait()
	// A writer counts after its Write, when the answers may have come already.
	eventually(t, func() bool {
		out, in := c.Stats(), s.Stats()
		return out.FramesOut == in.FramesIn && out.BytesOut == in.BytesIn
	})
	st := c.Stats()
	require.Equal(t, int64(6000), st.FramesOut)
	require.Zero(t, st.Calls)
	require.Zero(t, st.Serving)
	require.Zero(t, held(s))
}

func TestFieldsTravel(t *testing.T) {
	fields := wire.Fields{Deadline: time.Second, Digest: 1, Clock: 2, Operation: 3, BodySize: 99, Load: 4}
	want := fields
	want.BodySize = 0
	for _, size := range []int{0, 10, MaxWhole + 1} {
		c, _ := pair(t, Options{}, Options{Serve: func(_ context.Context, req Request, _ func(Reply) bool) Reply {
			if size <= MaxWhole && req.Fields != want {
				return Reply{Code: 1}
			}
			return Reply{Fields: fields, Body: req.Body}
		}})
		r, err := c.Call(t.Context(), Request{Fields: fields, Body: pattern(size)}, nil)
		require.NoError(t, err)
		require.Equal(t, uint8(0), r.Code)
		require.Equal(t, want, r.Fields)
		requireBytes(t, pattern(size), r.Body)
	}
}

// TestDeadlineTravels: what is left when the frame is written is what the
// handler gets, however long the frame waited.
func TestDeadlineTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for range 2 {
			go func() { _, _ = c.Call(ctx, Request{}, nil) }()
			synctest.Wait() // the first is being written, the second waits
		}
		time.Sleep(4 * time.Second)
		require.Equal(t, 10*time.Second, r.next(wire.KindRequest).Fields.Deadline)
		require.Equal(t, 6*time.Second, r.next(wire.KindRequest).Fields.Deadline)
	})
}

// TestDeadlineBoundsHandler: the handler's context ends when the caller's does.
func TestDeadlineBoundsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handler error
		c, s := pair(t, Options{}, Options{Serve: func(ctx context.Context, _ Request, _ func(Reply) bool) Reply {
			<-ctx.Done()
			handler = ctx.Err()
			time.Sleep(time.Second)
			return Reply{}
		}})
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Call(ctx, Request{}, nil)
		requireSent(t, true, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(begin))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Error(t, handler)
		require.Zero(t, s.Stats().Serving)
		require.Zero(t, c.Stats().Calls)
	})
}

// TestDeadlineOfTheFieldAlone bounds the handler when the caller has no
// deadline of its own.
func TestDeadlineOfTheFieldAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Options{}, Options{Serve: func(ctx context.Context, _ Request, _ func(Reply) bool) Reply {
			<-ctx.Done()
			return Reply{Code: 7}
		}})
		begin := time.Now()
		r, err := c.Call(context.Background(), Request{Fields: wire.Fields{Deadline: time.Second}}, nil)
		require.NoError(t, err)
		require.Equal(t, uint8(7), r.Code)
		require.Equal(t, time.Second, time.Since(begin))
	})
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var handler error
		c, s := pair(t, Options{}, Options{Serve: func(ctx context.Context, _ Request, _ func(Reply) bool) Reply {
			<-ctx.Done()
			handler = ctx.Err()
			return Reply{}
		}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		_, err := c.Call(ctx, Request{}, nil)
		requireSent(t, true, err, context.Canceled)
		synctest.Wait()
		require.Equal(t, context.Canceled, handler)
		require.Zero(t, s.Stats().Serving)

		_, err = c.Call(ctx, Request{}, nil) // over before it began
		requireSent(t, false, err, context.Canceled)
	})
}

// TestWithdrawn: a request that its caller leaves before it was written never
// reaches the peer, and the error says so. One that was being written may.
func TestWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{})
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithTimeout(t.Context(), time.Hour)
		errs := make([]error, 3)
		written := [3]atomic.Bool{}
		var wg sync.WaitGroup
		for i, ctx := range []context.Context{first, second, t.Context()} {
			wg.Go(func() { _, errs[i] = c.Call(ctx, Request{Op: uint8(i), Written: &written[i]}, nil) })
			synctest.Wait()
		}
		require.True(t, written[0].Load())
		require.False(t, written[1].Load())
		leaveSecond()
		leaveFirst()
		synctest.Wait()
		requireSent(t, true, errs[0], context.Canceled)
		requireSent(t, false, errs[1], context.Canceled)

		require.Equal(t, uint8(0), r.next(wire.KindRequest).Code)
		require.Equal(t, uint8(1), r.next(wire.KindVoid).Code)
		f := r.next(wire.KindRequest)
		require.Equal(t, uint8(2), f.Code)
		require.False(t, written[1].Load(), "it was withdrawn")
		require.True(t, written[2].Load())
		r.next(wire.KindCancel) // of the first
		r.send(wire.Header{Kind: wire.KindReply, Call: f.Call})
		wg.Wait()
		require.NoError(t, errs[2])
	})
}

// TestBroken: when the connection breaks all calls fail at once, and each
// knows whether its request may have been sent.
func TestBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{})
		errs := make([]error, 3)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = c.Call(t.Context(), Request{}, nil) })
			synctest.Wait()
		}
		begin := time.Now()
		r.nc.Close()
		wg.Wait()
		require.Zero(t, time.Since(begin))
		// The pipe has no buffer: nothing of the first was read, but its
		// batch was taken.
		requireSent(t, true, errs[0], c.Err())
		requireSent(t, false, errs[1], c.Err())
		requireSent(t, false, errs[2], c.Err())
		_, err := c.Call(t.Context(), Request{}, nil)
		requireSent(t, false, err, c.Err())
		require.ErrorContains(t, err, "request not sent")
		require.ErrorContains(t, errs[0], "call failed")
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var late func(Reply) bool
		c, s := pair(t, Options{}, Options{Serve: func(ctx context.Context, req Request, progress func(Reply) bool) Reply {
			late = progress
			for i := range req.Op {
				if !progress(Reply{Code: i, Body: []byte{i}, Fields: wire.Fields{Clock: 9}}) {
					return Reply{Code: 255}
				}
				time.Sleep(time.Second)
			}
			return Reply{Code: req.Op}
		}})
		var got []Reply
		begin := time.Now()
		r, err := c.Call(t.Context(), Request{Op: 3}, func(r Reply) {
			require.Equal(t, time.Duration(len(got))*time.Second, time.Since(begin))
			got = append(got, r)
		})
		require.NoError(t, err)
		require.Equal(t, uint8(3), r.Code)
		require.Len(t, got, 3)
		for i, r := range got {
			require.Equal(t, Reply{Code: uint8(i), Body: []byte{byte(i)}, Fields: wire.Fields{Clock: 9}}, r)
		}
		require.False(t, late(Reply{}), "the call has ended")

		r, err = c.Call(t.Context(), Request{Op: 2}, nil) // nobody listens
		require.NoError(t, err)
		require.Equal(t, uint8(2), r.Code)
		require.Zero(t, s.Stats().Serving)
	})
}

// TestProgressIsBounded: a caller that does not look keeps the latest few.
func TestProgressIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Options{}, Options{Serve: func(_ context.Context, _ Request, progress func(Reply) bool) Reply {
			if progress(Reply{Body: make([]byte, maxProgressBody+1)}) {
				return Reply{Code: 1}
			}
			for i := range 100 {
				progress(Reply{Code: uint8(i)})
			}
			time.Sleep(time.Minute)
			return Reply{}
		}})
		var got []uint8
		r, err := c.Call(t.Context(), Request{}, func(r Reply) {
			if len(got) == 0 {
				time.Sleep(time.Second)
			}
			got = append(got, r.Code)
		})
		require.NoError(t, err)
		require.Zero(t, r.Code)
		require.LessOrEqual(t, len(got), 2*maxProgress)
		require.Equal(t, uint8(99), got[len(got)-1])
	})
}

// TestProgressPanics: a panic in onProgress is the caller's; the call goes.
func TestProgressPanics(t *testing.T) {
	c, s := pair(t, Options{}, Options{Serve: func(ctx context.Context, _ Request, progress func(Reply) bool) Reply {
		progress(Reply{})
		<-ctx.Done()
		return Reply{}
	}})
	require.PanicsWithValue(t, "mine", func() {
		_, _ = c.Call(t.Context(), Request{}, func(Reply) { panic("mine") })
	})
	require.Zero(t, c.Stats().Calls)
	eventually(t, func() bool { return s.Stats().Serving == 0 })
}

func TestPanicBecomesAnAnswer(t *testing.T) {
	for name, f := range map[string]func(){
		"panic":  func() { panic("at the disco") },
		"error":  func() { panic(io.ErrNoProgress) },
		"nil":    func() { var p *int; *p = 1 },
		"goexit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			var told atomic.Int32
			opts := Options{
				Serve:    func(context.Context, Request, func(Reply) bool) Reply { f(); return Reply{} },
				Panicked: func(v any, stack []byte) { told.Add(1); panic("again") },
			}
			c, _ := pair(t, Options{}, opts)
			for range 3 {
				_, err := c.Call(t.Context(), Request{}, nil)
				requireRemote(t, wire.CodePanic, err)
			}
			require.Equal(t, int32(3), told.Load())
			if name == "goexit" {
				return // of the reading goroutine it is the end
			}
			opts.Fast = func(*Request) (Reply, bool) { f(); return Reply{}, true }
			opts.Serve = nil
			c, _ = pair(t, Options{}, opts)
			for range 3 {
				_, err := c.Call(t.Context(), Request{}, nil)
				requireRemote(t, wire.CodePanic, err)
			}
		})
	}
	t.Run("others", func(t *testing.T) {
		c, s := pair(t, Options{}, Options{
			Packet: func([]byte, uint64) { panic("packet") },
			Closed: func(error) { panic("closed") },
		})
		require.True(t, c.Send(nil))
		require.ErrorContains(t, ended(t, s), "packet")
		c, s = pair(t, Options{}, Options{Heard: func() error { panic("heard") }})
		require.True(t, c.Send(nil))
		require.ErrorContains(t, ended(t, s), "heard")
		c, s = pair(t, Options{}, Options{Fast: func(*Request) (Reply, bool) { runtime.Goexit(); return Reply{}, false }})
		_, err := c.Call(t.Context(), Request{}, nil)
		require.Error(t, err)
		require.Error(t, ended(t, s))
	})
}

func TestBusy(t *testing.T) {
	release := make(chan struct{})
	c, s := pair(t, Options{}, Options{
		MaxInFlight: 2,
		Serve:       func(context.Context, Request, func(Reply) bool) Reply { <-release; return Reply{} },
	})
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := c.Call(t.Context(), Request{}, nil)
			errs <- err
		}()
	}
	eventually(t, func() bool { return s.Stats().Serving == 2 })
	_, err := c.Call(t.Context(), Request{}, nil)
	require.True(t, requireRemote(t, wire.CodeBusy, err).Refused())
	close(release)
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	_, err = c.Call(t.Context(), Request{}, nil)
	require.NoError(t, err)
}

func TestNothingServed(t *testing.T) {
	c, s := pair(t, Options{}, Options{})
	_, err := c.Call(t.Context(), Request{}, nil)
	requireRemote(t, wire.CodeUnsupported, err)
	_, err = s.Call(t.Context(), Request{}, nil) // either side may call
	requireRemote(t, wire.CodeUnsupported, err)
}

// TestQueueIsBounded: who finds no room waits within its context and was not
// sent.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := withRogue(t, Options{MaxQueue: 1000, WriteTimeout: time.Hour})
		call := func(ctx context.Context, n int, err *error) {
			go func() { _, *err = c.Call(ctx, Request{Body: make([]byte, n)}, nil) }()
			synctest.Wait()
		}
		var errs [4]error
		call(t.Context(), 10, &errs[0])  // is being written
		call(t.Context(), 900, &errs[1]) // waits to be written
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.Call(ctx, Request{Body: make([]byte, 900)}, nil) // finds no room
		requireSent(t, false, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		require.LessOrEqual(t, len(c.out.buf), 1000)

		call(t.Context(), 900, &errs[2]) // finds room when the second is written
		require.Len(t, r.next(wire.KindRequest).Body, 10)
		require.Len(t, r.next(wire.KindRequest).Body, 900)
		require.Len(t, r.next(wire.KindRequest).Body, 900)

		call(t.Context(), 900, &errs[3])
		c.Abort(nil)
		synctest.Wait()
		for _, err := range errs {
			require.ErrorIs(t, err, ErrClosed)
		}
	})
}

func TestTooLarge(t *testing.T) {
	large := MaxWhole + 1000
	c, _ := pair(t, Options{}, Options{MaxBody: large, Serve: func(_ context.Context, req Request, _ func(Reply) bool) Reply {
		return Reply{Body: make([]byte, large+int(req.Op))}
	}})
	_, err := c.Call(t.Context(), Request{Body: make([]byte, 18<<20)}, nil)
	requireSent(t, false, err, ErrTooLarge)
	_, err = c.Call(t.Context(), Request{Body: make([]byte, large+1)}, nil)
	requireRemote(t, wire.CodeTooLarge, err)
	_, err = c.Call(t.Context(), Request{Op: 1}, nil)
	requireRemote(t, wire.CodeTooLarge, err)
	r, err := c.Call(t.Context(), Request{Body: make([]byte, large)}, nil)
	require.NoError(t, err)
	require.Len(t, r.Body, large)

	c, s := pair(t, Options{MaxBody: MaxWhole}, Options{Serve: echo})
	go func() { _, _ = s.Call(t.Context(), Request{}, nil) }()
	_, err = c.Call(t.Context(), Request{Body: make([]byte, MaxWhole)}, nil)
	require.NoError(t, err)
}

// TestReplyTooLarge: a reply beyond this side's bound fails its call and no
// other, and the peer stops sending it.
func TestReplyTooLarge(t *testing.T) {
	c, s := pair(t, Options{MaxBody: MaxWhole}, Options{Serve: func(_ context.Context, req Request, _ func(Reply) bool) Reply {
		return Reply{Body: make([]byte, int(req.Op)*4<<20)}
	}})
	_, err := c.Call(t.Context(), Request{Op: 1}, nil)
	requireSent(t, true, err, ErrTooLarge)
	eventually(t, func() bool { return s.Stats().Serving == 0 })
	_, err = c.Call(t.Context(), Request{}, nil)
	require.NoError(t, err)
}

// TestCodesMatchContexts: an answer that the deadline passed is as good as the
// context's own error.
func TestCodesMatchContexts(t *testing.T) {
	require.ErrorIs(t, &RemoteError{Code: wire.CodeDeadline}, context.DeadlineExceeded)
	require.ErrorIs(t, &RemoteError{Code: wire.CodeCanceled}, context.Canceled)
	require.False(t, errors.Is(&RemoteError{Code: wire.CodePanic}, context.Canceled))
	require.Equal(t, "mux: peer answers: panic: why", (&RemoteError{wire.CodePanic, "why"}).Error())
	require.Equal(t, "mux: peer answers: busy", (&RemoteError{Code: wire.CodeBusy}).Error())
}

// TestLateRequest: a request whose time was up on arrival is not served.
func TestLateRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := false
		_, r := withRogue(t, Options{Serve: func(context.Context, Request, func(Reply) bool) Reply {
			served = true
			return Reply{}
		}})
		h := wire.Header{Kind: wire.KindRequest, Call: 1, Fields: wire.Fields{Deadline: time.Second, BodySize: 2}}
		r.send(h)
		r.send(wire.Header{Kind: wire.KindChunk, Call: 1}, 1)
		time.Sleep(2 * time.Second)
		r.send(wire.Header{Kind: wire.KindChunk, Call: 1}, 2)
		time.Sleep(time.Millisecond)
		f := r.next(wire.KindError)
		require.Equal(t, uint8(wire.CodeDeadline), f.Code)
		require.False(t, served)
	})
}

// Of a connection that fails in the middle of traffic nothing hangs and
// nothing leaks.
func TestBreakInTheMiddle(t *testing.T) {
	for i := range 20 {
		cn, sn := tcpPair(t)
		c := New(cn, Options{Serve: echo})
		s := New(&shortLived{Conn: sn, left: int64(1000 * (i + 1))}, Options{Serve: echo})
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 50 {
			for _, from := range []*Conn{c, s} {
				wg.Go(func() {
					for {
						if _, err := from.Call(t.Context(), Request{Body: pattern(200)}, nil); err != nil {
							failed.Add(1)
							return
						}
					}
				})
			}
		}
		wg.Wait()
		require.Equal(t, int32(100), failed.Load())
		c.Close()
		s.Close()
	}
}

// shortLived fails after so many bytes.
type shortLived struct {
	net.Conn
	left int64
}

func (c *shortLived) Write(b []byte) (int, error) {
	if left := atomic.AddInt64(&c.left, -int64(len(b))); left < 0 {
		n, _ := c.Conn.Write(b[:max(0, len(b)+int(left))])
		return n, fmt.Errorf("cable cut")
	}
	return c.Conn.Write(b)
}
