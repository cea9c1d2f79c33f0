package mux

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// keepBuffer is the largest write buffer that is kept for the next batch.
const keepBuffer = 128 << 10

// outbox gathers what is to be written. Guarded by Conn.mu.
type outbox struct {
	buf     []byte // frames of the next batch
	marks   []mark // what is still to be done to them
	batch   uint64 // number of the next batch, from 1
	packets int    // packets in buf
	frames  int64  // ever
	idle    bool   // the writer waits for Conn.wake
	rest    []byte // of a batch that was written in part
	room    chan struct{}

	active  []*stream // being sent, a chunk of each in turn
	sending int       // bytes of their bodies
	turn    int       // whose turn it is
	queue   []*stream // not announced yet
}

// mark is a frame in outbox.buf that is touched when it is about to be written.
type mark struct {
	offset   int
	deadline time.Duration // since Conn.start; 0: none
	written  *atomic.Bool
}

// stream is a body being sent in chunks.
type stream struct {
	header     wire.Header // of the frame that announces it
	mark       mark        // for that frame
	call       *call       // whose request this is; nil: a reply
	body, tail []byte
	at, size   int
	done       chan struct{} // closed when the last chunk was written
	free       func()        // Reply.Free, when nothing reads body and tail any more
	writing    bool          // the writer reads them
	left       bool          // by who waited for done: the writer calls free
}

func (o *outbox) empty() bool {
	return len(o.rest) == 0 && len(o.buf) == 0 && len(o.active) == 0 && len(o.queue) == 0
}

// clear forgets everything; streams stay unfinished.
func (o *outbox) clear() {
	o.rest, o.buf, o.marks, o.active, o.queue = nil, nil, nil, nil, nil
	o.sending = 0
}

// frame appends a frame to the next batch.
func (o *outbox) frame(h *wire.Header, body, tail []byte) {
	o.buf = wire.AppendFrame(o.buf, h, body, tail)
	o.frames++
}

// marked appends a frame to the next batch, with a mark.
func (o *outbox) marked(h *wire.Header, body, tail []byte, m mark) {
	if m.deadline != 0 || m.written != nil {
		m.offset = len(o.buf)
		o.marks = append(o.marks, m)
	}
	o.frame(h, body, tail)
}

// add queues a stream.
func (o *outbox) add(s *stream) { o.queue = append(o.queue, s) }

// remove takes out s, of which nothing more is sent. It reports whether the
// stream had been announced and was unfinished.
func (o *outbox) remove(s *stream) bool {
	if i := slices.Index(o.queue, s); i >= 0 {
		o.queue = slices.Delete(o.queue, i, i+1)
		return false
	}
	if i := slices.Index(o.active, s); i >= 0 {
		o.active = slices.Delete(o.active, i, i+1)
		o.sending -= s.size
		return true
	}
	return false
}

// largeBody is the largest body of which maxStreams are sent and received at a
// time.
const largeBody = 32 << 20

// maxActive bounds the bytes of the bodies that are being sent at a time, where
// one has at most so many.
func maxActive(most int) int { return most + min(most, largeBody) }

// advance announces streams that may begin, most bytes in all unless it is one
// alone, and appends the head of a chunk. The stream that it is of is nil when
// there is none.
func (o *outbox) advance(chunk, most int) (s *stream, body, tail []byte) {
	for len(o.active) < maxStreams && len(o.queue) > 0 {
		s := o.queue[0]
		if len(o.active) > 0 && o.sending+s.size > most {
			break
		}
		o.queue = slices.Delete(o.queue, 0, 1)
		o.sending += s.size
		if s.call != nil {
			s.call.batch, s.call.offset = o.batch, len(o.buf)
		}
		o.marked(&s.header, nil, nil, s.mark)
		o.active = append(o.active, s)
	}
	if len(o.active) == 0 {
		return nil, nil, nil
	}
	o.turn %= len(o.active)
	s = o.active[o.turn]
	h := wire.Header{Kind: wire.KindChunk, Call: s.header.Call}
	if s.call == nil {
		h.Flags = wire.FlagReply
	}
	body, tail = s.next(chunk)
	o.buf = wire.AppendHead(o.buf, &h, len(body)+len(tail))
	o.frames++
	if s.at < s.size {
		o.turn++
	} else {
		o.remove(s)
	}
	return s, body, tail
}

// next returns the next n bytes, or what is left.
func (s *stream) next(n int) (body, tail []byte) {
	end := min(s.at+n, s.size)
	split := len(s.body)
	body = s.body[min(s.at, split):min(end, split)]
	tail = s.tail[max(s.at, split)-split : max(end, split)-split]
	s.at = end
	return body, tail
}

