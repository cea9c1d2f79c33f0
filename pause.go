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

	beat  atomic.Int64  // clock.Elapsed when somebody looked last
	count atomic.Uint64 // pauses so far; a connection belongs to the count it began with

	mu sync.Mutex // held while a pause is counted
}

func (p *pauses) init(c clock, limit time.Duration, notice func(time.Duration)) {
	p.clock, p.limit, p.notice = c, limit, notice
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

// ended counts the pause that ended now, unless another looker was faster.
func (p *pauses) ended(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := time.Duration(now - p.beat.Load())
	if gap <= p.limit {
		return
	}
	// The count goes first: whoever sees the new beat sees it as well.
	p.count.Add(1)
	p.beat.Store(now)
	p.notice(gap)
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
