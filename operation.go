package peercache

import (
	"context"
	"fmt"
	"slices"
	"sync"
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
	done    chan struct{} // closed when the outcome is known
	version Version       // constant after done, like err
	err     error
}

func newOperations(now func() time.Duration) *operations {
	return &operations{now: now, byID: make(map[uint64]*operation)}
}

// begin reports whether an operation is new here. The caller then ends it.
func (o *operations) begin(id uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.byID[id] != nil {
		return false
	}
	o.addLocked(id, &operation{began: o.now(), done: make(chan struct{})})
	return true
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

// end notes the outcome of a write that begin reported as new.
func (o *operations) end(w *write) {
	o.mu.Lock()
	op := o.byID[w.op]
	o.mu.Unlock()
	if op == nil {
		return
	}
	op.version, op.err = w.version, w.err
	close(op.done)
	if w.err == errLate || w.err == errElsewhere {
		o.forget(w.op)
	}
}

// forget makes an operation new here.
func (o *operations) forget(id uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if i := slices.Index(o.queue, id); i >= 0 {
		o.queue = slices.Delete(o.queue, i, i+1)
		delete(o.byID, id)
	}
}

// applied notes that a write came from its stamper, and reports whether it is
// new here.
func (o *operations) applied(id uint64, v Version) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	op := o.byID[id]
	switch {
	case op == nil:
		op = &operation{began: o.now(), copied: true, done: make(chan struct{}), version: v}
		close(op.done)
		o.addLocked(id, op)
		return true
	case op.copied && op.version.Compare(v) < 0: // its stamper moved past something
		restamped := *op
		restamped.version = v
		o.byID[id] = &restamped
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
	select {
	case <-op.done:
		w.version, w.err = op.version, op.err
		return op.copied
	case <-ctx.Done():
		w.err = ctx.Err()
		return false
	}
}
