package lru

import (
	"math"
	"math/bits"
	"time"
)

const (
	// DefaultMaxBytes is the bound of a Store whose Options name none.
	DefaultMaxBytes = 64 << 20
	// MinMaxBytes is the least bound of a Store; a smaller one is raised to it.
	MinMaxBytes = 8 << 10
	// MaxKeyBytes is the greatest length of a key.
	MaxKeyBytes = 64 << 10
	// MaxShards is the greatest number of shards.
	MaxShards = 1 << 16
	// MaxSegments is the greatest number of segments.
	MaxSegments = 1 << 10
)

// Options configure a Store. The zero value works.
type Options struct {
	// MaxBytes bounds the memory of the Store: records, index, ghosts and all else that grows with use. 0 means
	// DefaultMaxBytes, less than MinMaxBytes means MinMaxBytes. Memory is taken as entries come, not at once. The
	// fixed size of the Store itself (under 1 KiB for each segment, and a bit for each of its shards) comes on top.
	MaxBytes int64

	// Shards is the number of shards that keys may name, 1 to MaxShards. 0 means 1.
	Shards int

	// Segments is the number of independently locked parts, rounded up to a power of two and at most MaxSegments. 0
	// means a number that suits MaxBytes: one for each MiB up to 64, more from 2 GiB on. It is fixed for the life of the Store.
	Segments int

	// Now is the clock that expiry is measured on: the time since some fixed moment, never negative (a negative
	// time counts as 0). It is called often, from any goroutine and with a lock held; it must not call the Store. A
	// clock that steps back lets entries live longer by that step, nothing worse. nil means the time since New.
	Now func() time.Duration

	// OnEvict is called for each entry that the Store drops on its own: to make room, or because it expired. It is not
	// called for entries that are overwritten, deleted, or removed with their shard. It runs with the segment's lock
	// held, before anybody can see that the entry is gone; it must be quick and must not call the Store. The entry's
	// key and value are valid during the call only.
	OnEvict func(e Entry, why Reason)
}

// Reason says why an entry left the Store on its own.
type Reason uint8

const (
	// Evicted entries made room for others.
	Evicted Reason = iota
	// Expired entries had outlived their Expires when their turn came.
	Expired
)

// String returns the reason's name.
func (r Reason) String() string {
	if r == Expired {
		return "expired"
	}
	return "evicted"
}

// geometry is what follows from the options and never changes.
type geometry struct {
	shards   int
	segments int
	segShift uint // a mixed hash shifted right by it gives the segment
}

func newGeometry(o Options) geometry {
	var g geometry
	g.shards = min(max(o.Shards, 1), MaxShards)
	n := int64(o.Segments)
	if n <= 0 {
		n = max(min(o.MaxBytes>>20, 64), o.MaxBytes>>25, 1)
		n = 1 << (bits.Len64(uint64(n)) - 1)
	}
	g.segments = 1 << bits.Len64(uint64(min(n, MaxSegments)-1))
	g.segShift = 64 - uint(bits.Len(uint(g.segments-1)))
	return g
}

// bound turns a wanted MaxBytes into a legal one for this geometry.
func (g *geometry) bound(n int64) int64 {
	if n <= 0 {
		n = DefaultMaxBytes
	}
	return min(max(n, MinMaxBytes), int64(g.segments)*maxSegmentBytes)
}

// shape is how a segment lays out its memory. It follows from the bound and changes when that does so by much.
type shape struct {
	headMask   uint32 // chain heads - 1
	blockShift uint   // log2 of units in a block
	blockMask  uint64 // units in a block - 1
	blockBytes int
	blockCost  int64 // bytes charged for a block: itself and its place in the table
	inlineMax  int   // greatest record kept in a block, in bytes
	poolMax    int   // free blocks kept by the Store for reuse
}

func newShape(g *geometry, maxBytes int64) *shape {
	var sh shape
	share := maxBytes / int64(g.segments)
	// Half empty blocks weigh against what each block costs beyond its records; and there are not to be too many.
	block := int64(math.Sqrt(40 * float64(share)))
	block = min(max(block, share/256, minBlockBytes), maxBlockBytes)
	block = min(int64(1)<<(bits.Len64(uint64(block+block/3))-1), maxBlockBytes)
	sh.blockBytes = int(block)
	sh.blockShift = uint(bits.Len(uint(sh.blockBytes/unit)) - 1)
	sh.blockMask = 1<<sh.blockShift - 1
	sh.blockCost = block + blockOverhead
	sh.inlineMax = sh.blockBytes / 8
	if sh.blockBytes <= 4<<10 {
		sh.inlineMax = sh.blockBytes / 2
	}
	if maxBytes >= 1<<20 {
		sh.poolMax = max(g.segments/16, 1)
	}

	// Chain heads may take 1/64 of the segment; shards share chains beyond that.
	heads := 1
	for heads < g.shards && int64(heads)*2*8*64 <= share {
		heads *= 2
	}
	sh.headMask = uint32(heads - 1)
	return &sh
}

// headBytes is what the chain heads of a segment take.
func (sh *shape) headBytes() int64 { return 2 * heapBytes(4*int(sh.headMask+1)) }

// reserve is the room that evictions in all segments at once may need before they free any, and the free blocks.
func (sh *shape) reserve(segments int) int64 {
	return int64(segments+sh.poolMax) * sh.blockCost
}

const (
	unit            = 4   // records are placed at multiples of it
	minBlockBytes   = 512 // of a block of records
	maxBlockBytes   = 256 << 10
	blockOverhead   = 48      // of the block table, which may be half empty
	maxSegmentBytes = 6 << 30 // positions have 31 bits, in units of 4 bytes
	maxDuration     = time.Duration(math.MaxInt64)
)
