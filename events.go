package peercache

import (
	"context"
	"sync"
)

// Events are called by a node when something changed that it learned of. Any
// of them may be nil. They are called one after the other, in the order of
// what happened, by a goroutine that does nothing else: a slow one delays the
// next, and no request. When more than 1,024 wait, the oldest are dropped and
// counted in [Stats].EventsDropped. None of them may call Shutdown or Close of
// their node.
type Events struct {
	// MemberJoined is called when a member appeared in this node's view,
	// this node itself included.
	MemberJoined func(Member)
	// MemberChanged is called when a member announced something new, such
	// as another state.
	MemberChanged func(was, is Member)
	// MemberLeft is called when a member is gone: it left, died, or was
	// replaced by a later incarnation at its address.
	MemberLeft func(Member)
	// TableChanged is called when shards have other owners than before.
	TableChanged func(TableChange)
	// ShardsFilled is called when this node holds all that it should again,
	// after some shards had to be filled or mended.
	ShardsFilled func(ShardsFilled)
}

// A ShardsFilled says what it took until nothing was missing any more.
type ShardsFilled struct {
	Shards int   // that were filled or mended since nothing was missing last
	Bytes  int64 // that were received for it
}

// A TableChange says what a new table changed for the node that tells of it.
type TableChange struct {
	Digest   uint64 // of the new table; equal on all members that see the same cluster
	Gained   int    // shards that this node owns now and did not before
	Lost     int    // shards that it no longer owns
	Promoted int    // shards whose primary it has become
}

const maxEventsQueued = 1024

// eventQueue holds the calls that wait for the events' goroutine.
type eventQueue struct {
	wake chan struct{} // holds one token when calls is not empty

	mu      sync.Mutex
	calls   []func() // guarded by mu
	dropped uint64   // guarded by mu
}

func newEventQueue() *eventQueue { return &eventQueue{wake: make(chan struct{}, 1)} }

func (q *eventQueue) push(call func()) {
	q.mu.Lock()
	if len(q.calls) == maxEventsQueued {
		q.calls = append(q.calls[:0], q.calls[1:]...)
		q.dropped++
	}
	q.calls = append(q.calls, call)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) take() []func() {
	q.mu.Lock()
	defer q.mu.Unlock()
	calls := q.calls
	q.calls = nil
	return calls
}

func (q *eventQueue) droppedCount() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// run makes the queued calls until ctx ends. A panic in a callback is the
// callback's: it is reported through report and the next call is made.
func (q *eventQueue) run(ctx context.Context, report func(any)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		for _, call := range q.take() {
			if ctx.Err() != nil {
				return
			}
			func() {
				defer func() {
					if r := recover(); r != nil {
						report(r)
					}
				}()
				call()
			}()
		}
	}
}

// tellEvents queues the callbacks for what changed between two views.
func (n *Node) tellEvents(before, after *view) {
	e := n.cfg.Events
	if e == nil {
		return
	}
	was := make(map[uint64]Member)
	if before != nil {
		for _, m := range before.members {
			was[m.Incarnation] = m.Member
		}
	}
	for _, m := range after.members {
		is := m.Member
		old, known := was[is.Incarnation]
		delete(was, is.Incarnation)
		switch {
		case !known && e.MemberJoined != nil:
			n.events.push(func() { e.MemberJoined(is) })
		case known && old != is && e.MemberChanged != nil:
			n.events.push(func() { e.MemberChanged(old, is) })
		}
	}
	if e.MemberLeft != nil && before != nil {
		for _, m := range before.members {
			if gone, ok := was[m.Incarnation]; ok {
				n.events.push(func() { e.MemberLeft(gone) })
			}
		}
	}
	if e.TableChanged != nil && (before == nil || before.current != after.current) {
		change := n.tableChange(before, after)
		n.events.push(func() { e.TableChanged(change) })
	}
}
