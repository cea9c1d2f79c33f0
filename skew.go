package peercache

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSkew    = 500 * time.Millisecond // further off the others' median, a member stays out of the tables
	backSkew   = 400 * time.Millisecond // this near, it is let in again
	maxSkewRTT = 250 * time.Millisecond // a slower answer tells too little of the other's clock: it may be off by half of that
)

// skew compares this node's wall clock with the others'. Versions are stamped
// with wall clocks, so a member whose clock is far off would win or lose
// against everybody: it says so itself, and stays out of the tables.
type skew struct {
	isOff atomic.Bool
	ahead atomic.Int64 // of the median, in nanoseconds
	told  atomic.Int64 // when clocks far apart were logged last, as Elapsed

	mu      sync.Mutex
	self    uint64                   // constant after init
	offsets map[uint64]time.Duration // guarded by mu; incarnation -> its clock minus ours
}

func (s *skew) init(self uint64) {
	s.self = self
	s.offsets = make(map[uint64]time.Duration)
}

// observe notes how far another member's clock is from this node's, and
// reports whether this node's being off changed with it.
func (s *skew) observe(incarnation uint64, offset, rtt time.Duration) (changed bool) {
	if rtt < 0 || rtt > maxSkewRTT {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offsets[incarnation] = offset
	return s.judgeLocked()
}

// follow forgets those who were in the view before and are no longer, and
// reports whether this node's being off changed with it: one that is left
// alone is right. The clock of a member that is joined now is known before the
// member is.
func (s *skew) follow(before, after *view) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for incarnation := range s.offsets {
		_, was := before.find(incarnation)
		_, is := after.find(incarnation)
		if was && !is {
			delete(s.offsets, incarnation)
		}
	}
	return s.judgeLocked()
}

// judgeLocked decides whether this node's clock is too far from the median.
// Of an even number the slower of the two in the middle counts, so that of
// two members whose clocks differ one is right and both agree which.
func (s *skew) judgeLocked() (changed bool) {
	all := make([]time.Duration, 0, len(s.offsets)+1)
	all = append(all, 0)
	for _, offset := range s.offsets {
		all = append(all, offset)
	}
	slices.Sort(all)
	median := all[(len(all)-1)/2]
	s.ahead.Store(int64(-median))
	distance := median.Abs()
	was := s.isOff.Load()
	is := distance > maxSkew || was && distance > backSkew
	s.isOff.Store(is)
	return is != was
}

func (s *skew) off() bool { return s.isOff.Load() }

// offset returns how far this node's clock is ahead of the median.
func (s *skew) offset() time.Duration { return time.Duration(s.ahead.Load()) }

// of returns how far a member's clock is ahead of this node's, when known.
func (s *skew) of(incarnation uint64) (time.Duration, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	offset, ok := s.offsets[incarnation]
	return offset, ok
}
