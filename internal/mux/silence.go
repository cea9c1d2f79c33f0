package mux

import (
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// A connection may be deaf for minutes though the link is whole: what was
// written while the link was cut is sent again at times that double, and
// nothing overtakes it. So a side that waits for something, the answer to a
// call or merely that packets arrive, asks for a sign of life when it has heard
// nothing for a while, and breaks a connection on which none comes.

// lookEvery is how often in Options.Silence is looked whether something came.
const lookEvery = 4

// silence is what is known of a peer that does not say anything. Guarded by
// Conn.mu.
type silence struct {
	timer   *time.Timer   // nil until the first look is due
	due     time.Duration // when the next look is, since Conn.start; 0: there is none
	packets bool          // some were sent since a sign of life was asked for
	asked   time.Duration // since when one is waited for, since Conn.start; 0: none is
	bytes   int64         // Conn.bytesIn then
}

// listenLocked sees to it that the peer's signs of life are looked for. It is
// called when something is sent that has to arrive.
func (c *Conn) listenLocked() {
	if c.opts.Silence > 0 && c.quietness.due == 0 && c.err == nil {
		c.quietness.asked = 0
		c.lookLaterLocked(time.Since(c.start))
	}
}

func (c *Conn) lookLaterLocked(now time.Duration) {
	s, wait := &c.quietness, c.opts.Silence/lookEvery
	s.due = now + wait
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, c.look)
		return
	}
	s.timer.Reset(wait)
}

// look looks whether the peer has given a sign of life, and asks for one.
func (c *Conn) look() {
	c.mu.Lock()
	err := c.lookLocked()
	c.mu.Unlock()
	if err != nil {
		c.Abort(err)
	}
}

func (c *Conn) lookLocked() error {
	s := &c.quietness
	if c.err != nil || s.due == 0 {
		return nil
	}
	now, every := time.Since(c.start), c.opts.Silence/lookEvery
	late := now-s.due > every // this process did not run, nor read what has come
	switch {
	case s.asked != 0 && c.bytesIn.Load() == s.bytes:
		if late {
			s.asked = now
		} else if now-s.asked >= c.opts.Silence-every {
			return ErrSilent
		}
	case s.packets || c.calls.used > 0 && now-time.Duration(c.heard.Load()) >= every:
		s.packets, s.asked, s.bytes = false, now, c.bytesIn.Load()
		if err := c.controlLocked(&wire.Header{Kind: wire.KindVoid, Flags: wire.FlagAsk}, nil); err != nil {
			return err
		}
	case c.calls.used > 0:
		s.asked = 0
	default:
		s.asked, s.due = 0, 0
		return nil
	}
	c.lookLaterLocked(now)
	return nil
}

// onVoid handles a frame that says nothing, but may ask for another one.
func (c *Conn) onVoid(f *wire.Frame) error {
	if f.Flags&wire.FlagAsk == 0 {
		return nil
	}
	return c.control(&wire.Header{Kind: wire.KindVoid}, nil)
}

// signEvery is how often a peer that sends a large body is told that it
// arrives.
const signEvery = 50 * time.Millisecond

// sign tells the peer that what it sends in pieces arrives: until the last one
// has, it would hear nothing, and what it asks lies behind all that it wrote.
func (c *Conn) sign() error {
	if c.in.piece.of == nil && !c.in.streaming {
		return nil
	}
	now := time.Since(c.start)
	if now-c.in.signed < signEvery {
		return nil
	}
	c.in.signed = now
	return c.control(&wire.Header{Kind: wire.KindVoid}, nil)
}
