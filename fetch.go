package peercache

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// fetchStripes is over how many locks the fetches are spread.
const fetchStripes = 64

// fetches lets the callers of this process share requests to owners. Of each
// key at most one request is under way; those who come meanwhile share the
// next one, which is sent after that. None joins a request that was sent
// before: it may have been answered before a write that the caller knows of.
// Only the failure of a load is shared by those who came while it ran.
type fetches struct {
	n       *Node
	stripes [fetchStripes]fetchStripe
}

type fetchStripe struct {
	mu    sync.Mutex
	byKey map[fetchKey]*fetch // guarded by mu; the keys with a request under way, and who waits for the next; nil: nobody
	_     [48]byte            // to a cache line
}

type fetchKey struct {
	flightKey
	load bool
}

// A fetch is a request that several callers share, and which is yet to be
// sent.
type fetch struct {
	run  func(ctx context.Context) result
	done chan struct{}

	result result // constant after done

	waiting int                // guarded by fetchStripe.mu
	callers []context.Context  // guarded by fetchStripe.mu, until it is sent; of all who joined
	ctx     context.Context    // constant; of the first caller, without its end
	cancel  context.CancelFunc // guarded by fetchStripe.mu; nil until it is sent
}

func newFetches(n *Node) *fetches {
	fs := &fetches{n: n}
	for i := range fs.stripes {
		fs.stripes[i].byKey = make(map[fetchKey]*fetch)
	}
	return fs
}

func (fs *fetches) stripe(shard int) *fetchStripe { return &fs.stripes[shard%fetchStripes] }

// enter reports whether no request for the key, which is of a shard, is under
// way: the caller then makes one and calls leave.
func (fs *fetches) enter(shard int, key fetchKey) bool {
	s := fs.stripe(shard)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.byKey[key]; busy {
		return false
	}
	s.byKey[key] = nil
	return true
}

// leave ends a request, and sends that of those who came meanwhile if they
// still wait. If it ended with a load that failed, they share that: they came
// while it ran, and no write can have made it outdated.
func (fs *fetches) leave(shard int, key fetchKey, r result) {
	s := fs.stripe(shard)
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.byKey[key]
	if f != nil && errors.Is(r.err, ErrLoad) {
		delete(s.byKey, key)
		f.result = r
		close(f.done)
		return
	}
	fs.leaveLocked(s, shard, key)
}

func (fs *fetches) leaveLocked(s *fetchStripe, shard int, key fetchKey) {
	f := s.byKey[key]
	if f == nil || !f.wanted() {
		delete(s.byKey, key)
		return
	}
	s.byKey[key], f.callers = nil, nil
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(f.ctx)
	if !fs.n.spawn(func(life context.Context) {
		stop := context.AfterFunc(life, f.cancel)
		defer stop()
		f.result = f.run(ctx)
		f.cancel()
		if life.Err() != nil {
			f.result = result{err: ErrClosed}
		}
		close(f.done)
		fs.leave(shard, key, f.result)
	}) {
		f.cancel()
		f.result = result{err: ErrClosed}
		close(f.done)
		delete(s.byKey, key)
	}
}

// wanted reports whether somebody waits for f whose context goes on: those who
// leave together with the one before must not make a request of their own.
func (f *fetch) wanted() bool {
	return f.waiting > 0 && slices.ContainsFunc(f.callers, func(ctx context.Context) bool { return ctx.Err() == nil })
}

// share returns the result of run, or of another caller's, which begins after
// the request under way has ended. run ends when all its callers have left.
func (fs *fetches) share(ctx context.Context, shard int, key fetchKey, run func(ctx context.Context) result) result {
	s := fs.stripe(shard)
	s.mu.Lock()
	f, busy := s.byKey[key]
	if f == nil {
		f = &fetch{run: run, done: make(chan struct{}), ctx: context.WithoutCancel(ctx)}
		s.byKey[key] = f
	}
	f.waiting++
	f.callers = append(f.callers, ctx)
	if !busy { // the request under way has just ended
		fs.leaveLocked(s, shard, key)
	}
	s.mu.Unlock()

	select {
	case <-f.done:
		return f.result
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiting--; f.waiting == 0 && f.cancel != nil {
		f.cancel()
	}
	return result{err: ctx.Err()}
}
