package peercache

import (
	"math"
	"sync/atomic"
)

// admits tells whether a value that its reader found in this node's own store
// is worth a put: there is room to spare, or the key is one that comes often.
// What is near has to be decoded and copied once more and pushes something
// else out, and a miss of it costs little as long as the store has it. reads
// counts such readers: one in nearSample of them has a vote, which finds the
// same keys at a fraction of the cost.
func (n *near[V]) admits(hash uint64, size int, reads int64) bool {
	limit := n.max.Load()
	if cost := n.entryCost + int64(size); cost > limit/nearMaxShare {
		return false
	} else if n.bytes.Load()+cost < limit-limit/nearMaxShare {
		return true
	}
	// Spread, lest keys that come in turn meet the same count each time.
	if mixHash(uint64(reads)) > math.MaxUint64/nearSample {
		return false
	}
	v := n.votes.Load()
	if v == nil {
		v = newNearVotes(limit)
		if !n.votes.CompareAndSwap(nil, v) {
			return false
		}
	}
	return v.wins(mixHash(hash))
}

// nearVotes tells keys that come often from those that do not. Keys share
// slots; in each slot one key holds the vote, which all others vote down
// (Boyer and Moore 1991, Misra and Gries 1982). So a key wins only when it
// comes several times while the others of its slot come less often.
type nearVotes struct {
	slots []atomic.Uint32 // key's tag, then its votes; a power of two of them
}

const (
	nearVoteBytes = 512 // of the maximum, for each slot
	nearVoteBits  = 4
	nearVotesWin  = 3
	nearSample    = 4
)

func newNearVotes(maxBytes int64) *nearVotes {
	n := 64
	for int64(n)*nearVoteBytes < maxBytes && n < 1<<26 {
		n *= 2
	}
	return &nearVotes{make([]atomic.Uint32, n)}
}

// wins counts a vote and tells whether it was the last that the key needed.
// Votes that are lost to others at the same time do no harm.
func (v *nearVotes) wins(mixed uint64) bool {
	slot := &v.slots[mixed>>20&uint64(len(v.slots)-1)]
	tag := uint32(mixed>>40)<<nearVoteBits | 1<<nearVoteBits
	switch s := slot.Load(); {
	case s>>nearVoteBits != tag>>nearVoteBits:
		if s&(1<<nearVoteBits-1) > 1 {
			slot.Store(s - 1)
		} else {
			slot.Store(tag | 1)
		}
	case s&(1<<nearVoteBits-1)+1 == nearVotesWin:
		slot.Store(0)
		return true
	default:
		slot.Store(s + 1)
	}
	return false
}

// ghosts are the keys that were evicted lately, in a Bloom filter of two-bit
// cells that forgets: a key sets its cells to two, and they are halved each
// time that two thirds as many keys as the stripe has entries were added.
type ghosts struct {
	words []uint64 // one for each bucket of the table
	adds  int      // since the last halving
}

const ghostCells = 4 // of a key

// add remembers a key. A filter that does not fit the table is begun anew.
func (g *ghosts) add(mixed uint64, buckets, entries int) {
	if len(g.words) != buckets {
		*g = ghosts{words: make([]uint64, buckets)}
	}
	if g.adds++; g.adds > max(entries*2/3, 1) {
		g.adds = 0
		for i, w := range g.words {
			g.words[i] = w >> 1 & 0x5555555555555555
		}
	}
	for i := range uint64(ghostCells) {
		word, shift := g.cell(mixed, i)
		*word = *word&^(3<<shift) | 2<<shift
	}
}

// has tells whether a key was probably added lately.
func (g *ghosts) has(mixed uint64) bool {
	if len(g.words) == 0 {
		return false
	}
	for i := range uint64(ghostCells) {
		if word, shift := g.cell(mixed, i); *word>>shift&3 == 0 {
			return false
		}
	}
	return true
}

func (g *ghosts) cell(mixed, i uint64) (word *uint64, shift uint64) {
	c := mixed>>12 + i*(mixed>>29|1)
	return &g.words[c/32%uint64(len(g.words))], 2 * (c % 32)
}
