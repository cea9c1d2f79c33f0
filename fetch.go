package peercache

import (
	"context"
	"sync"
)

// fetches lets the callers of this process share requests to owners. Of each
// key at most one request is under way; those who come meanwhile share the
// next one, which is sent after that. None joins a request that was sent
// before: it may have been answered before a write that the caller knows of.
type fetches struct {
	n *Node

	mu    sync.Mutex
	byKey map[fetchKey]*fetch // guarded by mu
}

type fetchKey struct {
	flightKey
	load bool
}

type fetch struct {
	run  func(ctx context.Context) result
	done chan struct{}

	result result // constant after done

	next    *fetch             // guarded by fetches.mu; who waits for this one to end
	begun   bool               // guarded by fetches.mu
	waiting int                // guarded by fetches.mu
	ctx     context.Context    // guarded by fetches.mu; of the first caller, without its end
	cancel  context.CancelFunc // guarded by fetches.mu; set with begun
}

func newFetches(n *Node) *fetches {
	return &fetches{n: n, byKey: make(map[fetchKey]*fetch)}
}

// do returns the result of run, or of another caller's that begins after do
// was called. run ends when all its callers have left.
func (fs *fetches) do(ctx context.Context, key fetchKey, run func(ctx context.Context) result) result {
	fs.mu.Lock()
	f := fs.byKey[key]
	switch {
	case f == nil:
		f = fs.newFetch(ctx, run)
		fs.byKey[key] = f
		fs.beginLocked(key, f)
	case f.next == nil:
		f.next = fs.newFetch(ctx, run)
		f = f.next
	default:
		f = f.next
	}
	f.waiting++
	fs.mu.Unlock()

	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.waiting--; f.waiting == 0 && f.cancel != nil {
		f.cancel()
	}
	return result{err: ctx.Err()}
}

func (fs *fetches) newFetch(ctx context.Context, run func(context.Context) result) *fetch {
	return &fetch{run: run, done: make(chan struct{}), ctx: context.WithoutCancel(ctx)}
}

// beginLocked sends the request of f.
func (fs *fetches) beginLocked(key fetchKey, f *fetch) {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(f.ctx)
	f.begun = true
	if !fs.n.spawn(func(life context.Context) {
		stop := context.AfterFunc(life, f.cancel)
		defer stop()
		f.result = f.run(ctx)
		f.cancel()
		if life.Err() != nil {
			f.result = result{err: ErrClosed}
		}
		fs.ended(key, f)
	}) {
		f.result = result{err: ErrClosed}
		close(f.done)
		delete(fs.byKey, key)
	}
}

// ended wakes the callers of f and begins the request of those who came
// meanwhile, if they still wait.
func (fs *fetches) ended(key fetchKey, f *fetch) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	close(f.done)
	delete(fs.byKey, key)
	if next := f.next; next != nil && next.waiting > 0 {
		fs.byKey[key] = next
		fs.beginLocked(key, next)
	}
}
