package memnet

// keepBuffer is the largest storage an empty buffer holds on to.
const keepBuffer = 32 << 10

// buffer is a queue of bytes in a ring that grows as needed; its user bounds it.
type buffer struct {
	ring []byte
	head int // index of the first byte
	n    int // bytes held
}

func (b *buffer) write(p []byte) {
	if need := b.n + len(p); need > len(b.ring) {
		b.grow(need)
	}
	tail := b.head + b.n
	if tail >= len(b.ring) {
		tail -= len(b.ring)
	}
	copied := copy(b.ring[tail:], p)
	copy(b.ring, p[copied:])
	b.n += len(p)
}

func (b *buffer) grow(need int) {
	size := max(512, 2*len(b.ring))
	for size < need {
		size *= 2
	}
	ring := make([]byte, size)
	held := copy(ring, b.ring[b.head:min(b.head+b.n, len(b.ring))])
	copy(ring[held:], b.ring[:b.n-held])
	b.ring, b.head = ring, 0
}

// read moves at most limit bytes, which must be held, to p.
func (b *buffer) read(p []byte, limit int) int {
	p = p[:min(len(p), limit)]
	copied := copy(p, b.ring[b.head:])
	copy(p[copied:], b.ring)
	b.drop(len(p))
	return len(p)
}

func (b *buffer) drop(n int) {
	b.n -= n
	b.head += n
	if b.head >= len(b.ring) {
		b.head -= len(b.ring)
	}
	if b.n == 0 {
		b.head = 0
		if len(b.ring) > keepBuffer {
			b.ring = nil
		}
	}
}
