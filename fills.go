package peercache

import (
	"context"
	"sync"
	"time"
)

const (
	fillDelay       = 20 * time.Millisecond // loads are sent to the replicas together, after that
	maxFillsWaiting = 4096
)

// keepFill keeps what a flight loaded, unless a write came meanwhile. The
// entry's order is then what it is kept under.
func (n *Node) keepFill(sp *space, key string, e *entry, f *flight) bool {
	for f.mayKeep() {
		held, applied, err := n.store.apply(sp, key, *e, fromRequest)
		switch {
		case err != nil:
			return false
		case applied:
			n.fills.add(stamped{sp: sp, key: key, number: n.vectors.number(shardOf(sp.keyspace, key)), entry: *e})
			return true
		case !held.floor || e.order.v.Compare(held.order.w) <= 0:
			return false
		}
		// Some other key's write was forgotten while this load ran. One of this
		// key would have detached the flight.
		e.order.w = held.order.w
	}
	return false
}

// fills gathers what was loaded and sends it to the other owners a moment
// later, many entries together. Nobody waits for that, and nothing is sent
// twice: a copy that gets lost is found missing when the owners compare.
type fills struct {
	n *Node

	mu      sync.Mutex
	waiting []stamped // guarded by mu
	timer   bool      // guarded by mu: a flush is due
}

func (f *fills) add(it stamped) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) >= maxFillsWaiting {
		return
	}
	f.waiting = append(f.waiting, it)
	if !f.timer {
		f.timer = f.n.spawn(f.flush)
	}
}

func (f *fills) flush(ctx context.Context) {
	if MemberState(f.n.state.Load()) != MemberLeaving { // else others own it at once
		sleep(ctx, fillDelay)
	}
	for _, send := range f.take() {
		f.n.spawn(func(context.Context) { send(ctx) })
	}
}

// drain sends what is waiting, and returns when it has arrived or ctx ended.
func (f *fills) drain(ctx context.Context) error {
	var wait sync.WaitGroup
	for _, send := range f.take() {
		wait.Go(func() { send(ctx) })
	}
	wait.Wait()
	return ctx.Err()
}

// take returns what is waiting as functions that each bring some of it to an
// owner.
func (f *fills) take() (sends []func(ctx context.Context)) {
	f.mu.Lock()
	items := f.waiting
	f.waiting, f.timer = nil, false
	f.mu.Unlock()
	for len(items) > 0 {
		size, i := 0, 0
		for ; i < len(items) && (i == 0 || size < maxBatchBytes); i++ {
			size += len(items[i].key) + len(items[i].entry.value)
		}
		batch := items[:i]
		items = items[i:]
		for _, d := range f.n.deliveriesFor(batch, make(sentTo)) {
			sends = append(sends, func(ctx context.Context) { f.send(ctx, batch, d) })
		}
	}
	return sends
}

// send brings fills to one owner, those that it does not take at first once
// more.
func (f *fills) send(ctx context.Context, items []stamped, d *delivery) {
	again := f.restamp(items, d, f.deliver(ctx, d))
	if len(again) == 0 {
		return
	}
	second := &delivery{to: d.to, op: opApply, about: d.about, items: make([]int, len(again))}
	for i := range second.items {
		second.items[i] = i
	}
	second.body = f.n.encodeApply(again, second, f.n.view.Load().takes(d.to.Incarnation))
	f.deliver(ctx, second)
}

// deliver brings fills to one owner, and returns those that it did not take.
func (f *fills) deliver(ctx context.Context, d *delivery) []outranked {
	reply, err := f.n.bring(ctx, d)
	if err != nil || reply.Code != replyOK {
		return nil
	}
	refused, err := f.n.readApplied(ctx, reply.Body, d)
	if err != nil {
		return nil
	}
	return refused
}

// restamp lifts fills that an owner did not take above its floor, and returns
// them. The floor stands for writes to other keys that were forgotten there:
// what is still held here as it was loaded, nobody has written since.
func (f *fills) restamp(items []stamped, d *delivery, refused []outranked) (again []stamped) {
	for _, r := range refused {
		it := items[d.items[r.item]]
		before := it.entry.order
		if r.fault != nil || it.entry.order.v.Compare(r.by.w) <= 0 {
			continue
		}
		it.entry.order.w = r.by.w
		if _, applied, err := f.n.store.applyOn(it.sp, it.key, it.entry, fromRequest, &before); applied && err == nil {
			again = append(again, it)
		}
	}
	return again
}
