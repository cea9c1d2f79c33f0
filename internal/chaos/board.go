//go:build unix

package chaos

import (
	"fmt"
	"math/bits"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

const (
	maxPeers   = 8
	loadedKeys = 2000 // that the loader gives
	writeKeys  = 400  // that are written, each by one peer
	latencies  = 32   // latency n counts the reads of less than 2^n microseconds
)

// A board is what all processes count on. It lies in a file that each of them
// has mapped; all of it is atomic.
type board struct {
	peers [maxPeers]peerBoard
	loads [loadedKeys]atomic.Uint64 // how often the loader ran for a key
	tried [writeKeys]atomic.Uint64  // the last number that a key was written with
	acked [writeKeys]atomic.Uint64  // the last one that was acknowledged
	quiet atomic.Bool               // nobody reads or writes
}

// A peerBoard is one peer's part of it.
type peerBoard struct {
	// What the parent sets.
	stops     atomic.Uint64 // how often it was stopped or continued: odd while it is stopped
	continued atomic.Int64  // when that was last, Unix time in nanoseconds

	// What the peer sets.
	incarnation, digest, members, ready  atomic.Uint64
	gets, sets                           atomic.Uint64
	failedGets, failedSets               atomic.Uint64
	stale, lost, wrong                   atomic.Uint64
	slowestGet, slowestSet, returnFailed atomic.Uint64 // microseconds; the last: failures just after it was stopped
	latency                              [latencies]atomic.Uint64
}

// openBoard maps the board in a file, which it makes as long as need be.
func openBoard(path string) (*board, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(board{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	return (*board)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// got counts a read.
func (p *peerBoard) got(took time.Duration) {
	p.gets.Add(1)
	micros := uint64(took.Microseconds())
	raise(&p.slowestGet, micros)
	p.latency[min(bits.Len64(micros), latencies-1)].Add(1)
}

// returned reports whether the peer was stopped a short while ago.
func (p *peerBoard) returned() bool {
	return time.Since(time.Unix(0, p.continued.Load())) < returnGrace
}

// raise sets a to v if that is more.
func raise(a *atomic.Uint64, v uint64) {
	for {
		old := a.Load()
		if v <= old || a.CompareAndSwap(old, v) {
			return
		}
	}
}

// reloads is how often a key was loaded that had been loaded before.
func (b *board) reloads() (count uint64) {
	for i := range b.loads {
		if n := b.loads[i].Load(); n > 1 {
			count += n - 1
		}
	}
	return count
}

// deletes reports whether the write of a number is a Delete.
func deletes(number uint64) bool { return number%5 == 0 }

// mayBeAbsent reports whether a key may have no value when it was acknowledged
// up to one number and tried up to another.
func mayBeAbsent(acked, tried uint64) bool {
	if acked == 0 {
		return true
	}
	for n := acked; n <= tried; n++ {
		if deletes(n) {
			return true
		}
	}
	return false
}
