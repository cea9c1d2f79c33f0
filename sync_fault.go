package peercache

import (
	"errors"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	badTime    = time.Minute      // how long a shard that is too large for a request or reply is not asked for again
	brokenTime = 10 * time.Second // how long one is not that the source cannot give, or gives in a way that cannot be read
	maxLeftOut = 1 << 10          // of which it is known that they were logged
)

// A badShard is a shard that one source cannot give.
type badShard struct {
	source uint64 // its incarnation
	shard  int
}

// A fault is what is wrong with it.
type fault struct {
	until time.Duration // it is not asked for before then
	final bool          // what is asked or answered is too large: what the source has counts as given
}

// isTooLarge reports whether err says that a request or its reply can never be
// sent.
func isTooLarge(err error) bool {
	var remote *mux.RemoteError
	return errors.Is(err, mux.ErrTooLarge) || errors.Is(err, errSyncSize) ||
		errors.As(err, &remote) && remote.Code == wire.CodeTooLarge
}

// isBroken reports whether err says that a source failed to serve a request, or
// that its reply cannot be read: it is of no use to ask the same again at once.
func isBroken(err error) bool {
	var remote *mux.RemoteError
	return errors.Is(err, errSyncPage) ||
		errors.As(err, &remote) && (remote.Code == wire.CodePanic || remote.Code == wire.CodeInternal || remote.Code == wire.CodeMalformed)
}

// faultOf returns what is wrong with a shard of a source, if it was not long ago.
func (h *handoff) faultOf(source uint64, shard int) (fault, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.faultLocked(source, shard)
}

func (h *handoff) faultLocked(source uint64, shard int) (fault, bool) {
	if len(h.faults) == 0 {
		return fault{}, false
	}
	f, bad := h.faults[badShard{source, shard}]
	return f, bad && h.n.clock.Elapsed() < f.until
}

// failed notes why a source did not give a shard that it was asked for alone.
func (h *handoff) failed(source Member, shard int, err error) {
	now := h.n.clock.Elapsed()
	f := fault{now + brokenTime, false}
	if isTooLarge(err) {
		f = fault{now + badTime, true}
	}
	h.mu.Lock()
	for old, f := range h.faults {
		if _, living := h.n.view.Load().find(old.source); !living || now >= f.until+badTime {
			delete(h.faults, old)
		}
	}
	_, known := h.faults[badShard{source.Incarnation, shard}]
	h.faults[badShard{source.Incarnation, shard}] = f
	h.mu.Unlock()
	if !known {
		h.n.omitted.Add(1)
		h.n.log.Warn("shard cannot be copied", "shard", shard, "from", source.String(), "err", err)
	}
}

// leftOut notes that an entry, by its fingerprint, is too large to be sent.
func (h *handoff) leftOut(print uint64, about ...any) {
	h.mu.Lock()
	known := h.omitted[print]
	if !known && len(h.omitted) < maxLeftOut {
		h.omitted[print] = true
	}
	h.mu.Unlock()
	if !known {
		h.n.omitted.Add(1)
		h.n.log.Warn("entry is too large to be copied", about...)
	}
}

// syncBeside is what a page has beside its entries, at most, but for the floors
// of many caches and what the source lacks, which are not there when one entry
// is that large.
const syncBeside = 64 << 10
