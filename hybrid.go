package peercache

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	counterBits = 16
	// maxAhead is how far ahead of the own clock a stamp may be and still be
	// taken in. A member whose clock is off by more than maxSkew is in no table,
	// so anything beyond this is not a clock.
	maxAhead = time.Minute
	// maxFollow is the same for a mere reading of a clock, which comes with every
	// request and reply. It is so far below maxAhead that a stamp made after such a
	// reading is taken in by every member whose clock is not off.
	maxFollow = 5 * time.Second
)

// hybridClock stamps versions: it follows the wall clock, and is never behind
// a stamp that it was shown.
type hybridClock struct {
	now         func() time.Time
	incarnation uint64
	last        atomic.Uint64
	seen        atomic.Uint64 // the greatest reading of the wall clock
	refused     atomic.Int64  // readings of others that were not followed
}

// wall returns the wall clock's reading.
func (c *hybridClock) wall() uint64 {
	wall := uint64(max(c.now().UnixMilli(), 0)) << counterBits
	for {
		seen := c.seen.Load()
		if wall <= seen || c.seen.CompareAndSwap(seen, wall) {
			return wall
		}
	}
}

// limit is the greatest reading that is at most so far ahead of the wall clock,
// or of what that showed before it was set back: clocks that are set back together
// go on to believe each other.
func (c *hybridClock) limit(most time.Duration) uint64 {
	wall := c.wall()
	return after(max(wall, c.seen.Load()), most)
}

// next returns a version greater than all that this clock returned or was
// shown.
func (c *hybridClock) next() Version {
	for {
		last := c.last.Load()
		next := max(last+1, c.wall())
		if c.last.CompareAndSwap(last, next) {
			return Version{next, c.incarnation}
		}
	}
}

// read returns the present time without making a version of it.
func (c *hybridClock) read() uint64 { return max(c.last.Load(), c.wall()) }

// accept moves the clock past a stamp of another, and reports whether it is
// one that a clock can have made.
func (c *hybridClock) accept(stamp uint64) bool { return c.moveTo(stamp, maxAhead) }

// follow moves the clock past a reading of another, unless that is far ahead.
// A reading may also show that this clock is ahead of all others though its wall
// clock is not: that was, and has been set right.
func (c *hybridClock) follow(reading uint64) bool {
	if c.last.Load() > after(reading, maxAhead) && c.wall() <= after(reading, maxAhead) {
		c.fallBack()
	}
	return c.moveTo(reading, maxFollow)
}

func (c *hybridClock) moveTo(reading uint64, most time.Duration) bool {
	for {
		last := c.last.Load()
		if reading <= last {
			return true
		}
		if reading > c.limit(most) {
			c.refused.Add(1)
			return false
		}
		if c.last.CompareAndSwap(last, reading) {
			return true
		}
	}
}

// believes reports whether a clock can have made a stamp.
func (c *hybridClock) believes(stamp uint64) bool {
	return stamp <= c.last.Load() || stamp <= c.limit(maxAhead)
}

// fallBack sets a clock back that is so far ahead of its wall clock that no other
// takes its stamps in. It stays above what it stamped before the wall clock was
// ahead.
func (c *hybridClock) fallBack() {
	for wall := c.wall(); ; {
		last := c.last.Load()
		if last <= after(wall, maxAhead) {
			return
		}
		if c.last.CompareAndSwap(last, after(wall, maxFollow)) {
			c.seen.Store(wall)
			return
		}
	}
}

// ahead returns how far a reading is ahead of the wall clock.
func (c *hybridClock) ahead(reading uint64) time.Duration {
	const most = int64(math.MaxInt64 / time.Millisecond)
	ms := int64(reading>>counterBits) - int64(c.wall()>>counterBits)
	return time.Duration(max(min(ms, most), -most)) * time.Millisecond
}

// after returns the reading that is d after one.
func after(reading uint64, d time.Duration) uint64 {
	return reading + uint64(max(d, 0).Milliseconds())<<counterBits
}
