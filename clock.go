package peercache

import (
	"context"
	"sync/atomic"
	"time"
)

// A clock tells a node the time. It is the system's unless the node's
// listener brings its own, as the in-memory network's does so that a test can
// set two nodes' clocks apart or stop one of them.
type clock interface {
	// Now is the wall clock, which others can be compared with.
	Now() time.Time
	// Elapsed is the time since some fixed moment. It never goes back, and
	// goes on while the machine is suspended.
	Elapsed() time.Duration
	// Running waits while this process is stopped, or until ctx ends, and
	// reports whether it ran all the time. Only where a test's network stops
	// a process whose goroutines go on is there anything to wait for.
	Running(ctx context.Context) bool
}

// systemClock is the operating system's clock.
type systemClock struct {
	origin  time.Time
	suspend func() time.Duration // how long the machine has been suspended since it was started

	suspended atomic.Int64 // what suspend gave when last asked, relative to the first answer
	first     time.Duration
}

// suspendHint is how far the wall clock may run ahead of the monotonic one
// before the system is asked whether the machine slept.
const suspendHint = 50 * time.Millisecond

func newSystemClock() *systemClock {
	return &systemClock{origin: time.Now(), suspend: timeSuspended, first: timeSuspended()}
}

// Now implements [clock].
func (c *systemClock) Now() time.Time { return time.Now() }

// Running implements [clock]: whoever calls it runs.
func (c *systemClock) Running(context.Context) bool { return true }

// Elapsed implements [clock]. Go's monotonic clock stands still while the
// machine is suspended; the wall clock does not, so that a wall clock which
// ran ahead is the sign to ask the system how long it slept. A wall clock
// that was merely set changes nothing.
func (c *systemClock) Elapsed() time.Duration {
	now := time.Now()
	monotonic := now.Sub(c.origin)
	wall := now.Round(0).Sub(c.origin.Round(0))
	known := time.Duration(c.suspended.Load())
	if wall-monotonic > known+suspendHint {
		if slept := c.suspend() - c.first; slept > known {
			c.suspended.CompareAndSwap(int64(known), int64(slept))
			known = slept
		}
	}
	return monotonic + known
}
