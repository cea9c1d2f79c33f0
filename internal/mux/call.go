package mux

import (
	"context"
	"fmt"
	"time"

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
	news   chan struct{} // gets a token when progress grows or the call is overdue
	listen bool          // the caller wants progress
	told   bool          // some came

	began   time.Duration // since Conn.start
	overdue time.Duration // when the caller is told that it takes long, since Conn.start; 0: never

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
	cl, err := c.ask(ctx, &req, 0, onProgress != nil)
	if err != nil {
		return Reply{}, err
	}
	return Pending{c, cl}.Wait(ctx, onProgress)
}

// Try is Call for a caller who has something else to do when the answer takes
// longer than patience, or an interim reply says that it will. Pending is then
// the call, whose answer the caller waits for with Wait, once; as with Call, Body
// and Tail must not change until Wait has returned. Else pending is zero.
func (c *Conn) Try(ctx context.Context, req Request, patience time.Duration) (reply Reply, pending Pending, err error) {
	cl, err := c.ask(ctx, &req, max(patience, 1), true)
	if err != nil {
		return Reply{}, Pending{}, err
	}
	select {
	case <-cl.done:
	case <-cl.news:
		return Reply{}, Pending{c, cl}, nil
	case <-ctx.Done():
		c.leave(cl, ctx.Err())
	}
	reply, err = c.result(cl)
	return reply, Pending{}, err
}

// A Pending is a call under way. The zero Pending is none.
type Pending struct {
	c  *Conn
	cl *call
}

// IsZero reports whether p is no call.
func (p Pending) IsZero() bool { return p.cl == nil }

// Began returns when the request was handed over for writing.
func (p Pending) Began() time.Time { return p.c.start.Add(p.cl.began) }

// Wait waits for the answer, as [Conn.Call] does.
func (p Pending) Wait(ctx context.Context, onProgress func(Reply)) (Reply, error) {
	c, cl := p.c, p.cl
	if onProgress == nil {
		select {
		case <-cl.done:
		case <-ctx.Done():
			c.leave(cl, ctx.Err())
		}
		return c.result(cl)
	}
	c.tell(cl, onProgress) // of what came before
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

// ask hands a request over for writing. listen says that the caller wants
// interim replies; patience, if not 0, that it wants to be told when the call
// has taken so long.
func (c *Conn) ask(ctx context.Context, req *Request, patience time.Duration, listen bool) (*call, error) {
	if err := ctx.Err(); err != nil {
		return nil, &CallError{Err: err}
	}
	size := len(req.Body) + len(req.Tail)
	if most := c.maxBody(); size > most {
		return nil, &CallError{Err: fmt.Errorf("%w: request of %d bytes, at most %d", ErrTooLarge, size, most)}
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
	now := time.Since(c.start)

	c.mu.Lock()
	defer c.mu.Unlock()
	queued := 0 // bytes that have to find room
	if whole {
		queued = size
	}
	err := c.roomLocked(ctx, wire.Size(&h, queued))
	if err == nil && c.going {
		err = ErrGoingAway
	}
	if err != nil {
		return nil, &CallError{Err: err}
	}
	cl := c.calls.put()
	if cl == nil {
		return nil, &CallError{Err: errCalls}
	}
	cl.listen, cl.began = listen, now
	if patience > 0 {
		cl.overdue = now + patience
		c.patrolLocked(now, cl.overdue)
	}
	h.Call = cl.id
	if whole {
		cl.batch, cl.offset = c.out.batch, len(c.out.buf)
		c.out.marked(&h, req.Body, req.Tail, m)
	} else {
		h.Fields.BodySize = uint64(size)
		cl.out = &stream{header: h, mark: m, call: cl, body: req.Body, tail: req.Tail, size: size, done: make(chan struct{})}
		c.out.add(cl.out)
	}
	c.listenLocked()
	c.flushLocked(c.calls.used == 1)
	return cl, nil
}

// patrolLocked sees to it that patrol runs at a time, if not before.
func (c *Conn) patrolLocked(now, at time.Duration) {
	if c.patrolAt != 0 && c.patrolAt <= at {
		return
	}
	c.patrolAt = at
	if c.patrolTimer == nil {
		c.patrolTimer = time.AfterFunc(at-now, c.patrol)
		return
	}
	c.patrolTimer.Reset(at - now)
}

// patrol tells the callers whose calls are overdue. One timer does for all.
func (c *Conn) patrol() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patrolAt = 0
	if c.err != nil {
		return
	}
	now, next := time.Since(c.start), time.Duration(0)
	for _, cl := range c.calls.slots {
		switch {
		case cl == nil || cl.overdue == 0:
		case cl.overdue <= now:
			cl.overdue = 0
			select {
			case cl.news <- struct{}{}:
			default:
			}
		case next == 0 || cl.overdue < next:
			next = cl.overdue
		}
	}
	if next != 0 {
		c.patrolLocked(now, next)
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
		cl.told = true
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
		cl.reply.Took, cl.reply.Interim = time.Duration(c.heard.Load())-cl.began, cl.told
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
