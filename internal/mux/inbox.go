package mux

import (
	"errors"
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// inbox is what the reading goroutine works with; held is guarded by Conn.mu.
type inbox struct {
	frames    *wire.FrameReader
	frame     wire.Frame
	piece     piece
	streaming bool          // the last frame was a chunk and more are to come
	req       Request       // for Fast
	scratch   []byte        // of req
	held      int           // bytes of replies under assembly
	signed    time.Duration // when the peer was last told that its body arrives, since Conn.start
}

// A piece is a chunk that is read to where it belongs.
type piece struct {
	frame   wire.Frame
	of      *assembly // nil: none is
	missing int
}

const (
	// headFill is how much is read at a time while chunks come: the head of
	// one, and what follows goes to where it belongs.
	headFill = 4 << 10
	// minPiece is how much of a chunk is worth a read of its own.
	minPiece = 8 << 10
)

// read is the reading goroutine.
func (c *Conn) read() {
	err := errExit
	defer func() { // also when a function of the user's calls Goexit
		c.Abort(err)
		if c.opts.Closed != nil {
			_ = c.guard(func() { c.opts.Closed(c.Err()) })
		}
	}()
	err = c.readAll()
}

// readAll reads and handles frames until the connection breaks.
func (c *Conn) readAll() error {
	for {
		n, err := c.fill()
		if err != nil {
			if errors.Is(err, wire.ErrTooLarge) || errors.Is(err, wire.ErrMalformed) {
				return fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			return fmt.Errorf("mux: read: %w", err)
		}
		c.bytesIn.Add(int64(n))
		c.heard.Store(int64(time.Since(c.start)))
		if c.opts.Heard != nil {
			var why error
			if err := c.guard(func() { why = c.opts.Heard() }); err != nil {
				return err
			}
			if why != nil {
				return why
			}
		}
		if err := c.handleAll(); err != nil {
			return err
		}
		if err := c.sign(); err != nil {
			return err
		}
	}
}

// fill reads once.
func (c *Conn) fill() (int, error) {
	p := &c.in.piece
	switch {
	case p.of != nil:
		room, err := p.of.room(p.missing)
		if err != nil {
			return 0, err
		}
		n, err := c.in.frames.ReadInto(room)
		p.of.grow(n)
		p.missing -= n
		return n, err
	case c.in.streaming:
		return c.in.frames.Fill(headFill)
	default:
		return c.in.frames.Fill(0)
	}
}

// beginPiece sees to it that what is missing of a chunk is read to where it
// belongs.
func (c *Conn) beginPiece() error {
	p := &c.in.piece
	missing, ok := c.in.frames.Begun(&p.frame)
	if !ok || missing < minPiece || p.frame.Kind != wire.KindChunk {
		return nil
	}
	a := c.assemblyOf(&p.frame)
	if a == nil {
		return nil
	}
	if _, err := a.room(len(p.frame.Body) + missing); err != nil {
		return err
	}
	if len(p.frame.Body) > 0 {
		_ = a.add(p.frame.Body)
	}
	c.in.frames.Skip()
	p.of, p.missing = a, missing
	return nil
}

// endPiece handles a chunk of which nothing is missing any more.
func (c *Conn) endPiece() {
	p := &c.in.piece
	a := p.of
	p.of = nil
	c.onPiece(&p.frame, a)
}

// handleAll handles the frames that have been read.
func (c *Conn) handleAll() error {
	frames := int64(0)
	if p := &c.in.piece; p.of != nil {
		if p.missing > 0 {
			return nil
		}
		select {
		case <-c.broken:
			return c.Err()
		default:
		}
		c.endPiece()
		frames++
	}
	for {
		ok, bad := c.in.frames.Next(&c.in.frame)
		if bad != nil && !errors.Is(bad, wire.ErrCritical) {
			return fmt.Errorf("%w: %w", ErrProtocol, bad)
		}
		if !ok {
			if err := c.beginPiece(); err != nil {
				return err
			}
			break
		}
		select {
		case <-c.broken: // aborted by what came before
			return c.Err()
		default:
		}
		frames++
		if err := c.handle(&c.in.frame, bad); err != nil {
			return err
		}
	}
	c.framesIn.Add(frames)
	c.mu.Lock()
	if c.err == nil && !c.out.empty() {
		c.flushLocked(frames == 1) // fast answers have gathered
	}
	c.mu.Unlock()
	return nil
}

// handle handles a frame, of which bad says that it has a critical field that
// is not known here.
func (c *Conn) handle(f *wire.Frame, bad error) error {
	c.in.streaming = false // onChunk knows better
	switch f.Kind {
	case wire.KindRequest:
		return c.onRequest(f, bad)
	case wire.KindReply, wire.KindError, wire.KindProgress:
		return c.onReply(f, bad)
	}
	if bad != nil {
		return fmt.Errorf("%w: %v: %w", ErrProtocol, f.Kind, bad)
	}
	switch f.Kind {
	case wire.KindChunk:
		return c.onChunk(f)
	case wire.KindCancel:
		c.onCancel(f)
	case wire.KindPacket:
		if c.opts.Packet != nil {
			return c.guard(func() { c.opts.Packet(f.Body, f.Fields.Digest) })
		}
	case wire.KindGoaway:
		c.onGoaway(f)
	case wire.KindVoid:
		return c.onVoid(f)
	default:
		return errKind
	}
	return nil
}
