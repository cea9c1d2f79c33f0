package peercache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// A gate bounds how many are inside at a time. Those beyond wait outside, who
// came first goes in first. It may be used concurrently.
type gate struct {
	most int64 // constant
	used atomic.Int64
	wait atomic.Int64 // waiting, for whoever leaves to see without the lock

	mu    sync.Mutex
	queue []chan bool // guarded by mu; gets true when its owner is in, false when it is turned away
}

var errTurnedAway = errors.New("peercache: there is no use in waiting")

// enter goes in, or waits until it may. The error is ctx's, or errTurnedAway.
func (g *gate) enter(ctx context.Context) error {
	if g.wait.Load() == 0 && g.try() {
		return nil
	}
	turn := make(chan bool, 1)
	g.mu.Lock()
	g.wait.Add(1)
	g.queue = append(g.queue, turn)
	g.admitLocked() // somebody may have left before he could see that one waits
	g.mu.Unlock()
	select {
	case in := <-turn:
		return turned(in)
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, turn); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
		g.wait.Add(-1)
		return ctx.Err()
	}
	return turned(<-turn) // just now
}

func turned(in bool) error {
	if !in {
		return errTurnedAway
	}
	return nil
}

// turnAway ends the waiting of all who wait.
func (g *gate) turnAway() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wait.Add(-int64(len(g.queue)))
	for _, turn := range g.queue {
		turn <- false
	}
	g.queue = nil
}

// try goes in if there is room.
func (g *gate) try() bool {
	if g.used.Add(1) <= g.most {
		return true
	}
	g.used.Add(-1)
	return false
}

// force goes in although there may be no room.
func (g *gate) force() { g.used.Add(1) }

// leave goes out.
func (g *gate) leave() {
	g.used.Add(-1)
	if g.wait.Load() > 0 {
		g.mu.Lock()
		g.admitLocked()
		g.mu.Unlock()
	}
}

func (g *gate) admitLocked() {
	for len(g.queue) > 0 && g.try() {
		g.queue[0] <- true
		g.queue = slices.Delete(g.queue, 0, 1)
		g.wait.Add(-1)
	}
}

// inside returns how many are in.
func (g *gate) inside() int64 { return g.used.Load() }
