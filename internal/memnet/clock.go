package memnet

import (
	"sync"
	"time"
)

// clock is what a host's processes see of time. Its readings stop while the host is paused and then jump to the present.
type clock struct {
	created time.Time

	// mu guards all below. It is held while time.Now is read, so that no reading taken before a pause is handed out as later
	// than the pause.
	mu       sync.Mutex
	skew     time.Duration
	paused   bool
	pausedAt time.Time
}

func (c *clock) instantLocked() time.Time {
	if c.paused {
		return c.pausedAt
	}
	return time.Now()
}

// now is the wall clock: it has the skew and no monotonic reading.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.instantLocked().Add(c.skew).Round(0)
}

func (c *clock) elapsed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.instantLocked().Sub(c.created)
}

func (c *clock) setSkew(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew = d
}

func (c *clock) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		c.paused, c.pausedAt = true, time.Now()
	}
}

func (c *clock) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
}
