package peercache

import (
	"sync/atomic"
	"unsafe"
)

// counters count what happens to one cache on one node.
type counters struct {
	nearHits, ownHits stripedCounter
	gets              atomic.Int64 // beside those that hit near copies or count as ownHits

	hits, peerLoads, peerErrors, loads, coalesced, loadErrors, serverRequests, sets, deletes atomic.Int64
}

// A stripedCounter is cheap to add to from many goroutines at once: it is
// spread over cache lines, of which each goroutine keeps to one for long.
type stripedCounter struct {
	cells [1 << cellBits]struct {
		atomic.Int64
		_ [56]byte
	}
}

const cellBits = 5

// inc adds one and returns the sum of what was added where it was.
func (c *stripedCounter) inc() int64 {
	// Where the stack is tells goroutines apart: stacks have 2 KiB at least, on
	// multiples of that. The address is a number here: nothing is reached
	// through it, and it does not matter that a stack may move.
	var here byte
	at := uint64(uintptr(unsafe.Pointer(&here))) >> 11
	return c.cells[at*0x9e3779b97f4a7c15>>(64-cellBits)].Add(1)
}

func (c *stripedCounter) sum() (n int64) {
	for i := range c.cells {
		n += c.cells[i].Load()
	}
	return n
}

// CacheStats count what happened to a cache on one node since it was made.
type CacheStats struct {
	Gets           int64 // keys asked for by this process
	Hits           int64 // of those, answered from this node's own store
	NearHits       int64 // of those, answered from decoded copies in this process
	PeerLoads      int64 // requests for keys to other members
	PeerErrors     int64 // of those, failed
	Loads          int64 // calls of the loader in this process
	Coalesced      int64 // callers that shared a load which another one had begun
	LoadErrors     int64 // loads that failed
	ServerRequests int64 // requests of other members
	Sets           int64 // keys written by this process
	Deletes        int64 // keys deleted by this process
	Evictions      int64 // entries that had to make room on this node
	Expirations    int64 // entries that expired on this node and whose room was used again

	Entries     int64 // held by this node, what stands for deleted keys included
	Bytes       int64
	NearEntries int64 // decoded copies
	NearBytes   int64
}

func (c *counters) stats() CacheStats {
	near, own := c.nearHits.sum(), c.ownHits.sum()
	return CacheStats{
		Gets:           near + own + c.gets.Load(),
		Hits:           own + c.hits.Load(),
		NearHits:       near,
		PeerLoads:      c.peerLoads.Load(),
		PeerErrors:     c.peerErrors.Load(),
		Loads:          c.loads.Load(),
		Coalesced:      c.coalesced.Load(),
		LoadErrors:     c.loadErrors.Load(),
		ServerRequests: c.serverRequests.Load(),
		Sets:           c.sets.Load(),
		Deletes:        c.deletes.Load(),
	}
}
