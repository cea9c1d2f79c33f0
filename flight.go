package peercache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A loadContext carries what a load inherits from the call that began it: the
// values of its context, nothing of its end.
type loadContext = context.Context

// loaded is what a loader made of a key.
type loaded struct {
	value   []byte
	tag     uint16
	ttl     time.Duration // 0: no expiry; negative: not to be kept
	absent  bool          // the loader said ErrNotFound; ttl is then NegativeTTL, 0: not to be remembered
	decoded any           // the value as the loader returned it
	err     error
}

// A result is what a flight ends with.
type result struct {
	entry   entry
	found   bool // entry is a value; else the key is absent
	own     bool // this node held it
	decoded any  // the value, when this process loaded it
	err     error
}

// flightKey names what a flight loads.
type flightKey struct {
	space uint32
	key   string
}

// A flight is one load under way and everybody who waits for it.
type flight struct {
	key  flightKey
	id   uint64
	base Version       // what the loaded value follows
	v    Version       // when the load began
	turn chan struct{} // holds a token while nobody runs the load
	done chan struct{} // closed when result is set
	keep bool          // the result is to be kept

	result result // constant after done

	mu       sync.Mutex
	waiting  int                // guarded by mu
	left     bool               // guarded by mu: nobody waits, and nobody may join any more
	cancel   context.CancelFunc // guarded by mu; ends the load; nil: not run here
	detached bool               // guarded by mu: a write came meanwhile
	ended    bool               // guarded by mu
}

// flights are the loads under way on this node, by key.
type flights struct {
	mu     sync.Mutex
	byKey  map[flightKey]*flight // guarded by mu; those that can be joined
	byID   map[uint64]*flight    // guarded by mu; all that have not ended
	lastID uint64                // guarded by mu
}

func newFlights() *flights {
	return &flights{byKey: make(map[flightKey]*flight), byID: make(map[uint64]*flight)}
}

// join returns the flight of a key, which the caller leaves later; begin sets
// up a new one.
func (fs *flights) join(key flightKey, begin func(*flight)) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.byKey[key]; f != nil && f.enter() {
		return f
	}
	fs.lastID++
	f := &flight{key: key, id: fs.lastID, turn: make(chan struct{}, 1), done: make(chan struct{}), waiting: 1}
	f.turn <- struct{}{}
	begin(f)
	fs.byKey[key], fs.byID[f.id] = f, f
	return f
}

func (f *flight) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left {
		return false
	}
	f.waiting++
	return true
}

// leave ends a caller's waiting. When all have left the load is stopped.
func (fs *flights) leave(f *flight) {
	f.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	cancel := f.cancel
	f.left = f.left || last
	f.mu.Unlock()
	if last {
		fs.remove(f)
		if cancel != nil {
			cancel()
		}
	}
}

// remove keeps f from being joined, and forgets it once it has ended or
// nobody waits.
func (fs *flights) remove(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[f.key] == f {
		delete(fs.byKey, f.key)
	}
	delete(fs.byID, f.id)
}

// detach keeps the flights of a key that was written from being joined and
// their results from being kept: they may have read the value before.
func (fs *flights) detach(key flightKey) {
	fs.mu.Lock()
	f := fs.byKey[key]
	if f != nil {
		delete(fs.byKey, key)
	}
	fs.mu.Unlock()
	if f != nil {
		f.detach()
	}
}

// detachSpace is detach for all keys that pick names.
func (fs *flights) detachSpace(space uint32, pick func(key string) bool) {
	fs.mu.Lock()
	var detached []*flight
	for key, f := range fs.byKey {
		if key.space == space && pick(key.key) {
			delete(fs.byKey, key)
			detached = append(detached, f)
		}
	}
	fs.mu.Unlock()
	for _, f := range detached {
		f.detach()
	}
}

func (f *flight) detach() {
	f.mu.Lock()
	f.detached = true
	f.mu.Unlock()
}

// lent returns the flight that was lent under an id, if it goes on.
func (fs *flights) lent(id uint64) *flight {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.byID[id]
}

// end sets the result and wakes everybody. Only the first call counts.
func (fs *flights) end(f *flight, r result) {
	f.mu.Lock()
	if f.ended {
		f.mu.Unlock()
		return
	}
	f.ended, f.left = true, true
	f.result = r
	f.mu.Unlock()
	fs.remove(f)
	close(f.done)
}

// mayKeep reports whether the result may be kept: no write came meanwhile.
func (f *flight) mayKeep() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keep && !f.detached
}

// runs notes how to stop the load, unless everybody has left already.
func (f *flight) runs(cancel context.CancelFunc) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left {
		return false
	}
	f.cancel = cancel
	return true
}

// A panicError is what a panic in a loader becomes for its callers.
type panicError struct{ value any }

// Error implements error.
func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

var errAllLeft = errors.New("peercache: nobody waits for this load")

// loaderGrace is how long a loader may take to return after its context ended.
const loaderGrace = 10 * time.Millisecond

var errGoexit = errors.New("the loader ended its goroutine")

// guard calls a loader in a goroutine of its own, so that one that panics,
// ends its goroutine or does not heed its context wedges no key.
func guard[T any](ctx context.Context, n *Node, load func() T) (v T, err error) {
	type outcome struct {
		v   T
		err error
	}
	ended := make(chan outcome, 1)
	if !n.spawn(func(context.Context) {
		o := outcome{err: errGoexit}
		defer func() {
			if r := recover(); r != nil {
				o.err = &panicError{r}
			}
			ended <- o
		}()
		o.v = load()
		o.err = nil
	}) {
		return v, ErrClosed
	}
	select {
	case o := <-ended:
		return o.v, o.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(loaderGrace)
	defer grace.Stop()
	select {
	case o := <-ended:
		return o.v, o.err
	case <-grace.C:
		return v, ctx.Err()
	}
}

// callLoader runs a space's loader with its bound.
func (n *Node) callLoader(ctx context.Context, sp *space, key string) loaded {
	f := sp.face.Load()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	sp.count.loads.Add(1)
	l, err := guard(ctx, n, func() loaded { return f.load(ctx, key) })
	return n.judgeLoad(sp, l, err)
}

// judgeLoad counts a load, and tells where it failed.
func (n *Node) judgeLoad(sp *space, l loaded, failure error) loaded {
	if failure != nil {
		l = loaded{err: failure}
	}
	if l.err != nil {
		sp.count.loadErrors.Add(1)
		l.err = &LoadError{Member: n.cfg.Name, Err: l.err}
	}
	return l
}

// entryOfLoad makes the entry that a load's outcome is kept as. ok is false
// when it is not to be kept.
func (n *Node) entryOfLoad(l loaded, o order) (e entry, ok bool) {
	e = entry{order: o, tag: l.tag, value: l.value}
	if l.absent {
		e.flags, e.value = flagNegative, nil
		ok = l.ttl > 0
	} else {
		ok = l.ttl >= 0
	}
	if l.ttl > 0 {
		e.expires = n.clock.Elapsed() + min(l.ttl, maxTTL)
	}
	return e, ok
}

// callLoaderMany is callLoader for several keys. Every key is in the result.
func (n *Node) callLoaderMany(ctx context.Context, sp *space, keys []string) map[string]loaded {
	f := sp.face.Load()
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	sp.count.loads.Add(int64(len(keys)))
	loads, failure := guard(ctx, n, func() map[string]loaded { return f.loadMany(ctx, keys) })
	outcomes := make(map[string]loaded, len(keys))
	for _, key := range keys {
		outcomes[key] = n.judgeLoad(sp, loads[key], failure)
	}
	return outcomes
}
