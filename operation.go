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
	queue []uint64              // guarded by mu; the oldest first
}

type operation struct {
	began   time.Duration
	copied  bool          // it came from its stamper
	copy    Version       // guarded by operations.mu; of what came from another stamper while it was stamped here
	waiting atomic.Int64  // attempts that wait for the outcome of the first
	done    chan struct{} // closed when the outcome is known
	version Version       // constant after done, like err
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
	op := &operation{began: o.now(), done: make(chan struct{})}
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
	o.queue = append(o.queue, id)
	for len(o.queue) > maxOperations || op.began-o.byID[o.queue[0]].began > operationTime {
		delete(o.byID, o.queue[0])
		o.queue = o.queue[1:]
	}
}

// end notes the outcome of a write that begin returned. One that was not stamped
// here is forgotten: another attempt may be.
func (o *operations) end(op *operation, w *write) {
	op.version, op.err = w.version, w.err
	close(op.done)
	if w.err != errLate && w.err != errElsewhere {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID[w.op] != op {
		return
	}
	if !op.copy.IsZero() {
		o.byID[w.op] = copyOf(op.began, op.copy)
		return
	}
	for i := len(o.queue) - 1; i >= 0; i-- { // it is one of the last
		if o.queue[i] == w.op {
			o.queue = slices.Delete(o.queue, i, i+1)
			delete(o.byID, w.op)
			return
		}
	}
}

// copyOf is an operation that came from its stamper.
func copyOf(began time.Duration, v Version) *operation {
	op := &operation{began: began, copied: true, done: make(chan struct{}), version: v}
	close(op.done)
	return op
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

// await sets the outcome of a write whose first attempt is known here. copied
// says that this node has it from a stamper who may have told nobody else.
func (o *operations) await(ctx context.Context, w *write) (copied bool) {
	o.mu.Lock()
	op := o.byID[w.op]
	o.mu.Unlock()
	if op == nil {
		w.err = fmt.Errorf("%w: the outcome of the write is forgotten", ErrUnavailable)
		return false
	}
	op.waiting.Add(1)
	defer op.waiting.Add(-1)
	select {
	case <-op.done:
		w.version, w.err = op.version, op.err
		return op.copied
	case <-ctx.Done():
		w.err = ctx.Err()
		return false
	}
}
