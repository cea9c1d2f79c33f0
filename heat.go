package peercache

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	heatEvery = 250 * time.Millisecond
	heatSlots = 1 << 13 // keys that are told of at a time, a power of two
)

// heat tells the holders of keys what was read. Reads happen where the value is
// near, or else at the primary; the stores of the other holders see none of
// them, and under pressure would let go of what matters most. Keys travel as
// hashes, at most heatSlots of each kind at a time: of two that fall into one
// slot the later is told.
type heat struct {
	n      *Node
	stored [heatSlots]atomic.Uint64 // hashes of what was read from the store
	near   [heatSlots]atomic.Uint64 // hashes of what was read near, which the own store has not seen either
	noted  atomic.Bool              // there is something to tell
}

func newHeat(n *Node) *heat { return &heat{n: n} }

// note notes a read from the own store.
func (h *heat) note(hash uint64) { h.noteIn(&h.stored, hash) }

// noteNear notes a read of a near value.
func (h *heat) noteNear(hash uint64) { h.noteIn(&h.near, hash) }

func (h *heat) noteIn(slots *[heatSlots]atomic.Uint64, hash uint64) {
	// Looked at first: a hot key is there already, and a cache line that is
	// only read can be everywhere.
	if slot := &slots[hash%heatSlots]; slot.Load() != hash {
		slot.Store(hash)
		if !h.noted.Load() {
			h.noted.Store(true)
		}
	}
}

// run tells the others now and then until ctx ends.
func (h *heat) run(ctx context.Context) {
	for {
		sleep(ctx, heatEvery)
		if ctx.Err() != nil {
			return
		}
		if h.noted.Swap(false) {
			h.tell(ctx)
		}
	}
}

// tell sends each holder what of its keys was read here.
func (h *heat) tell(ctx context.Context) {
	v := h.n.view.Load()
	byHolder := make(map[uint64][]byte)
	gather := func(slots *[heatSlots]atomic.Uint64, self bool) {
		for i := range slots {
			if slots[i].Load() == 0 {
				continue
			}
			hash := slots[i].Swap(0)
			if self {
				h.n.store.lru.TouchHash(hash)
			}
			for _, incarnation := range v.holderIncarnations(shardOfHash(hash)) {
				if incarnation != h.n.incarnation {
					byHolder[incarnation] = wire.AppendUint64(byHolder[incarnation], hash)
				}
			}
		}
	}
	gather(&h.stored, false)
	gather(&h.near, true)
	for incarnation, hashes := range byHolder {
		m, ok := v.find(incarnation)
		if !ok || !h.n.peers.healthy(m.Member) {
			continue
		}
		h.n.spawn(func(context.Context) {
			ctx, cancel := context.WithTimeout(ctx, heatEvery)
			defer cancel()
			h.n.peers.call(ctx, m.Member, mux.Request{Op: opHot, Body: hashes}, nil) // what is lost is read again if it is hot
		})
	}
}

// serveHot counts as used what a peer saw used.
func (n *Node) serveHot(req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	for range min(r.Len()/8, 2*heatSlots) {
		n.store.lru.TouchHash(r.Uint64())
	}
	return mux.Reply{}
}
