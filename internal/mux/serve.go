package mux

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// serving is a request of the peer's, from its first frame to the answer.
type serving struct {
	id       uint64
	size     int                // bytes of its body, counted in Conn.held
	in       *assembly          // while chunks of it are to come; then no handler runs yet
	cancel   context.CancelFunc // ends the handler's context; set before the handler runs
	canceled bool               // the caller has left
	ended    bool               // the handler has returned: no more progress
}

// scratchSize is the room in Request.Scratch.
const scratchSize = 8 << 10

// onRequest handles a request.
func (c *Conn) onRequest(f *wire.Frame, bad error) error {
	if bad != nil {
		return c.refuse(f.Call, wire.CodeUnsupported, bad.Error())
	}
	size := len(f.Body)
	if f.Fields.BodySize != 0 {
		if size != 0 {
			return errChunk
		}
		if most := c.maxBody(); f.Fields.BodySize > uint64(most) {
			return c.refuse(f.Call, wire.CodeTooLarge, fmt.Sprintf("request of %d bytes, at most %d", f.Fields.BodySize, most))
		}
		size = int(f.Fields.BodySize)
	} else if c.opts.Fast != nil {
		if taken, err := c.fast(f); taken || err != nil {
			return err
		}
	}
	if c.opts.Serve == nil {
		return c.refuse(f.Call, wire.CodeUnsupported, "")
	}
	s, err := c.admit(f.Call, size)
	if s == nil {
		return err
	}
	if f.Fields.BodySize != 0 {
		s.in = &assembly{header: f.Header, arrived: time.Since(c.start), size: size}
		return nil
	}
	body := make([]byte, size)
	copy(body, f.Body)
	c.begin(s, &f.Header, body)
	return nil
}

// admit makes room for a request, or refuses it and returns nil.
func (c *Conn) admit(id uint64, size int) (*serving, error) {
	c.mu.Lock()
	if c.served[id] != nil {
		c.mu.Unlock()
		return nil, errTwice
	}
	if len(c.served) >= c.opts.MaxInFlight || c.held+size > c.maxHeld() {
		c.mu.Unlock()
		return nil, c.refuse(id, wire.CodeBusy, "")
	}
	s := &serving{id: id, size: size}
	c.served[id] = s
	c.held += size
	c.mu.Unlock()
	return s, nil
}

// fast offers a request to Options.Fast and reports whether it was answered.
func (c *Conn) fast(f *wire.Frame) (taken bool, err error) {
	if c.in.scratch == nil {
		c.in.scratch = make([]byte, 0, scratchSize)
	}
	c.in.req = Request{Op: f.Code, Fields: f.Fields, Body: f.Body, Scratch: c.in.scratch}
	reply, taken, err := c.askFast()
	if err != nil {
		return true, c.refuse(f.Call, wire.CodePanic, err.Error())
	}
	if !taken {
		return false, nil
	}
	h := wire.Header{Kind: wire.KindReply, Code: reply.Code, Call: f.Call, Fields: reply.Fields}
	h.Fields.BodySize = 0
	size := len(reply.Body) + len(reply.Tail)
	c.mu.Lock()
	if size <= c.opts.ChunkAbove && len(c.out.buf)+size <= c.opts.MaxQueue {
		c.out.frame(&h, reply.Body, reply.Tail)
		if len(c.out.buf) >= kickAt {
			c.kickLocked()
		}
		c.mu.Unlock()
		return true, nil
	}
	c.mu.Unlock()
	// It has to wait, which this goroutine must not.
	s, err := c.admit(f.Call, size)
	if s == nil {
		return true, err
	}
	ctx, cancel := c.context(f.Fields.Deadline)
	s.cancel = cancel
	body := make([]byte, 0, size)
	reply.Body, reply.Tail = append(append(body, reply.Body...), reply.Tail...), nil
	c.spawn(func() {
		defer cancel()
		c.answer(ctx, s, reply, nil)
	})
	return true, nil
}

// askFast calls Options.Fast with c.in.req; a panic becomes an error.
func (c *Conn) askFast() (reply Reply, taken bool, err error) {
	finished := false
	defer func() {
		if !finished {
			err = c.panicked(recover())
		}
	}()
	reply, taken = c.opts.Fast(&c.in.req)
	finished = true
	return reply, taken, nil
}

// kickAt is how many bytes of fast answers may gather while the frames of one
// read are handled.
const kickAt = 16 << 10

// context returns the context of a handler, which ends with the connection and
// after the time that was left, if not 0.
func (c *Conn) context(left time.Duration) (context.Context, context.CancelFunc) {
	if left != 0 {
		return context.WithTimeout(c.ctx, left)
	}
	return context.WithCancel(c.ctx)
}

// begin starts the handler of s. The body is the handler's.
func (c *Conn) begin(s *serving, h *wire.Header, body []byte) {
	ctx, cancel := c.context(h.Fields.Deadline)
	c.mu.Lock()
	s.cancel = cancel
	c.mu.Unlock()
	req := Request{Op: h.Code, Fields: h.Fields, Body: body}
	c.spawn(func() {
		var reply Reply
		err := errExit
		defer func() { // also when the handler calls Goexit
			c.answer(ctx, s, reply, err)
			cancel()
		}()
		if ctx.Err() == context.DeadlineExceeded {
			err = errLate // it waited too long: whoever asked has gone
			return
		}
		err = c.guard(func() {
			reply = c.opts.Serve(ctx, req, func(r Reply) bool { return c.progress(s, r) })
		})
	})
}

