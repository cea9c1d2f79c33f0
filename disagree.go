package peercache

import (
	"context"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// Members that see different tables agree within moments, when gossip has
// reached both. It may miss one of them, and the next full exchange of gossip be
// seconds away: so long would a member answer for keys that others own, whose
// writes it is not sent any more. So requests and the packets of gossip say by
// which tables they were sent.

const (
	disagreeTime = time.Second // how long another member may see other tables than ours
	agreeTime    = 5 * time.Second
)

// disagreements are the members that see other tables. The zero
// value is ready. It may be used concurrently.
type disagreements struct {
	mu     sync.Mutex
	serial uint64                   // guarded by mu; of the view that since is about
	since  map[uint64]time.Duration // guarded by mu; by incarnation: when a member first did, or was last acted on
}

// due notes that a member disagrees with a view, and reports whether it has for
// too long.
func (d *disagreements) due(v *view, member uint64, now time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.since == nil || d.serial != v.serial {
		d.serial, d.since = v.serial, make(map[uint64]time.Duration)
	}
	first, known := d.since[member]
	if known && now-first < disagreeTime {
		return false
	}
	d.since[member] = now
	return known
}

// compareTables looks at the tables that a peer's request or packet was sent by. With one
// that disagrees for long it exchanges what both know of all members.
func (n *Node) compareTables(from mux.Identity, digest uint64) {
	v := n.view.Load()
	if digest == 0 || digest == v.digest {
		return
	}
	m, listed := v.find(from.Incarnation)
	if !listed || !n.disagreements.due(v, from.Incarnation, n.clock.Elapsed()) {
		return
	}
	n.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, agreeTime)
		defer cancel()
		if err := n.join(ctx, m.Addr); err != nil {
			n.log.Debug("a member sees another table", "member", m.Name, "addr", m.Addr, "err", err)
		}
	})
}
