package peercache

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	operationTime = 30 * time.Second // longer than any attempt of an operation can take
	maxOperations = 1 << 17
)

// operations remembers the writes that this node stamped or got from their
// stamper, by the id that all attempts of one write share. An attempt whose
// reply was lost is answered with what became of the first, and not applied
// again.
type operations struct {
	now func() time.Duration

	mu    sync.Mutex
	byID  map[uint64]*operation // guarded by mu
	queue []begun               // guarded by mu; the oldest first
}

// A begun names an operation and says when it began here.
type begun struct {
	id uint64
	at time.Duration
}

type operation struct {
	began   time.Duration
	copied  bool          // it came from its stamper
	copy    Version       // guarded by operations.mu; of what came from another stamper while it was stamped here
	waiting atomic.Int64  // attempts that wait for the outcome of the first
	done    chan struct{} // guarded by operations.mu until it is closed: when the outcome is known; nil if nobody waits for it
	ended   bool          // guarded by operations.mu: the outcome is known
	version Version       // constant when ended, like err
	err     error
}

func newOperations(now func() time.Duration) *operations {
	return &operations{now: now, byID: make(map[uint64]*operation)}
}

// begin returns an operation that is new here, which the caller then ends, or
// nil.
func (o *operations) begin(id uint64) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID[id] != nil {
		return nil
	}
	op := &operation{began: o.now()}
	o.addLocked(id, op)
	return op
}

// knows reports whether an operation has begun here.
func (o *operations) knows(id uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byID[id] != nil
}

// addLocked remembers an operation and forgets those that are too old or too
// many.
func (o *operations) addLocked(id uint64, op *operation) {
	o.byID[id] = op
	o.queue = append(o.queue, begun{id, op.began})
	for len(o.queue) > maxOperations || op.began-o.queue[0].at > operationTime {
		oldest := o.queue[0]
		o.queue = o.queue[1:]
		if old := o.byID[oldest.id]; old != nil && !old.ended && len(o.queue) < maxOperations {
			o.queue = append(o.queue, begun{oldest.id, op.began}) // it is large, or waits for a silent owner
			continue
		}
		delete(o.byID, oldest.id)
	}
}

// end notes the outcome of a write that begin returned. One that was not stamped
// here is forgotten: another attempt may be.
func (o *operations) end(op *operation, w *write) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op.version, op.err, op.ended = w.version, w.err, true
	if op.done != nil {
		close(op.done)
	}
	if w.err != errLate && w.err != errElsewhere && w.err != errEarly {
		return
	}
	if o.byID[w.op] != op {
		return
	}
	if !op.copy.IsZero() {
		o.byID[w.op] = copyOf(op.began, op.copy)
		return
	}
	for i := len(o.queue) - 1; i >= 0; i-- { // it is one of the last
		if o.queue[i].id == w.op {
			o.queue = slices.Delete(o.queue, i, i+1)
			delete(o.byID, w.op)
			return
		}
	}
}

// copyOf is an operation that came from its stamper.
func copyOf(began time.Duration, v Version) *operation {
	return &operation{began: began, copied: true, ended: true, version: v}
}

// applied notes that a write came from its stamper, and reports whether it is
// new here.
func (o *operations) applied(id uint64, v Version) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := o.byID[id]
	switch {
	case op == nil:
		o.addLocked(id, copyOf(o.now(), v))
		return true
	case op.copied && op.version.Compare(v) < 0: // its stamper moved past something
		o.byID[id] = copyOf(op.began, v)
		return true
	case !op.copied && op.copy.Compare(v) < 0: // this node may not stamp it after all
		op.copy = v
		return true
	default:
		return false
	}
}

// waitFor counts one who waits for the outcome of an operation, and returns
// what is closed when it is known; nil: it is.
func (o *operations) waitFor(id uint64) (*operation, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := o.byID[id]
	if op == nil {
		return nil, nil
	}
	op.waiting.Add(1)
	if op.ended {
		return op, nil
	}
	if op.done == nil {
		op.done = make(chan struct{})
	}
	return op, op.done
}

// await sets the outcome of a write whose first attempt is known here. copied
// says that this node has it from a stamper who may have told nobody else.
func (o *operations) await(ctx context.Context, w *write) (copied bool) {
	op, done := o.waitFor(w.op)
	if op == nil {
		w.err = fmt.Errorf("%w: the outcome of the write is forgotten", ErrUnavailable)
		return false
	}
	defer op.waiting.Add(-1)
	if done != nil {
		select {
		case <-done:
		case <-ctx.Done():
			w.err = ctx.Err()
			return false
		}
	}
	w.version, w.err = op.version, op.err
	return op.copied
}
