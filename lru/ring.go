package lru

// ring is a queue of records in blocks. Records are appended at the head and leave at the tail; none straddles two
// blocks. Positions count units, grow for ever and never name two records: a block's place in the table is its number
// modulo the table's length.
type ring struct {
	blocks     [][]byte // those that are closed end with their last record
	head, tail uint64
	count      int // blocks held
}

// fits says whether n units can be appended without another block.
func (r *ring) fits(sh *shape, n uint64) bool {
	off := r.head & sh.blockMask
	return off != 0 && off+n <= sh.blockMask+1
}

// open closes the block at the head and begins the given one.
func (r *ring) open(sh *shape, block []byte) {
	if off := r.head & sh.blockMask; off != 0 {
		b := r.block(sh, r.head)
		*b = (*b)[:off*unit]
		r.head += sh.blockMask + 1 - off
	}
	if r.count == 0 {
		r.tail = r.head
	}
	first, next := r.tail>>sh.blockShift, r.head>>sh.blockShift
	if held := int(next - first); held == len(r.blocks) {
		blocks := make([][]byte, max(2*held, minBlocks))
		for i := first; i < next; i++ {
			blocks[i&uint64(len(blocks)-1)] = r.blocks[i&uint64(held-1)]
		}
		r.blocks = blocks
	}
	r.blocks[next&uint64(len(r.blocks)-1)] = block
	r.count++
}

// push makes room for a record of n units, which fits, and returns it and its position.
func (r *ring) push(sh *shape, n uint64) (record, uint64) {
	pos := r.head
	r.head += n
	return r.at(sh, pos), pos
}

// at returns the record at a position, of which the low 31 bits suffice.
func (r *ring) at(sh *shape, pos uint64) record {
	return record((*r.block(sh, pos))[(pos&sh.blockMask)*unit:])
}

// block returns the place of the block that a position is in.
func (r *ring) block(sh *shape, pos uint64) *[]byte {
	return &r.blocks[pos>>sh.blockShift&uint64(len(r.blocks)-1)]
}

// last says whether a record that ends where pos is was the last of its closed block, whose number is given.
func (r *ring) last(sh *shape, number, pos uint64) bool {
	b := r.blocks[number&uint64(len(r.blocks)-1)]
	return pos-number<<sh.blockShift == uint64(len(b)/unit)
}

// pop drops n units at the tail. It returns the block that this leaves empty, if any.
func (r *ring) pop(sh *shape, n uint64) []byte {
	number := r.tail >> sh.blockShift
	r.tail += n
	switch {
	case r.tail == r.head:
		r.head = (number + 1) << sh.blockShift
	case !r.last(sh, number, r.tail):
		return nil
	}
	r.tail = (number + 1) << sh.blockShift
	b := &r.blocks[number&uint64(len(r.blocks)-1)]
	block := (*b)[:cap(*b)]
	*b = nil
	r.count--
	return block
}

// next returns the position of the record after the one at pos.
func (r *ring) next(sh *shape, pos uint64) uint64 {
	number := pos >> sh.blockShift
	pos += r.at(sh, pos).units()
	if r.last(sh, number, pos) {
		return (number + 1) << sh.blockShift
	}
	return pos
}

// empty says whether the ring holds no record, live or dead; it then holds no block.
func (r *ring) empty() bool { return r.count == 0 }

// full returns the whole position of which low is the low 31 bits. The record is in the ring.
func (r *ring) full(low uint32) uint64 {
	return r.tail + uint64((low-uint32(r.tail))&posMask)
}

// before returns the whole position of a chain link found at pos, and whether it still is in the ring.
func (r *ring) before(pos uint64, link uint32) (uint64, bool) {
	if link == noLink {
		return 0, false
	}
	p := pos - uint64((uint32(pos)-link)&posMask)
	return p, p >= r.tail && p < pos
}

const (
	minBlocks = 4 // places in a block table
	posMask   = 1<<31 - 1
	mainBit   = 1 << 31 // of a ref: the record is in the main ring
)
