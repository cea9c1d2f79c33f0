package lru

// extents hold the keys and values of external records, those too large for a block: each an allocation of its own,
// never changed once stored, so that a reader may go on with it after the lock is released.
type extents struct {
	list []extent
	free []uint32 // numbers of unused places
}

type extent struct {
	data []byte // key, then value
	klen int
}

const (
	extentRefBytes   = 4
	extentPlaceBytes = 32 + 4 // in list and free
)

// room returns the bytes that one more extent adds to the lists, 0 if there is a free place.
func (e *extents) room() int64 {
	if len(e.free) > 0 || len(e.list) < cap(e.list) {
		return 0
	}
	return int64(max(len(e.list), minExtents)) * extentPlaceBytes
}

const minExtents = 8

func (e *extents) add(data []byte, klen int) uint32 {
	if n := len(e.free); n > 0 {
		id := e.free[n-1]
		e.free = e.free[:n-1]
		e.list[id] = extent{data, klen}
		return id
	}
	if n := len(e.list); n == cap(e.list) {
		list := make([]extent, n, n+max(n, minExtents))
		copy(list, e.list)
		e.list = list
		e.free = make([]uint32, 0, cap(list))
	}
	e.list = append(e.list, extent{data, klen})
	return uint32(len(e.list) - 1)
}

// places is what the lists take.
func (e *extents) places() int64 { return int64(cap(e.list)) * extentPlaceBytes }

func (e *extents) remove(id uint32) (freed int64) {
	freed = e.cost(id)
	e.list[id] = extent{}
	e.free = append(e.free, id)
	return freed
}

func (e *extents) cost(id uint32) int64 { return heapBytes(len(e.list[id].data)) }
func (e *extents) key(id uint32) []byte {
	x := &e.list[id]
	return x.data[:x.klen:x.klen]
}
func (e *extents) value(id uint32) []byte {
	x := &e.list[id]
	return x.data[x.klen:len(x.data):len(x.data)]
}
