package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/peercache/peercache"
)

// dropped judges that a member has taken another one for dead: it must not when
// both run and nothing has happened to them, or to the link between them, for a
// while.
func (w *World) dropped(m *member, gone peercache.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range w.members {
		if other.node == nil || other.node.Self().Incarnation != gone.Incarnation {
			continue
		}
		if w.soundLocked(m) && w.soundLocked(other) && w.soundLinkLocked(m, other) {
			w.violations = append(w.violations, Violation{Kind: "dropped", Text: fmt.Sprintf("n%d takes n%d for dead at %v",
				m.number, other.number, time.Since(w.began))})
		}
	}
}

// soundTime is how long what happened to a member or a link may have
// consequences for who is taken for dead.
func (w *World) soundTime() time.Duration { return 5 * w.script.timeout() }

// soundLocked reports whether a member runs, and has for a while.
func (w *World) soundLocked(m *member) bool {
	return m.running && !m.paused && !m.leaving && !m.skewed && time.Since(w.began)-m.touched > w.soundTime()
}

// soundLinkLocked reports whether the link between two members is whole, and
// has been for a while. Where no side is cut off it need not be: they reach each
// other through others.
func (w *World) soundLinkLocked(a, b *member) bool {
	if w.noisy() || len(w.slowed) > 0 || w.sidesLocked() == nil && !w.connectedLocked() {
		return false
	}
	if w.cutLocked(a, b) {
		return w.connectedLocked()
	}
	changed, ok := w.relinked[[2]int{min(a.number, b.number), max(a.number, b.number)}]
	return !ok || time.Since(w.began)-changed > w.soundTime()
}

// noisy reports whether packets of gossip get lost in the script.
func (w *World) noisy() bool {
	return slices.ContainsFunc(w.script.Steps, func(s Step) bool { return s.Action == Lose && s.Count > 0 })
}

// deafTime is how long, beyond the heartbeat's timeout, a connection may be kept
// that waits for a retransmission while its link is whole.
const deafTime = 3 * time.Second

// checkDeaf judges that no connection between members stays deaf when the link
// is whole again.
func (w *World) checkDeaf() {
	w.mu.Lock()
	defer w.mu.Unlock()
	most := w.script.timeout() + deafTime
	for link, at := range w.relinked {
		a, b := w.members[link[0]], w.members[link[1]]
		if w.cutLocked(a, b) || time.Since(w.began)-at < most || !w.soundLocked(a) || !w.soundLocked(b) {
			continue
		}
		if n := w.net.Waiting(a.host.Name(), b.host.Name()); n > 0 {
			w.violations = append(w.violations, Violation{Kind: "deaf", Text: fmt.Sprintf(
				"%d connections between n%d and n%d still wait for a retransmission at %v", n, a.number, b.number, time.Since(w.began))})
		}
	}
}

// Requests that a cluster may send in a second, whatever happens, and more for
// each beginning or end of a call or a load.
const (
	idleFrames = 2000
	callFrames = 40
)

// checkFrames judges how many requests were sent since it was called last, about
// a second ago. calls is how many calls and loads began and ended meanwhile.
func (w *World) checkFrames(calls int64) {
	sent := w.packets.frames.Load()
	most := idleFrames + callFrames*calls
	if n := sent - w.frames; n > most && !w.script.Large { // large values travel in many frames
		w.violate("too many requests", "%d in a second until %v, not more than %d", n, time.Since(w.began), most)
	}
	w.frames = sent
}
