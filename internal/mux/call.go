package mux

import (
	"context"

	"github.com/peercache/peercache/internal/wire"
)

const (
	slotBits = 24 // of a call id; the rest counts calls
	maxSlots = 1 << slotBits
	// maxProgress bounds the interim answers that a caller has not looked at;
	// the oldest go.
	maxProgress     = 8
	maxProgressBody = 64 << 10
)

// call is a call of ours. It belongs to Conn.mu while it is in the table, then
// to whoever took it out, and after done to the caller.
type call struct {
	id     uint64
	done   chan struct{} // gets one token from who took the call out, unless the caller did
	news   chan struct{} // gets a token when progress grows
	listen bool          // the caller wants progress

	batch    uint64 // the batch that its frame is in; 0: none yet
	offset   int    // and where there
	sent     bool   // set when taken out: that batch was taken by the writer
	out      *stream
	in       *assembly
	progress []Reply

	reply Reply
	err   error
}

// callTable holds the calls that wait for an answer. Guarded by Conn.mu. A
// call id is a slot and a count that makes it unique.
type callTable struct {
	slots []*call
	free  []uint32 // empty slots
	used  int
	count uint64
	pool  []*call
}

// put enters a new call and returns it, or nil when there is no slot.
func (t *callTable) put() *call {
	var slot uint32
	if n := len(t.free); n > 0 {
		slot = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		if len(t.slots) == maxSlots {
			return nil
		}
		slot = uint32(len(t.slots))
		t.slots = append(t.slots, nil)
	}
	var cl *call
	if n := len(t.pool); n > 0 {
		cl = t.pool[n-1]
		t.pool = t.pool[:n-1]
	} else {
		cl = &call{done: make(chan struct{}, 1), news: make(chan struct{}, 1)}
	}
	t.count++
	cl.id = (t.count<<slotBits | uint64(slot)) & wire.MaxCall
	t.slots[slot] = cl
	t.used++
	return cl
}

// get returns the call with the given id, or nil.
func (t *callTable) get(id uint64) *call {
	slot := id & (maxSlots - 1)
	if slot >= uint64(len(t.slots)) {
		return nil
	}
	if cl := t.slots[slot]; cl != nil && cl.id == id {
		return cl
	}
	return nil
}

// take removes cl from the table and notes whether its frame may have left.
func (t *callTable) take(cl *call, o *outbox) {
	slot := uint32(cl.id & (maxSlots - 1))
	t.slots[slot] = nil
	t.free = append(t.free, slot)
	t.used--
	cl.sent = cl.batch != 0 && cl.batch < o.batch
}

// takeAll empties the table.
func (t *callTable) takeAll(o *outbox) []*call {
	var all []*call
	for _, cl := range t.slots {
		if cl != nil {
			t.take(cl, o)
			all = append(all, cl)
		}
	}
	return all
}

// Call asks the peer and waits for its answer. onProgress, if not nil, is
// called with interim replies, in the caller's goroutine; when it is slow the
// older ones are lost, and once the answer is there the rest may be. ctx's deadline travels with the request and bounds the
// handler; when ctx ends first, the handler's context is cancelled.
//
// The error is a *RemoteError when the peer refused or failed, else a
// *CallError, which tells whether the request may have reached the peer.
func (c *Conn) Call(ctx context.Context, req Request, onProgress func(Reply)) (Reply, error) {
	if err := ctx.Err(); err != nil {
		return Reply{}, &CallError{Err: err}
	}
	size := len(req.Body) + len(req.Tail)
	if size > c.opts.MaxBody {
		return Reply{}, &CallError{Err: ErrTooLarge}
	}
	h := wire.Header{Kind: wire.KindRequest, Code: req.Op, Fields: req.Fields}
	h.Fields.BodySize = 0
	m := mark{written: req.Written}
	if deadline, ok := ctx.Deadline(); ok {
		if m.deadline = deadline.Sub(c.start); m.deadline == 0 {
			m.deadline = 1 // 0 is none
		}
		h.Fields.Deadline = 1 // the writer puts in what is left
	}
	whole := size <= c.opts.ChunkAbove

	c.mu.Lock()
	queued := 0 // bytes that have to find room
	if whole {
		queued = size
	}
	err := c.roomLocked(ctx, wire.Size(&h, queued))
	if err == nil && c.going {
		err = ErrGoingAway
	}
	if err != nil {
		c.mu.Unlock()
		return Reply{}, &CallError{Err: err}
	}
	cl := c.calls.put()
	if cl == nil {
		c.mu.Unlock()
		return Reply{}, &CallError{Err: errCalls}
	}
	cl.listen = onProgress != nil
	h.Call = cl.id
	if whole {
		cl.batch, cl.offset = c.out.batch, len(c.out.buf)
		c.out.marked(&h, req.Body, req.Tail, m)
	} else {
		h.Fields.BodySize = uint64(size)
		cl.out = &stream{header: h, mark: m, call: cl, body: req.Body, tail: req.Tail, size: size, done: make(chan struct{})}
		c.out.add(cl.out)
	}
	c.kickLocked()
	c.mu.Unlock()

	if onProgress == nil {
		select {
		case <-cl.done:
		case <-ctx.Done():
			c.leave(cl, ctx.Err())
		}
		return c.result(cl)
	}
	for {
		select {
		case <-cl.done:
			return c.result(cl)
		case <-cl.news:
			c.tell(cl, onProgress)
		case <-ctx.Done():
			c.leave(cl, ctx.Err())
			return c.result(cl)
		}
	}
}

