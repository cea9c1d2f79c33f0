package peercache

import (
	"context"
	"fmt"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// Members go by each other's clocks as long as those are near enough: what one
// believes all others believe, a moment later at most, whose clocks are right.
// Nothing is asked again at once because of a clock that is not believed.

// clockTime is by when what one member believes all others do.
const clockTime = 2 * maxSkew

// errClock says that two members' clocks are so far apart that one does not
// believe the other's. It is final for as long as they are.
var errClock = fmt.Errorf("%w: clocks are too far apart", ErrUnavailable)

// isClock reports whether a reading of another member's clock is one that this node
// goes by. What its own clock showed before it was set does not count any more
// when that is known to be wrong now.
func (n *Node) isClock(reading uint64) bool {
	if n.skew.off() {
		return n.hlc.ahead(reading) <= maxAhead
	}
	return n.hlc.believes(reading)
}

// clockFault is the error when a stamp of another member, or a reading of its
// clock, is too far ahead of this node's clock to be believed. It says which of the
// two clocks is wrong by the median of all, where that is known.
func (n *Node) clockFault(other Member, reading uint64) error {
	self, ahead := n.Self(), n.hlc.ahead(reading).Round(100*time.Millisecond)
	known, _ := n.view.Load().find(other.Incarnation)
	var err error
	switch {
	case n.skew.off():
		err = fmt.Errorf("%w: the clock of %s is wrong: it is %v behind that of %s", errClock, self, ahead, other)
	case known.outside:
		err = fmt.Errorf("%w: the clock of %s is wrong: it is %v ahead of that of %s", errClock, other, ahead, self)
	default:
		err = fmt.Errorf("%w: the clock of %s is %v ahead of that of %s", errClock, other, ahead, self)
	}
	n.tellClock(err)
	return err
}

// tellClock logs that clocks are too far apart, from time to time.
func (n *Node) tellClock(err error) {
	const every = 10 * time.Second
	now, told := max(n.clock.Elapsed(), 1), time.Duration(n.skew.told.Load())
	if (told == 0 || now-told > every) && n.skew.told.CompareAndSwap(int64(told), int64(now)) {
		n.log.Warn("clocks are too far apart", "err", err)
	}
}

// acceptSoon moves the clock past a stamp. One that is just too far ahead for this
// node's clock, and not for the clock of the member that has it, is accepted when a
// moment has gone by.
func (n *Node) acceptSoon(ctx context.Context, stamp uint64) bool {
	for began := n.clock.Elapsed(); ctx.Err() == nil; {
		if n.hlc.accept(stamp) {
			return true
		}
		if n.hlc.ahead(stamp) > maxAhead+clockTime || n.clock.Elapsed()-began > clockTime {
			return false
		}
		sleep(ctx, deliveryPause)
	}
	return false
}

// mayBelieve reports whether a member whose clock shows reading is worth to be
// asked again with a stamp that it has not believed, since began.
func (n *Node) mayBelieve(stamp, reading uint64, began time.Duration) bool {
	return stamp <= after(reading, maxAhead+clockTime) && n.clock.Elapsed()-began <= clockTime
}

// stamperOf returns the member that gave an entry its version, as far as this
// node knows it.
func (n *Node) stamperOf(o order) Member {
	if m, ok := n.view.Load().find(o.v.incarnation); ok {
		return m.Member
	}
	return Member{Name: "a former member", Addr: gossipName(o.v.incarnation), Incarnation: o.v.incarnation}
}

// memberOf is a peer as far as its handshake tells.
func memberOf(from mux.Identity) Member {
	return Member{Name: from.Name, Addr: from.Addr, Incarnation: from.Incarnation}
}

// untilAt returns what a member's clock shows when d have gone by. That clock
// counts for as long as it is one: between two whose difference is beyond belief
// there is no time in which a write may be applied.
func (n *Node) untilAt(m Member, d time.Duration) uint64 {
	if reading, known := n.peers.clockOf(m); known && n.isClock(reading) {
		return after(reading, d)
	}
	return after(n.hlc.read(), d)
}
