package gossip

import "sync"

// gate counts those inside and, once closed, lets nobody in.
type gate struct {
	mu     sync.Mutex
	closed bool           // guarded by mu
	inside sync.WaitGroup // added to under mu
}

// enter reports whether the caller is in; if so it must call leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// close lets nobody in any more; wait waits until all are out.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

func (g *gate) wait() { g.inside.Wait() }