// kickLocked wakes the writer if it sleeps.
func (c *Conn) kickLocked() {
	if c.out.idle {
		c.out.idle = false
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// roomLocked waits until a frame of size bytes may be appended. It unlocks
// Conn.mu while it waits.
func (c *Conn) roomLocked(ctx context.Context, size int) error {
	for {
		if c.err != nil {
			return c.err
		}
		if len(c.out.buf) == 0 || len(c.out.buf)+size <= c.opts.MaxQueue {
			return nil
		}
		if c.out.room == nil {
			c.out.room = make(chan struct{})
		}
		room := c.out.room
		c.mu.Unlock()
		var err error
		select {
		case <-room:
		case <-c.broken:
		case <-ctx.Done():
			err = ctx.Err()
		}
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// control appends a small frame that the peer caused, without waiting. A peer
// that causes many and reads none breaks the connection.
func (c *Conn) control(h *wire.Header, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.controlLocked(h, body)
}

func (c *Conn) controlLocked(h *wire.Header, body []byte) error {
	if len(c.out.buf) > c.opts.MaxQueue+MaxWhole {
		return ErrSlow
	}
	if c.err == nil {
		c.out.frame(h, body, nil)
		c.kickLocked()
	}
	return nil
}

// refuse ends a call of the peer's with an error frame.
func (c *Conn) refuse(call uint64, code wire.ErrorCode, text string) error {
	return c.control(&wire.Header{Kind: wire.KindError, Code: uint8(code), Call: call}, []byte(clip(text)))
}

// A batch is what is written at a time: frames, and the body of the chunk that
// they end with.
type batch struct {
	frames     []byte
	body, tail []byte
	of         *stream // nil: there is no chunk
}

// take waits for something to write and puts it into b, whose room is used
// again. False: the connection has ended.
func (c *Conn) take(b *batch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && c.out.empty() {
		c.out.idle = true
		crowded := c.calls.used > 1 || len(c.served) > 1
		if c.draining {
			c.hush()
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
			// Whoever is about to send gets to add to the batch: with many calls
			// that halves their cost. Alone it would only delay.
			if crowded {
				runtime.Gosched()
			}
		case <-c.broken:
		}
		c.mu.Lock()
	}
	if c.err != nil {
		return false
	}
	o := &c.out
	o.idle = false
	if len(o.rest) > 0 {
		b.frames, o.rest = o.rest, nil
		return true
	}
	b.of, b.body, b.tail = o.advance(c.opts.ChunkSize, maxActive(c.maxBody()))
	if b.of != nil && c.direct == nil {
		// What is no socket takes one piece better than three.
		o.buf = append(append(o.buf, b.body...), b.tail...)
		b.body, b.tail = nil, nil
	}
	if b.of != nil {
		b.of.writing = true
	}
	b.frames = c.takeLocked(b.frames[:0])
	return true
}

// written notes that the chunk of a batch is on its way, or never will be.
func (c *Conn) written(b *batch) {
	s := b.of
	b.of, b.body, b.tail = nil, nil, nil
	if s == nil {
		return
	}
	c.mu.Lock()
	s.writing = false
	if s.at == s.size {
		close(s.done)
	}
	left := s.left
	c.mu.Unlock()
	if left && s.free != nil {
		s.free()
	}
}

// leaveLocked ends waiting for a stream. It returns what is to be called now
// that nothing reads its body any more, if it is so.
func (s *stream) leaveLocked() (free func()) {
	if s.left = s.writing; s.left {
		return nil
	}
	return s.free
}

// takeLocked returns the batch that has gathered and begins the next.
func (c *Conn) takeLocked(spare []byte) []byte {
	o := &c.out
	if len(o.marks) > 0 {
		now := time.Since(c.start)
		for i := range o.marks {
			m := &o.marks[i]
			if m.deadline != 0 {
				wire.PatchDeadline(o.buf[m.offset:], m.deadline-now)
			}
			if m.written != nil {
				m.written.Store(true)
			}
		}
		clear(o.marks)
		o.marks = o.marks[:0]
	}
	buf := o.buf
	o.buf = spare
	o.batch++
	o.packets = 0
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return buf
}

// maxDirect is the largest batch that is written by the goroutine that made it.
const maxDirect = 16 << 10

// flushLocked sees to it that what has gathered is written. Where nobody else
// has anything to say and the writer sleeps, alone says, that need not be woken:
// the socket is given the bytes here, if it takes them without waiting. It
// unlocks Conn.mu meanwhile.
func (c *Conn) flushLocked(alone bool) {
	o := &c.out
	if !alone || c.direct == nil || !o.idle || len(o.buf) > maxDirect || len(o.active) > 0 || len(o.queue) > 0 {
		c.kickLocked()
		return
	}
	// The writer sleeps on: idle is false, so that nobody wakes it.
	o.idle = false
	buf := c.takeLocked(nil)
	c.mu.Unlock()
	n := c.direct.write(buf)
	c.bytesOut.Add(int64(n))
	c.mu.Lock()
	if c.err != nil {
		return
	}
	if n < len(buf) {
		o.rest = buf[n:]
	} else if o.buf == nil {
		o.buf = buf[:0]
	}
	o.idle = true
	if !o.empty() {
		c.kickLocked()
	} else if c.draining {
		c.hush()
	}
}

// maxWrite is the most bytes of frames that are written at a time.
const maxWrite = 128 << 10

// write is the writing goroutine.
func (c *Conn) write() {
	var b batch
	var parts [3][]byte
	var all net.Buffers
	var limit time.Time // the write deadline that is set
	for {
		if cap(b.frames) > keepBuffer {
			b.frames = nil
		}
		if !c.take(&b) {
			return
		}
		var err error
		// Of many frames a piece at a time: that some were taken is a sign of life.
		for frames := b.frames; err == nil && len(frames)+len(b.body)+len(b.tail) > 0; {
			// Setting a deadline costs: it is moved only when a quarter is gone.
			if now := time.Now(); limit.Sub(now) < c.opts.WriteTimeout*3/4 {
				limit = now.Add(c.opts.WriteTimeout)
				if err = c.nc.SetWriteDeadline(limit); err != nil {
					break
				}
			}
			var n int64
			if len(frames) > maxWrite || len(b.body)+len(b.tail) == 0 {
				var short int
				short, err = c.nc.Write(frames[:min(len(frames), maxWrite)])
				n, frames = int64(short), frames[short:]
			} else {
				parts = [3][]byte{frames, b.body, b.tail}
				all = parts[:]
				n, err = all.WriteTo(c.nc)
				frames, b.body, b.tail = nil, nil, nil
			}
			c.bytesOut.Add(n)
		}
		c.written(&b)
		if err != nil {
			c.Abort(fmt.Errorf("mux: write: %w", err))
			return
		}
	}
}