// leave takes cl out for the reason err, with a word to the peer, or waits for
// the result if somebody else has taken it out.
func (c *Conn) leave(cl *call, err error) {
	c.mu.Lock()
	if c.calls.get(cl.id) != cl {
		c.mu.Unlock()
		<-cl.done
		return
	}
	c.calls.take(cl, &c.out)
	switch {
	case cl.sent:
		c.cancelLocked(cl)
	case cl.batch != 0:
		// Its frame is still here. A stream's never is: it is announced as
		// its batch is taken.
		wire.Void(c.out.buf[cl.offset:])
		c.unmarkLocked(cl.offset)
	}
	if cl.out != nil {
		c.out.remove(cl.out)
	}
	c.dropLocked(cl)
	c.mu.Unlock()
	cl.err = &CallError{Sent: cl.sent, Err: err}
}

// unmarkLocked drops the mark of a withdrawn frame: it is never written.
func (c *Conn) unmarkLocked(offset int) {
	for i := range c.out.marks {
		if c.out.marks[i].offset == offset {
			c.out.marks[i] = c.out.marks[len(c.out.marks)-1]
			c.out.marks = c.out.marks[:len(c.out.marks)-1]
			return
		}
	}
}

// cancelLocked tells the peer that nobody waits for cl's answer any more.
func (c *Conn) cancelLocked(cl *call) {
	c.out.frame(&wire.Header{Kind: wire.KindCancel, Call: cl.id}, nil, nil)
	c.kickLocked()
}

// result takes the result out of cl, which is done, and keeps cl for another
// call.
func (c *Conn) result(cl *call) (Reply, error) {
	reply, err := cl.reply, cl.err
	select {
	case <-cl.news:
	default:
	}
	*cl = call{done: cl.done, news: cl.news}
	c.mu.Lock()
	c.calls.pool = append(c.calls.pool, cl)
	c.mu.Unlock()
	return reply, err
}

// tell hands interim replies to the caller.
func (c *Conn) tell(cl *call, onProgress func(Reply)) {
	c.mu.Lock()
	var news []Reply
	if c.calls.get(cl.id) == cl {
		news, cl.progress = cl.progress, nil
	}
	c.mu.Unlock()
	finished := false
	defer func() {
		if !finished { // the panic is the caller's own; the call goes with it
			c.leave(cl, context.Canceled)
			_, _ = c.result(cl)
		}
	}()
	for _, r := range news {
		onProgress(r)
	}
	finished = true
}

// The following run on the reading goroutine.

// onReply handles a reply, an error or an interim answer to a call of ours.
func (c *Conn) onReply(f *wire.Frame, bad error) error {
	chunked := f.Fields.BodySize != 0 && f.Kind == wire.KindReply
	c.mu.Lock()
	cl := c.calls.get(f.Call)
	if cl == nil {
		c.mu.Unlock() // the caller has left
		return nil
	}
	switch {
	case bad != nil:
		c.calls.take(cl, &c.out)
		c.cancelLocked(cl)
	case f.Kind == wire.KindProgress:
		defer c.mu.Unlock()
		if !cl.listen || len(f.Body) > maxProgressBody {
			return nil
		}
		if len(cl.progress) == maxProgress {
			cl.progress = append(cl.progress[:0], cl.progress[1:]...)
		}
		cl.progress = append(cl.progress, makeReply(f))
		select {
		case cl.news <- struct{}{}:
		default:
		}
		return nil
	case chunked && cl.in != nil:
		c.mu.Unlock()
		return errTwice
	case chunked:
		if bad = c.expectLocked(cl, f); bad == nil {
			c.mu.Unlock()
			return nil
		}
		c.calls.take(cl, &c.out)
		c.cancelLocked(cl)
	default:
		c.calls.take(cl, &c.out)
		if cl.out != nil && c.out.remove(cl.out) {
			c.cancelLocked(cl) // answered before it had all of the body
		}
	}
	c.dropLocked(cl)
	c.mu.Unlock()

	switch {
	case bad != nil:
		cl.err = &CallError{Sent: true, Err: bad}
	case f.Kind == wire.KindError:
		cl.err = &RemoteError{Code: wire.ErrorCode(f.Code), Text: clip(string(f.Body))}
	default:
		cl.reply = makeReply(f)
	}
	cl.done <- struct{}{}
	return nil
}

// makeReply makes a Reply of a frame, with a body of its own.
func makeReply(f *wire.Frame) Reply {
	r := Reply{Code: f.Code, Fields: f.Fields}
	if len(f.Body) > 0 {
		r.Body = make([]byte, len(f.Body))
		copy(r.Body, f.Body)
	}
	return r
}
