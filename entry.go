package peercache

import (
	"time"

	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/lru"
)

// Flags of an entry. The numbers are fixed for ever.
const (
	flagTombstone = 1 << 0 // the key was deleted: nothing is there
	flagNegative  = 1 << 1 // the loader said that there is nothing
	flagOmitted   = 1 << 2 // on its way only: there is a value, larger than the receiver keeps
)

// An entry is what an owner holds of a key.
type entry struct {
	order   order
	expires time.Duration // on the node's clock; 0: never
	flags   uint8
	heat    uint8  // how well it has earned its place; lru.Meta.Heat
	tag     uint16 // the codec's id
	value   []byte
}

// there reports whether the entry is a value, and not the note that there is
// none.
func (e *entry) there() bool { return e.flags&(flagTombstone|flagNegative) == 0 }

func (e *entry) meta() lru.Meta {
	return lru.Meta{Version: e.order.lru(), Expires: e.expires, Tag: e.tag, Flags: e.flags, Heat: e.heat}
}

func entryOf(m lru.Meta, value []byte) entry {
	return entry{order: orderOf(m.Version), expires: m.Expires, flags: m.Flags, tag: m.Tag, value: value}
}

// Bounds of what travels.
const (
	maxKeyBytes   = lru.MaxKeyBytes
	maxCacheName  = 255
	maxBatchItems = 1 << 16
	maxBatchBytes = 8 << 20 // of one request or reply with several entries, unless one entry alone is larger
)

// A timer translates moments between this node's clock and the wire. Expiry
// travels as the time that is left and as a moment on the sender's wall clock;
// the receiver takes the lesser, so that a frame which lay around for a while
// makes nothing live longer. It takes the time when it is first needed, and
// then for all.
type timer struct {
	n       *Node
	peer    uint64 // whose frame is read; 0: it is written
	set     bool
	elapsed time.Duration // on this node's clock
	wall    time.Time     // on this node's wall clock
	offset  time.Duration // how far the other's wall clock is ahead, when reading
}

func (n *Node) timer(peer uint64) timer { return timer{n: n, peer: peer} }

func (t *timer) take() {
	if !t.set {
		t.set, t.elapsed, t.wall = true, t.n.clock.Elapsed(), t.n.clock.Now()
		t.offset, _ = t.n.skew.of(t.peer)
	}
}

func (t *timer) append(b []byte, expires time.Duration) []byte {
	if expires == 0 {
		return wire.AppendUvarint(b, 0)
	}
	t.take()
	left := max(expires-t.elapsed, 0)
	b = wire.AppendUvarint(b, uint64(left.Microseconds())+1)
	return wire.AppendUint64(b, uint64(t.wall.Add(left).UnixMicro()))
}

func (t *timer) read(r *wire.Reader) (expires time.Duration) {
	left := r.Uvarint()
	if left == 0 {
		return 0
	}
	t.take()
	until := time.UnixMicro(int64(r.Uint64())).Add(-t.offset).Sub(t.wall)
	d := min(time.Duration(min(left-1, uint64(maxTTL.Microseconds())))*time.Microsecond, max(until, 0))
	return max(t.elapsed+d, 1)
}

// maxTTL is the longest time to live; a longer one is cut to it.
const maxTTL = 100 * 365 * 24 * time.Hour

func appendVersion(b []byte, v Version) []byte {
	return wire.AppendUint64(wire.AppendUint64(b, v.time), v.incarnation)
}

func readVersion(r *wire.Reader) Version { return Version{r.Uint64(), r.Uint64()} }

func appendOrder(b []byte, o order) []byte {
	b = wire.AppendBool(b, o.isWrite())
	b = appendVersion(b, o.w)
	if !o.isWrite() {
		b = appendVersion(b, o.v)
	}
	return b
}

func readOrder(r *wire.Reader) order {
	write := r.Bool()
	w := readVersion(r)
	if write {
		return order{w, w}
	}
	return order{w, readVersion(r)}
}

func (t *timer) appendEntry(b []byte, e *entry) []byte {
	b = wire.AppendByte(b, e.flags)
	b = wire.AppendUint16(b, e.tag)
	b = appendOrder(b, e.order)
	b = t.append(b, e.expires)
	return wire.AppendBytes(b, e.value)
}

// readEntry reads an entry whose value is a part of what is read.
func (t *timer) readEntry(r *wire.Reader) entry {
	e := entry{flags: r.Byte(), tag: r.Uint16()}
	e.order = readOrder(r)
	e.expires = t.read(r)
	e.value = r.Bytes(maxValueLimit)
	return e
}
