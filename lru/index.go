package lru

// index finds records by tag: a table with linear probing whose slots hold the tag
// in the upper and the ref of the record in the lower half. A slot's home follows from its tag alone, so that growing and
// deleting touch no record. Empty slots are 0, for which reason tags are not.
type index struct {
	slots []uint64
	n     int
}

const (
	minSlots  = 32
	slotBytes = 8
)

func (x *index) home(tag uint32) int {
	return int(uint64(tag) * uint64(len(x.slots)) >> 32)
}

// full says whether the next add needs a larger table.
func (x *index) full() bool { return x.n >= len(x.slots)-len(x.slots)/5 }

// grown is the length of the next larger table. Lengths go 2, 3, 4, 6, 8, 12 ... times minSlots/2, which the allocator
// serves without waste.
func (x *index) grown() int {
	n := len(x.slots)
	switch {
	case n == 0:
		return minSlots
	case n&(n-1) == 0:
		return n + n/2
	default:
		return n / 3 * 4
	}
}

// resize moves the index to a table of the given length, which suffices.
func (x *index) resize(length int) {
	old := x.slots
	x.slots = make([]uint64, length)
	x.n = 0
	for _, s := range old {
		if s != 0 {
			x.add(uint32(s>>32), uint32(s))
		}
	}
}

func (x *index) add(tag, ref uint32) {
	i := x.home(tag)
	for x.slots[i] != 0 {
		if i++; i == len(x.slots) {
			i = 0
		}
	}
	x.slots[i] = uint64(tag)<<32 | uint64(ref)
	x.n++
}

// find returns the slot that holds exactly tag and ref, or -1.
func (x *index) find(tag, ref uint32) int {
	if len(x.slots) == 0 {
		return -1
	}
	want := uint64(tag)<<32 | uint64(ref)
	for i := x.home(tag); ; {
		switch x.slots[i] {
		case want:
			return i
		case 0:
			return -1
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
}

// count returns how many slots have a tag.
func (x *index) count(tag uint32) (n int) {
	if len(x.slots) == 0 {
		return 0
	}
	for i := x.home(tag); x.slots[i] != 0; {
		if uint32(x.slots[i]>>32) == tag {
			n++
		}
		if i++; i == len(x.slots) {
			i = 0
		}
	}
	return n
}

// set gives slot i another ref.
func (x *index) set(i int, ref uint32) {
	x.slots[i] = x.slots[i]&^(1<<32-1) | uint64(ref)
}

// remove empties slot i and closes the gap (Knuth, The Art of Computer Programming, volume 3, algorithm 6.4R).
func (x *index) remove(i int) {
	n := len(x.slots)
	for j := i; ; {
		if j++; j == n {
			j = 0
		}
		s := x.slots[j]
		if s == 0 {
			break
		}
		h := x.home(uint32(s >> 32))
		// The slot at j may fill the gap at i unless its home lies cyclically in (i, j].
		if i <= j && (h <= i || h > j) || i > j && h <= i && h > j {
			x.slots[i] = s
			i = j
		}
	}
	x.slots[i] = 0
	x.n--
}
