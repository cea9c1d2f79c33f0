package mux

import (
	"errors"
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// inbox is what the reading goroutine works with; held is guarded by Conn.mu.
type inbox struct {
	frames  *wire.FrameReader
	frame   wire.Frame
	req     Request // for Fast
	scratch []byte  // of req
	held    int     // bytes of replies under assembly
}

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
		n, err := c.in.frames.Fill()
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
	}
}

// handleAll handles the frames that have been read.
func (c *Conn) handleAll() error {
	frames := int64(0)
	for {
		ok, bad := c.in.frames.Next(&c.in.frame)
		if bad != nil && !errors.Is(bad, wire.ErrCritical) {
			return fmt.Errorf("%w: %w", ErrProtocol, bad)
		}
		if !ok {
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
			return c.guard(func() { c.opts.Packet(f.Body) })
		}
	case wire.KindGoaway:
		c.onGoaway(f)
	case wire.KindVoid:
	default:
		return errKind
	}
	return nil
}