// errExit is the outcome of a handler that ended its goroutine.
var errExit error = &panicError{}

// errLate is the outcome of a handler that was not called any more.
var errLate = errors.New("deadline passed before the request was served")

// progress sends an interim answer.
func (c *Conn) progress(s *serving, r Reply) bool {
	if len(r.Body)+len(r.Tail) > maxProgressBody {
		return false
	}
	h := wire.Header{Kind: wire.KindProgress, Code: r.Code, Call: s.id, Fields: r.Fields}
	h.Fields.BodySize = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || s.ended || s.canceled || len(c.out.buf) > c.opts.MaxQueue {
		return false
	}
	c.out.frame(&h, r.Body, r.Tail)
	c.kickLocked()
	return true
}

// answer sends what a handler returned and forgets s.
func (c *Conn) answer(ctx context.Context, s *serving, r Reply, failure error) {
	h := wire.Header{Kind: wire.KindReply, Code: r.Code, Call: s.id, Fields: r.Fields}
	h.Fields.BodySize = 0
	size, free := len(r.Body)+len(r.Tail), r.Free
	switch {
	case failure == errLate:
		h, r, size = errorFrame(s.id, wire.CodeDeadline, failure.Error())
	case failure != nil:
		h, r, size = errorFrame(s.id, wire.CodePanic, failure.Error())
	case size > c.maxBody():
		h, r, size = errorFrame(s.id, wire.CodeTooLarge, fmt.Sprintf("reply of %d bytes, at most %d", size, c.maxBody()))
	}
	r.Free = free // of the reply that it was
	c.mu.Lock()
	defer func() {
		delete(c.served, s.id)
		c.held -= s.size
		if c.draining {
			c.hush()
		}
		c.mu.Unlock()
		if free != nil {
			free()
		}
	}()
	s.ended = true
	if size > c.opts.ChunkAbove {
		free = c.streamLocked(ctx, s, &h, r, size)
		return
	}
	err := c.roomLocked(ctx, wire.Size(&h, size))
	switch {
	case s.canceled || c.err != nil:
	case err == nil:
		c.out.frame(&h, r.Body, r.Tail)
		c.kickLocked()
	default:
		c.lateLocked(s, err)
	}
}

// streamLocked sends a large reply in chunks. It unlocks Conn.mu while it
// waits. What it returns is to be called, without Conn.mu, unless nil.
func (c *Conn) streamLocked(ctx context.Context, s *serving, h *wire.Header, r Reply, size int) (free func()) {
	if s.canceled || c.err != nil {
		return r.Free
	}
	h.Fields.BodySize = uint64(size)
	out := &stream{header: *h, body: r.Body, tail: r.Tail, size: size, done: make(chan struct{}), free: r.Free}
	c.out.add(out)
	c.kickLocked()
	c.mu.Unlock()
	select {
	case <-out.done:
	case <-ctx.Done(): // also when the connection breaks
	}
	c.mu.Lock()
	if c.err == nil && out.at < out.size {
		c.out.remove(out)
		if !s.canceled {
			c.lateLocked(s, ctx.Err())
		}
	}
	return out.leaveLocked()
}

// lateLocked tells the caller that its deadline passed before the answer could
// be sent.
func (c *Conn) lateLocked(s *serving, err error) {
	code := wire.CodeCanceled
	if errors.Is(err, context.DeadlineExceeded) {
		code = wire.CodeDeadline
	}
	c.out.frame(&wire.Header{Kind: wire.KindError, Code: uint8(code), Call: s.id}, nil, nil)
	c.kickLocked()
}

func errorFrame(id uint64, code wire.ErrorCode, text string) (wire.Header, Reply, int) {
	text = clip(text)
	return wire.Header{Kind: wire.KindError, Code: uint8(code), Call: id}, Reply{Body: []byte(text)}, len(text)
}

// onCancel handles that the caller of a request has left.
func (c *Conn) onCancel(f *wire.Frame) {
	c.mu.Lock()
	s := c.served[f.Call]
	if s == nil {
		c.mu.Unlock()
		return
	}
	s.canceled = true
	cancel := s.cancel
	if s.in != nil { // no handler runs yet
		delete(c.served, s.id)
		c.held -= s.size
		if c.draining {
			c.hush()
		}
	}
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// onGoaway handles that the peer takes no more requests, or knows that this
// side does not.
func (c *Conn) onGoaway(f *wire.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Flags&wire.FlagAck != 0 {
		c.drained = c.draining
		c.hush()
		return
	}
	if c.going || c.err != nil {
		return
	}
	c.going = true
	// Large requests that were not announced yet never will be.
	for _, s := range append([]*stream(nil), c.out.queue...) {
		if cl := s.call; cl != nil {
			c.out.remove(s)
			c.calls.take(cl, &c.out)
			c.dropLocked(cl)
			cl.err = &CallError{Sent: cl.sent, Err: ErrGoingAway}
			cl.done <- struct{}{}
		}
	}
	c.out.frame(&wire.Header{Kind: wire.KindGoaway, Flags: wire.FlagAck}, nil, nil)
	c.kickLocked()
}
