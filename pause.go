package peercache

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// pauseBeat is how often a running process notes that it runs.
const pauseBeat = 50 * time.Millisecond

var errPaused = errors.New("peercache: connection is from before a pause of this process")

// pauses notices that this process did not run for a while, because it was
// stopped or the machine slept. Whoever looks first after such a gap notices
// it: each connection looks after it read something and before it believes
// what it read, since by then the others may have taken this node out of
// their tables.
type pauses struct {
	clock  clock
	limit  time.Duration
	notice func(time.Duration) // must not block
	span   uint64              // cycles for which a look holds; 0: none

	beat  atomic.Int64  // clock.Elapsed when somebody looked last
	seen  atomic.Uint64 // cycles when a glance last led to a look
	count atomic.Uint64 // pauses so far; a connection belongs to the count it began with

	mu sync.Mutex // held while a pause is counted
}

func (p *pauses) init(c clock, limit time.Duration, notice func(time.Duration)) {
	p.clock, p.limit, p.notice = c, limit, notice
	if _, ok := c.(*systemClock); ok {
		p.span = cyclesIn(min(glanceTime, limit/4))
	}
	p.beat.Store(int64(c.Elapsed()))
}

// run looks now and then until ctx ends, so that a node at rest does not seem
// to have been paused.
func (p *pauses) run(ctx context.Context) {
	ticker := time.NewTicker(pauseBeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.look()
		}
	}
}

// look notices a pause that has just ended and returns how many there were.
func (p *pauses) look() uint64 {
	now := int64(p.clock.Elapsed())
	before := p.beat.Load()
	if time.Duration(now-before) > p.limit {
		p.ended(now)
	} else if now > before {
		p.beat.CompareAndSwap(before, now)
	}
	return p.count.Load()
}

// glance is look for those who come too often to read the clock each time. It
// returns a time on the clock that is not yet [glanceTime] ago.
func (p *pauses) glance() time.Duration {
	// 1. The cycles are read. 2. The clock is. So no more than span has passed
	// since the beat for anybody who finds these cycles.
	if now := cycles(); now-p.seen.Load() >= p.span {
		p.look()
		p.seen.Store(now)
	}
	return time.Duration(p.beat.Load())
}

// ended counts the pause that ended now, unless another looker was faster.
func (p *pauses) ended(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := time.Duration(now - p.beat.Load())
	if gap <= p.limit {
		return
	}
	// The beat goes last: whoever sees it sees the new count, and what notice
	// did as well.
	p.count.Add(1)
	p.notice(gap)
	p.beat.Store(now)
}

// guard returns a check for a connection that begins now: it fails once a
// pause has happened since.
func (p *pauses) guard() func() error {
	began := p.look()
	return func() error {
		if p.look() != began {
			return errPaused
		}
		return nil
	}
}
