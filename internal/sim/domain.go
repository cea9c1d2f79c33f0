package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

// setDomainLocked puts a member into a domain, 0 for none.
func (w *World) setDomainLocked(m *member, domain int) {
	if m.domain == domain {
		return
	}
	m.domain = domain
	m.flux++
	if domain != 0 {
		m.last, m.back = domain, 0
	}
}

// outLocked notes that a member is killed, paused or cut off. It is called
// before that happens.
func (w *World) outLocked(m *member) {
	m.out, m.back = true, 0
	w.disturbLocked()
	w.setDomainLocked(m, 0)
	outs := 0
	for _, other := range w.members {
		if other.out {
			outs++
		}
	}
	if len(w.cuts) > 0 && w.sidesLocked() == nil {
		w.weak = true // others may have been reached through it
	}
	if outs >= min(w.script.Copies, w.smallestLocked()) {
		w.lossLocked()
	}
}

// smallestLocked is how many members of the smallest side have copies of what
// is written there, those that are out included.
func (w *World) smallestLocked() int {
	smallest := w.script.Nodes
	for _, side := range append(w.sidesLocked(), w.members) {
		holders := 0
		for _, m := range side {
			if m.out || m.running && m.holds() {
				holders++
			}
		}
		if holders > 0 { // others have yet to copy anything
			smallest = min(smallest, holders)
		}
	}
	return smallest
}

// holds reports whether a member that runs has copied what it is to own.
func (m *member) holds() bool {
	return !m.fresh || m.node.Self().State != peercache.MemberJoining
}

// lossLocked notes that what was written up to now may be lost.
func (w *World) lossLocked() {
	w.losses++
	w.disturbLocked()
	for _, m := range w.members {
		w.setDomainLocked(m, 0)
		m.last, m.back = 0, 0
	}
	w.noteLocked("more nodes are out than there are copies")
}

// sidesLocked are the groups of members that the cuts leave, of those that run
// or will. It returns nil when it is not so that each sees all of its group
// and nobody else.
func (w *World) sidesLocked() [][]*member {
	var sides [][]*member
	placed := make(map[*member]bool)
	for _, m := range w.members {
		if placed[m] || !m.running && !m.starting && !m.out {
			continue
		}
		var side []*member
		for _, other := range w.members {
			if (other.running || other.starting || other.out) && !w.cutLocked(m, other) {
				side = append(side, other)
			}
		}
		for _, other := range side {
			if placed[other] {
				return nil
			}
			placed[other] = true
		}
		for _, a := range side {
			for _, b := range side {
				if w.cutLocked(a, b) {
					return nil
				}
			}
			for _, b := range w.members {
				if !slices.Contains(side, b) && a != b && (b.running || b.starting || b.out) && !w.cutWhollyLocked(a, b) {
					return nil
				}
			}
		}
		sides = append(sides, side)
	}
	return sides
}

func (w *World) cutLocked(a, b *member) bool {
	return w.cuts[[2]int{a.number, b.number}] || w.cuts[[2]int{b.number, a.number}]
}

func (w *World) cutWhollyLocked(a, b *member) bool {
	return w.cuts[[2]int{a.number, b.number}] && w.cuts[[2]int{b.number, a.number}]
}

// cut changes the cuts, and what follows from them. It is called before they
// are made and before they are healed.
func (w *World) cut(change func(cuts map[[2]int]bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := maps.Clone(w.cuts)
	change(w.cuts)
	for _, cuts := range []map[[2]int]bool{before, w.cuts} {
		for c := range cuts {
			if before[c] != w.cuts[c] {
				w.cutAt = append(w.cutAt, time.Since(w.began))
				w.relinked[[2]int{min(c[0], c[1]), max(c[0], c[1])}] = time.Since(w.began)
			}
		}
	}
	w.disturbLocked()
	switch {
	case len(w.cuts) == 0 && len(before) > 0:
		return // until all agree each side is what it was
	case len(w.cuts) == 0:
		return
	case w.connectedLocked():
		return
	}
	for _, m := range w.members {
		w.setDomainLocked(m, 0)
	}
}

// connectedLocked reports whether all members, three at least, are there and
// reach each other directly or through others.
func (w *World) connectedLocked() bool {
	var left []*member
	for _, m := range w.members {
		if m.out || m.starting {
			return false
		}
		if m.running {
			left = append(left, m)
		}
	}
	if len(left) < 3 {
		return false
	}
	reached := []*member{left[0]}
	for i := 0; i < len(reached); i++ {
		left = slices.DeleteFunc(left, func(m *member) bool {
			near := m == reached[0] || !w.cutLocked(m, reached[i])
			if near && m != reached[0] {
				reached = append(reached, m)
			}
			return near
		})
	}
	return len(left) == 0
}

// watch looks again and again whether the members agree, while they may not.
func (w *World) watch(stop <-chan struct{}) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var moments int64
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-tick.C:
			w.look()
		}
		if i%int(time.Second/watchEvery) == 0 {
			w.mu.Lock()
			calls := w.seq - moments
			moments = w.seq
			w.mu.Unlock()
			w.checkFrames(calls)
			w.checkDeaf()
		}
	}
}

