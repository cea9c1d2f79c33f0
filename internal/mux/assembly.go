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

// add appends a chunk and reports whether the body is complete.
func (a *assembly) add(chunk []byte) (bool, error) {
	if len(chunk) == 0 || len(chunk) > a.size-len(a.body) {
		return false, errChunk
	}
	if a.body == nil {
		a.body = make([]byte, 0, a.size)
	}
	a.body = append(a.body, chunk...)
	return len(a.body) == a.size, nil
}

// maxHeld bounds the bytes of bodies that are received, per direction. A peer
// that keeps to maxStreams never meets it with its replies.
func (c *Conn) maxHeld() int { return maxStreams * c.opts.MaxBody }

// expectLocked prepares for the chunks of a reply.
func (c *Conn) expectLocked(cl *call, f *wire.Frame) error {
	if f.Fields.BodySize > uint64(c.opts.MaxBody) {
		return fmt.Errorf("%w: reply of %d bytes, at most %d", ErrTooLarge, f.Fields.BodySize, c.opts.MaxBody)
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

// onChunk handles a piece of a body. Pieces for nobody are dropped: who
// waited for them has left, or refused them.
func (c *Conn) onChunk(f *wire.Frame) error {
	if f.Flags&wire.FlagReply == 0 {
		return c.onRequestChunk(f)
	}
	c.mu.Lock()
	cl := c.calls.get(f.Call)
	if cl == nil || cl.in == nil {
		c.mu.Unlock()
		return nil
	}
	a := cl.in
	c.mu.Unlock()
	complete, err := a.add(f.Body) // nobody but this goroutine looks into a
	if err != nil || !complete {
		return err
	}
	c.mu.Lock()
	if c.calls.get(f.Call) != cl {
		c.mu.Unlock()
		return nil // the caller left just now
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
	return nil
}

// onRequestChunk handles a piece of a request.
func (c *Conn) onRequestChunk(f *wire.Frame) error {
	c.mu.Lock()
	s := c.served[f.Call]
	if s == nil || s.in == nil {
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	complete, err := s.in.add(f.Body)
	if err != nil || !complete {
		return err
	}
	a := s.in
	h := a.header
	if h.Fields.Deadline != 0 {
		// It was counted from the announcement. If nothing is left the handler
		// is not called; 0 would be no deadline.
		if h.Fields.Deadline -= time.Since(c.start) - a.arrived; h.Fields.Deadline == 0 {
			h.Fields.Deadline = -1
		}
	}
	h.Fields.BodySize = 0
	c.mu.Lock()
	s.in = nil
	c.mu.Unlock()
	c.begin(s, &h, a.body)
	return nil
}
