package mux

import (
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// assembly is a body being received in chunks.
type assembly struct {
	header  wire.Header   // of the frame that announced it
	arrived time.Duration // when that was, since Conn.start
	body    []byte        // made with the first chunk
	size    int
}

// room returns what the next size bytes of the body are to be put into.
func (a *assembly) room(size int) ([]byte, error) {
	if size == 0 || size > a.size-len(a.body) {
		return nil, errChunk
	}
	if a.body == nil {
		a.body = make([]byte, 0, a.size)
	}
	return a.body[len(a.body) : len(a.body)+size], nil
}

// grow counts n bytes that were put there.
func (a *assembly) grow(n int) { a.body = a.body[:len(a.body)+n] }

// add appends a chunk.
func (a *assembly) add(chunk []byte) error {
	p, err := a.room(len(chunk))
	if err == nil {
		a.grow(copy(p, chunk))
	}
	return err
}

func (a *assembly) complete() bool { return len(a.body) == a.size }

// maxBody is the bound on a body at this moment.
func (c *Conn) maxBody() int {
	if c.opts.Bodies != nil {
		return c.opts.Bodies()
	}
	return c.opts.MaxBody
}

// maxHeld bounds the bytes of bodies that are received, per direction. A peer
// that keeps to maxActive never meets it with its replies.
func (c *Conn) maxHeld() int { return 2 * maxActive(c.maxBody()) }

// expectLocked prepares for the chunks of a reply.
func (c *Conn) expectLocked(cl *call, f *wire.Frame) error {
	if most := c.maxBody(); f.Fields.BodySize > uint64(most) {
		return fmt.Errorf("%w: reply of %d bytes, at most %d", ErrTooLarge, f.Fields.BodySize, most)
	}
	size := int(f.Fields.BodySize)
	if c.in.held+size > c.maxHeld() {
		return errRoom
	}
	c.in.held += size
	cl.in = &assembly{header: f.Header, arrived: time.Duration(c.heard.Load()), size: size}
	return nil
}

// dropLocked gives back the room of cl's reply under assembly.
func (c *Conn) dropLocked(cl *call) {
	if cl.in != nil {
		c.in.held -= cl.in.size
		cl.in = nil
	}
}

// assemblyOf returns what a chunk is a part of, or nil: who waited for it has
// left, or refused it.
func (c *Conn) assemblyOf(f *wire.Frame) *assembly {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.Flags&wire.FlagReply == 0 {
		if s := c.served[f.Call]; s != nil {
			return s.in
		}
	} else if cl := c.calls.get(f.Call); cl != nil {
		return cl.in
	}
	return nil
}

// onChunk handles a piece of a body.
func (c *Conn) onChunk(f *wire.Frame) error {
	a := c.assemblyOf(f)
	if a == nil {
		return nil
	}
	if err := a.add(f.Body); err != nil { // nobody but this goroutine looks into a
		return err
	}
	c.onPiece(f, a)
	return nil
}

// onPiece looks whether a body is complete.
func (c *Conn) onPiece(f *wire.Frame, a *assembly) {
	c.in.streaming = !a.complete()
	switch {
	case c.in.streaming:
	case f.Flags&wire.FlagReply != 0:
		c.onReplyBody(f.Call, a)
	default:
		c.onRequestBody(f.Call, a)
	}
}

// onReplyBody ends a call whose reply is complete.
func (c *Conn) onReplyBody(id uint64, a *assembly) {
	c.mu.Lock()
	cl := c.calls.get(id)
	if cl == nil || cl.in != a {
		c.mu.Unlock()
		return // the caller left just now
	}
	c.calls.take(cl, &c.out)
	c.dropLocked(cl)
	if cl.out != nil && c.out.remove(cl.out) {
		c.cancelLocked(cl)
	}
	c.mu.Unlock()
	cl.reply = Reply{Code: a.header.Code, Fields: a.header.Fields, Body: a.body, Took: a.arrived - cl.began, Interim: cl.told}
	cl.reply.Fields.BodySize = 0
	cl.done <- struct{}{}
}

// onRequestBody begins to serve a request that is complete.
func (c *Conn) onRequestBody(id uint64, a *assembly) {
	c.mu.Lock()
	s := c.served[id]
	if s == nil || s.in != a {
		c.mu.Unlock()
		return
	}
	s.in = nil
	c.mu.Unlock()
	h := a.header
	if h.Fields.Deadline != 0 {
		// It was counted from the announcement. If nothing is left the handler
		// is not called; 0 would be no deadline.
		if h.Fields.Deadline -= time.Since(c.start) - a.arrived; h.Fields.Deadline == 0 {
			h.Fields.Deadline = -1
		}
	}
	h.Fields.BodySize = 0
	c.begin(s, &h, a.body)
}