// look gives domains to those who agree, and reports whether all do. It must
// not be called while this goroutine's own call is what they wait for.
func (w *World) look() bool {
	w.mu.Lock()
	unsettled, flux := w.unsettled, w.fluxLocked()
	sides := w.sidesLocked()
	if w.apartLocked() {
		sides = nil
	}
	whole := true
	for _, m := range w.members {
		if m.paused {
			whole = false // the others may agree without it
		}
		if m.starting || m.leaving || m.skewed {
			sides = slices.DeleteFunc(sides, func(side []*member) bool { return slices.Contains(side, m) })
			if len(w.cuts) == 0 {
				sides = nil
			}
		}
	}
	w.mu.Unlock()
	if !unsettled {
		return true
	}
	all := len(sides) > 0
	for _, side := range sides {
		var nodes []*peercache.Node
		for _, m := range side {
			if w.goesOn(m) {
				nodes = append(nodes, m.node)
			}
		}
		if !agree(nodes) {
			all = false
			continue
		}
		w.mu.Lock()
		if w.fluxLocked() == flux {
			w.agreedLocked(side, whole && len(sides) == 1 && len(w.cuts) == 0)
			flux = w.fluxLocked()
		}
		w.mu.Unlock()
	}
	return all && len(sides) == 1 && w.settled()
}

func (w *World) isRunning(m *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return m.running
}

// goesOn reports whether a member runs and is not paused.
func (w *World) goesOn(m *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return m.running && !m.paused
}

func (w *World) settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.unsettled
}

// fluxLocked changes when the state of any member does.
func (w *World) fluxLocked() int {
	flux := w.losses<<32 + len(w.cuts)
	for _, m := range w.members {
		flux += m.flux << 8
		for _, b := range []bool{m.running, m.starting, m.leaving, m.paused, m.skewed} {
			flux *= 3
			if b {
				flux++
			}
		}
	}
	return flux
}

// agreedLocked notes that the members of a side agree, but for those that are
// paused; whole says that it is all of them.
func (w *World) agreedLocked(side []*member, whole bool) {
	var paused []*member
	side = slices.DeleteFunc(slices.Clone(side), func(m *member) bool {
		if m.running && m.paused {
			paused = append(paused, m)
		}
		return !m.running || m.paused
	})
	domain, same := 0, true
	for _, m := range side {
		if m.domain == 0 {
			continue
		}
		same = same && (domain == 0 || domain == m.domain)
		domain = m.domain
	}
	if whole {
		for _, m := range w.members {
			m.out = false
		}
		w.unsettled, w.weak = false, false
		w.disturbed = append(w.disturbed, time.Since(w.began))
	} else if same && domain != 0 && !slices.ContainsFunc(side, func(m *member) bool { return m.domain == 0 }) {
		return
	}
	if !same || domain == 0 {
		w.domains++
		domain = w.domains
		w.ancestors[domain] = map[int]bool{domain: true}
		for _, m := range side {
			for a := range w.ancestors[m.last] {
				w.ancestors[domain][a] = true
			}
		}
	}
	var names []string
	for _, m := range side {
		w.setDomainLocked(m, domain)
		m.fresh = false
		names = append(names, fmt.Sprint("n", m.number))
	}
	for _, m := range paused {
		m.last = domain // that is what it comes back to
	}
	w.noteLocked("%s agree: domain %d", strings.Join(names, " "), domain)
}

// waitWhole waits until all members agree.
func (w *World) waitWhole(most time.Duration) bool {
	for began := time.Now(); time.Since(began) < most; {
		synctest.Wait()
		if w.look() {
			return true
		}
		time.Sleep(watchEvery)
	}
	return false
}

// agree reports whether the nodes are ready and see each other and nobody
// else, with equal tables.
func agree(nodes []*peercache.Node) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var digest uint64
	for i, n := range nodes {
		members := n.Members()
		if len(members) != len(nodes) {
			return false
		}
		for _, other := range nodes {
			incarnation := other.Self().Incarnation
			if !slices.ContainsFunc(members, func(m peercache.Member) bool { return m.Incarnation == incarnation }) {
				return false
			}
		}
		stats := n.Stats()
		if i > 0 && stats.TableDigest != digest || n.WaitReady(ended) != nil {
			return false
		}
		digest = stats.TableDigest
	}
	return len(nodes) > 0
}

// describe says what each node sees.
func (w *World) describe() string {
	var b strings.Builder
	for _, m := range w.members {
		if !w.isRunning(m) {
			fmt.Fprintf(&b, "n%d does not run\n", m.number)
			continue
		}
		stats := m.node.Stats()
		fmt.Fprintf(&b, "n%d: %s, table %016x, %d of %d shards filled:", m.number, stats.State, stats.TableDigest, stats.ShardsFilled, stats.ShardsOwned)
		for _, p := range m.node.Members() {
			fmt.Fprintf(&b, " %s=%s", p.Name, p.State)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
