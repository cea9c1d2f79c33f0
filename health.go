package peercache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// Bounds of a peer's patience: the time after which a request to it has taken
// longer than usual.
const (
	leastPatience = 10 * time.Millisecond
	mostPatience  = 50 * time.Millisecond
	pingEvery     = 50 * time.Millisecond
	pingTimeout   = time.Second
)

// health is what a node thinks of a peer's answers. It may be used
// concurrently.
type health struct {
	latency  atomic.Int64 // smoothed time of a request that needed no load, nanoseconds
	variance atomic.Int64 // smoothed deviation from it
	silent   atomic.Bool  // it is out of the request path until it answers again

	mu      sync.Mutex
	pinging bool // guarded by mu
}

// observe notes how long a request took (Jacobson & Karels, "Congestion
// Avoidance and Control", 1988).
func (h *health) observe(d time.Duration) {
	latency := h.latency.Load()
	if latency == 0 {
		h.latency.Store(int64(d))
		h.variance.Store(int64(d / 2))
		return
	}
	deviation := int64(d) - latency
	h.latency.Store(latency + deviation/8)
	h.variance.Store(h.variance.Load() + (max(deviation, -deviation)-h.variance.Load())/4)
}

func (h *health) patience() time.Duration {
	usual := time.Duration(h.latency.Load() + 4*h.variance.Load())
	return min(max(usual, leastPatience), mostPatience)
}

// patience returns how long a request to a member may take before it has
// taken longer than usual.
func (p *peers) patience(m Member) time.Duration {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return leastPatience
	}
	return r.health.patience()
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
	if r.calls.failing() {
		return 2
	}
	if r.health.silent.Load() {
		return 1
	}
	return 0
}

// suspect takes a silent member out of the request path, until it answers a
// ping. One from which something else came meanwhile only takes its time.
func (p *peers) suspect(m Member) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return
	}
	if conn, _ := r.calls.state(); conn != nil && conn.SinceHeard() < silence/2 {
		return
	}
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	if r.health.pinging {
		return
	}
	r.health.silent.Store(true)
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
		if err == nil {
			return
		}
		sleep(ctx, pingEvery)
	}
}

// call asks a member something. told, if not nil, is called with interim
// replies.
func (p *peers) call(ctx context.Context, m Member, req mux.Request, told func(mux.Reply)) (mux.Reply, error) {
	r, err := p.get(m.Incarnation, m.Addr)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	conn, err := r.calls.get(ctx)
	if err != nil {
		return mux.Reply{}, &mux.CallError{Err: err}
	}
	req.Fields.Clock = p.n.hlc.read()
	req.Fields.Digest = p.n.view.Load().digest
	began, loading := time.Now(), false
	reply, err := conn.Call(ctx, req, func(interim mux.Reply) {
		loading = true
		if told != nil {
			told(interim)
		}
	})
	if err == nil {
		if !loading && req.Op <= opGet {
			r.health.observe(time.Since(began))
		}
		p.n.hlc.observe(reply.Fields.Clock)
	}
	return reply, err
}
