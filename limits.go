package peercache

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	limitEvery = 30 * time.Second  // how often a member is told the limits again
	limitRetry = time.Second       // how soon one is that was not reached
	limitTime  = 2 * time.Second   // of one request
	limitStale = 100 * time.Second // after that a limit that is not told again counts no more, unless none else is told
	limitAsked = 16                // members that are told at the same time
)

// limits are the bounds of caches ([Options].MaxBytes). A node that called New
// goes by its own options. It tells all others, which hold parts of the cache
// as well: one that did not call New goes by the greatest bound that it is told.
type limits struct {
	n    *Node
	wake chan struct{} // holds a token when mine has changed

	mu   sync.Mutex                         // the lru.Store's lock of limits is taken after it
	mine map[string]int64                   // guarded by mu; of caches of this process
	told map[uint32]map[uint64]foreignLimit // guarded by mu; by space and incarnation
}

// A foreignLimit is what another member said.
type foreignLimit struct {
	bytes int64
	at    time.Duration
}

func newLimits(n *Node) *limits {
	return &limits{
		n: n, wake: make(chan struct{}, 1),
		mine: make(map[string]int64), told: make(map[uint32]map[uint64]foreignLimit),
	}
}

// own sets the bound of a cache of this process. 0: it has none.
func (l *limits) own(sp *space, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n.store.lru.SetSpaceLimit(sp.id, bytes)
	delete(l.told, sp.id)
	if bytes == 0 {
		return
	}
	l.mine[sp.name] = bytes
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take notes the bound that a member told of a cache.
func (l *limits) take(from uint64, sp *space, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sp.face.Load() != nil {
		return // New came first, or waits for the lock and has the last word
	}
	now := l.n.clock.Elapsed()
	told := l.told[sp.id]
	if told == nil {
		told = make(map[uint64]foreignLimit)
		l.told[sp.id] = told
	}
	told[from] = foreignLimit{bytes, now}
	greatest := int64(0)
	for member, t := range told {
		if now-t.at > limitStale {
			delete(told, member)
			continue
		}
		greatest = max(greatest, t.bytes)
	}
	if l.n.store.lru.SpaceStats(sp.id).MaxBytes != greatest {
		l.n.store.lru.SetSpaceLimit(sp.id, greatest)
	}
}

// list returns the request that tells the bounds of this process. Nil: it has
// none.
func (l *limits) list() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mine) == 0 {
		return nil
	}
	b := wire.AppendUvarint(nil, uint64(len(l.mine)))
	for name, bytes := range l.mine {
		b = wire.AppendString(b, name)
		b = wire.AppendUvarint(b, uint64(bytes))
	}
	return b
}

// serveLimits takes the bounds of a peer's caches.
func (n *Node) serveLimits(from mux.Identity, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	names := make([]string, r.Count(maxSpaces, 2))
	bytes := make([]int64, len(names))
	for i := range names {
		names[i] = r.String(maxCacheName)
		if bytes[i] = int64(r.Uvarint()); bytes[i] <= 0 || names[i] == "" {
			r.Fail("bound of a cache")
		}
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	for i, name := range names {
		if sp, err := n.store.space(name); err == nil {
			n.limits.take(from.Incarnation, sp, bytes[i])
		}
	}
	return mux.Reply{}
}

// run tells the others until ctx ends.
func (l *limits) run(ctx context.Context) {
	told := make(map[uint64]time.Duration) // when each member was told
	for ctx.Err() == nil {
		changed := l.n.viewSignal.next()
		body := l.list()
		if body == nil {
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		pause := limitEvery
		if !l.tell(ctx, body, told) {
			pause = limitRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-l.wake:
			clear(told)
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// tell tells those whose turn it is, and reports whether all were reached.
func (l *limits) tell(ctx context.Context, body []byte, told map[uint64]time.Duration) bool {
	others := l.n.peers.members()
	for member := range told {
		if !contains(others, member) {
			delete(told, member)
		}
	}
	now := l.n.clock.Elapsed()
	due := slices.DeleteFunc(others, func(m Member) bool {
		at, known := told[m.Incarnation]
		return known && now-at < limitEvery
	})
	var mu sync.Mutex
	var wait sync.WaitGroup
	all := true
	turns := make(chan struct{}, limitAsked)
	for _, m := range due {
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			ctx, cancel := context.WithTimeout(ctx, limitTime)
			defer cancel()
			_, err := l.n.peers.call(ctx, m, mux.Request{Op: opLimits, Body: body}, nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				all = false
				return
			}
			told[m.Incarnation] = now // also who does not know the operation
		})
	}
	wait.Wait()
	return all
}
