package peercache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

const (
	firstPatience = 10 * time.Millisecond // with a peer that has not been measured yet
	leastPatience = 5 * time.Millisecond
	mostPatience  = time.Second

	// hedgeShare is how many requests there are to a hedge, 2 %; hedgeBurst is
	// how many hedges may have been saved up.
	hedgeShare = 50
	hedgeBurst = 32

	leastSilence = 30 * time.Millisecond // before a peer counts as stuck
	pingEvery    = 50 * time.Millisecond
	pingTimeout  = time.Second
)

var processStart = time.Now()

// health is what a node thinks of a peer's answers. It may be used
// concurrently.
type health struct {
	latency  atomic.Int64 // smoothed time of a request that needed no load, nanoseconds
	observed atomic.Int64 // when latency changed last, nanoseconds after processStart
	tail     atomic.Int64 // the time that one request in hedgeShare takes longer than
	asked    atomic.Int64 // requests of which latencies are measured
	load     atomic.Int64 // requests that it was working on when it last said so
	silent   atomic.Bool  // it is out of the request path until it answers again
	stuck    atomic.Pointer[breaker]
	trips    atomic.Int64 // how often stuck was set

	mu      sync.Mutex
	pinging bool  // guarded by mu
	credit  int64 // guarded by mu; of asked, what was used for hedges or is forfeited
}

// A breaker is open for as long as nothing comes over the connection on which
// a peer owes answers.
type breaker struct {
	conn  *mux.Conn
	heard time.Time
}

// observe notes how long a request took.
func (h *health) observe(d time.Duration) {
	now := int64(time.Since(processStart))
	age := now - h.observed.Swap(now)
	if latency := h.latency.Load(); latency == 0 {
		h.latency.Store(int64(d))
	} else {
		// The older what is known, the more weighs what is new: a peer that was
		// slow is asked seldom.
		weight := max(1.0/8, float64(age)/float64(age+int64(oldLatency)))
		h.latency.Store(latency + int64(weight*float64(int64(d)-latency)))
	}
	// A quantile that is followed by steps: where the steps up and down
	// balance, one in hedgeShare is above it (Tierney, "A Space-Efficient
	// Recursive Procedure for Estimating a Quantile", 1983).
	tail := int64(h.patience())
	if int64(d) > tail {
		tail += tail / 8
	} else {
		tail -= tail / (8 * (hedgeShare - 1))
	}
	h.tail.Store(min(max(tail, int64(leastPatience)), int64(mostPatience)))
}

// patience returns how long a request may take before it has taken longer than
// usual.
func (h *health) patience() time.Duration {
	if tail := h.tail.Load(); tail != 0 {
		return time.Duration(tail)
	}
	return firstPatience
}

// bounds returns patience, and after how long without a sign of life the peer
// counts as stuck.
func (h *health) bounds() (usual, stuck time.Duration) {
	usual = h.patience()
	return usual, max(3*usual, leastSilence)
}

// mayHedge reports whether one more request may go to another member because
// this one takes long, and counts it.
func (h *health) mayHedge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked.Load()
	h.credit = max(h.credit, asked-hedgeBurst*hedgeShare)
	if asked-h.credit < 0 {
		return false
	}
	h.credit += hedgeShare
	return true
}

// isStuck reports whether the peer owes answers and has not said anything for
// much longer than usual.
func (r *peer) isStuck() bool {
	b := r.health.stuck.Load()
	if b == nil {
		return false
	}
	if conn := r.calls.live.Load(); conn == b.conn && conn.LastHeard().Equal(b.heard) {
		return true
	}
	r.health.stuck.CompareAndSwap(b, nil)
	return false
}

// foundStuck opens the breaker unless something has come from the peer since a
// request was sent to it, and reports whether it is open.
func (r *peer) foundStuck(sent time.Time) bool {
	conn := r.calls.live.Load()
	if conn == nil {
		return false
	}
	heard := conn.LastHeard()
	if heard.After(sent) {
		return false
	}
	if !r.isStuck() {
		r.health.stuck.Store(&breaker{conn, heard})
		r.health.trips.Add(1)
		r.gate.turnAway()
	}
	return true
}

// healthy reports whether a member seems to be within reach: it neither
// refused the last connection nor is silent.
func (p *peers) healthy(m Member) bool { return p.rank(m) == 0 }

// rank orders members by how likely they answer: 0 for those within reach, 1
// for silent ones, 2 for those to whom there is no connection.
func (p *peers) rank(m Member) int {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return 2
	}
	if r.route.through.Load() != nil {
		return 0
	}
	if r.calls.failing() {
		return 2
	}
	if r.health.silent.Load() {
		return 1
	}
	return 0
}

// silenceLeft returns how much longer a member that owes an answer may say
// nothing though it has said nothing for as long as one may be silent.
//
//  1. A node sees another one, far away, for the first time. 2. It asks for a
//     key, and has to connect before, which takes several round trips.
func (p *peers) silenceLeft(m Member) time.Duration {
	r := p.find(m.Incarnation)
	if r == nil {
		return 0
	}
	return silence - r.calls.sinceStep()
}

// suspect takes a silent member out of the request path, until it answers a
// ping. One from which something else came meanwhile only takes its time.
func (p *peers) suspect(m Member) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return
	}
	if r.sinceHeard() < silence/2 {
		return
	}
	p.checkLink(m)
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	if r.health.pinging {
		return
	}
	r.health.silent.Store(true)
	r.gate.turnAway()
	r.health.pinging = p.n.spawn(func(ctx context.Context) { p.pingUntilAnswered(ctx, m, r) })
}

func (p *peers) pingUntilAnswered(ctx context.Context, m Member, r *peer) {
	defer func() {
		r.health.mu.Lock()
		r.health.pinging = false
		r.health.silent.Store(false)
		r.health.mu.Unlock()
	}()
	for ctx.Err() == nil {
		if _, ok := p.n.view.Load().find(m.Incarnation); !ok {
			return
		}
		ping, cancel := context.WithTimeout(ctx, pingTimeout)
		_, err := p.call(ping, m, mux.Request{Op: opPing}, nil)
		cancel()
		if err == nil || isFinal(err) { // a refusal is an answer as well
			return
		}
		sleep(ctx, pingEvery)
	}
}
