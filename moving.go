package peercache

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// What is large takes its time on a slow link, and behind what is large too. So
// its time is not bounded as a whole, but the time in which nothing of it moves:
// bytes that come over the connection for bulk are signs of life. Whoever gets a
// large request gives such signs while it comes in (mux), and a large answer is one
// itself.

const (
	// bulkSilence is how long a member that has said that its answer is large may
	// send nothing of it.
	bulkSilence = 500 * time.Millisecond
	// leastRate is what a link is taken to carry at least, in bytes a second, where
	// something has to have an end all the same.
	leastRate = 64 << 10
)

// slowTime is how long so many bytes take at leastRate.
func slowTime(size int) time.Duration {
	return time.Duration(size) * time.Second / leastRate
}

// travelsAsBulk reports whether a body of some size takes the connection for bulk.
func travelsAsBulk(size int) bool { return size > mux.MaxWhole }

// largeAtOnce is how many bytes of large writes of this process's own callers are
// under way to one member at a time, unless one alone has more; the others wait. The
// member has room for as much again, so that copies of what it sends out itself, which
// nobody may wait for in turn, always find some.
const largeAtOnce = 32 << 20

// turn waits until a large write may be sent to a member. The caller calls done when
// it is over.
func (p *peers) turn(ctx context.Context, m Member, size int) (done func(), err error) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return nil, err
	}
	weight := int64(min(size, largeAtOnce))
	if err := r.large.Acquire(ctx, weight); err != nil {
		return nil, fmt.Errorf("%w: large writes to %s are under way: %w", ErrUnavailable, m, err)
	}
	return func() { r.large.Release(weight) }, nil
}

// sinceMoved returns how long ago something came over the connection for bulk to a
// member, or to the one that its route leads through, or in the attempt to make it.
func (p *peers) sinceMoved(incarnation uint64) time.Duration {
	r := p.find(incarnation)
	if r == nil {
		return time.Hour
	}
	if through := r.route.through.Load(); through != nil {
		if r = p.find(through.Incarnation); r == nil {
			return time.Hour
		}
	}
	if conn := r.bulk.live.Load(); conn != nil {
		return conn.SinceHeard()
	}
	return r.bulk.sinceStep()
}

// sinceHeard returns how long ago something came from a peer, by any connection
// for calls.
func (r *peer) sinceHeard() time.Duration {
	since := time.Hour
	for _, c := range []*connector{&r.calls, &r.bulk} {
		if conn := c.live.Load(); conn != nil {
			since = min(since, conn.SinceHeard())
		}
	}
	return since
}

// A quietTimer calls end when a bound has passed in which there was no sign of
// life. It may be used concurrently.
type quietTimer struct {
	left func() time.Duration // how much longer it may be quiet, when the bound has passed; 0 or less: not at all
	end  func()

	mu      sync.Mutex
	timer   *time.Timer // guarded by mu, as are the others
	stopped bool
	fired   bool
}

func newQuietTimer(bound time.Duration, left func() time.Duration, end func()) *quietTimer {
	q := &quietTimer{left: left, end: end}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timer = time.AfterFunc(bound, q.ring)
	return q
}

func (q *quietTimer) ring() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return // the member has said something just now
	}
	if rest := q.left(); rest > 0 {
		q.timer.Reset(rest)
		return
	}
	q.fired = true
	q.end()
}

// stop ends the watching.
func (q *quietTimer) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.timer.Stop()
}

// again begins to watch anew.
func (q *quietTimer) again(bound time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.fired {
		q.stopped = false
		q.timer.Reset(bound)
	}
}

// struck reports whether end was called.
func (q *quietTimer) struck() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fired
}

// newSilence ends a request, large or not, to a member that says nothing at all.
func (p *peers) newSilence(asked Member, large bool, end func()) *quietTimer {
	return newQuietTimer(silence, func() time.Duration {
		left := p.silenceLeft(asked)
		if large {
			left = max(left, silence-p.sinceMoved(asked.Incarnation))
		}
		return left
	}, end)
}

// quietLeft returns a function for a quietTimer: how much longer a request, large or
// not, may be without a sign of life, which has a bound.
func (p *peers) quietLeft(asked uint64, large bool, bound time.Duration) func() time.Duration {
	return func() time.Duration {
		if !large {
			return 0
		}
		return bound - p.sinceMoved(asked)
	}
}

// callWithin is call for a request that may take so long without a sign of life.
func (p *peers) callWithin(ctx context.Context, bound time.Duration, m Member, req mux.Request) (mux.Reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	large := req.Op == opSync || travelsAsBulk(len(req.Body)+len(req.Tail))
	quiet := newQuietTimer(bound, p.quietLeft(m.Incarnation, large, bound), cancel)
	defer quiet.stop()
	return p.call(ctx, m, req, nil)
}

// brief returns a context that ends after a bound, unless told hears that an answer
// is large. Who gets that bounds it.
func brief(ctx context.Context, bound time.Duration) (within context.Context, told func(mux.Reply), end func()) {
	within, cancel := context.WithCancel(ctx)
	quiet := newQuietTimer(bound, func() time.Duration { return 0 }, cancel)
	told = func(r mux.Reply) {
		if r.Code == progressBulk {
			quiet.stop()
		}
	}
	return within, told, func() {
		quiet.stop()
		cancel()
	}
}

// whileMoving returns a context that ends after most, or when what moved returns has
// been the same for the time idle.
func whileMoving(ctx context.Context, idle, most time.Duration, moved func() int64) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, most)
	last := moved()
	quiet := newQuietTimer(idle, func() time.Duration {
		now := moved()
		if now == last {
			return 0
		}
		last = now
		return idle
	}, cancel)
	return ctx, func() {
		quiet.stop()
		cancel()
	}
}
