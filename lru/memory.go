package lru

import "sync"

// sizeClasses are those of Go's allocator from 128 bytes on.
var sizeClasses = [...]uint16{128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480, 512, 576,
	640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864, 5120, 5376,
	6144, 6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760,
	24576, 27264, 28672, 32768}

// heapBytes is what the allocator takes for n bytes without pointers.
func heapBytes(n int) int64 {
	if n > 32<<10 {
		return (int64(n) + 8191) &^ 8191
	}
	lo, hi := 0, len(sizeClasses)-1
	for lo < hi {
		if mid := (lo + hi) / 2; int(sizeClasses[mid]) < n {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return int64(sizeClasses[lo])
}

// pool keeps a few free blocks, so that a full store does not make garbage of its own. They are not charged to anybody;
// shape.reserve has room for them.
type pool struct {
	mu    sync.Mutex
	shape *shape   // guarded by mu, as is free
	free  [][]byte // blocks of that shape
}

// get returns a block for the given shape.
func (p *pool) get(sh *shape) []byte {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 || p.shape != sh {
		p.mu.Unlock()
		return make([]byte, sh.blockBytes)
	}
	b := p.free[n-1]
	p.free[n-1] = nil
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return b
}

// put takes a block that is no longer needed.
func (p *pool) put(b []byte) {
	p.mu.Lock()
	if len(p.free) < p.shape.poolMax && len(b) == p.shape.blockBytes {
		p.free = append(p.free, b)
	}
	p.mu.Unlock()
}

// reset drops all blocks and turns to another shape.
func (p *pool) reset(sh *shape) {
	p.mu.Lock()
	p.shape, p.free = sh, nil
	p.mu.Unlock()
}
