package sim

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/peercache/peercache"
)

// step does one step of the script. Whatever makes no sense at that moment is
// left out.
func (w *World) step(s Step) {
	w.note("step %v", s)
	one, other := w.members[s.Node], w.members[s.Other]
	switch s.Action {
	case Kill:
		w.kill(one, false)
	case Vanish:
		w.kill(one, true)
	case Restart:
		w.kill(one, false)
		w.start(one)
	case Start:
		w.start(one)
	case Pause:
		w.pause(one)
	case Resume:
		w.resume(one)
	case Join:
		for _, i := range s.Nodes {
			w.start(w.members[i])
		}
	case Leave:
		for _, i := range s.Nodes {
			w.shutdown(w.members[i])
		}
	case Cut:
		w.cut(func(cuts map[[2]int]bool) { cuts[[2]int{s.Node, s.Other}], cuts[[2]int{s.Other, s.Node}] = true, true })
		w.net.Cut(one.host.Name(), other.host.Name())
	case CutOneWay:
		w.cut(func(cuts map[[2]int]bool) { cuts[[2]int{s.Node, s.Other}] = true })
		w.net.CutOneWay(one.host.Name(), other.host.Name())
	case Resets:
		w.cut(func(cuts map[[2]int]bool) { cuts[[2]int{s.Node, s.Other}], cuts[[2]int{s.Other, s.Node}] = true, true })
		w.net.Resets(one.host.Name(), other.host.Name(), true)
	case Split:
		w.split(s.Nodes)
	case Heal:
		w.healLinks()
	case Reset:
		w.disturb() // whose load it was waiting for may be asked no more
		w.net.Reset(one.host.Name(), other.host.Name())
	case Slow:
		w.setSlow(s)
		w.net.Delay(one.host.Name(), other.host.Name(), s.Time)
	case Skew:
		w.skew(one, s)
	case Lose:
		w.packets.lost.Store(uint64(s.Count))
	case Whole:
		most := s.Time
		if most == 0 {
			most = wholeTime
			w.background.Wait()
		}
		if !w.waitWhole(most) {
			w.violate("agree", "the nodes do not agree within %v:\n%s", most, w.describe())
		}
	}
}

// healLinks ends all cuts and resets of links.
func (w *World) healLinks() {
	w.cut(func(cuts map[[2]int]bool) { clear(cuts) })
	w.net.HealAll()
	for _, one := range w.members {
		for _, other := range w.members[:one.number] {
			w.net.Resets(one.host.Name(), other.host.Name(), false)
		}
	}
}

// kill ends a node's process. With silent nobody is told.
func (w *World) kill(m *member, silent bool) {
	w.mu.Lock()
	if !m.running {
		w.mu.Unlock()
		return
	}
	m.running, m.paused = false, false
	w.outLocked(m)
	w.changedLocked()
	w.mu.Unlock()
	if silent {
		m.host.Vanish()
	} else {
		m.host.Crash()
	}
	m.node.Close()
}

// start starts a node in the background.
func (w *World) start(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.startLocked(m)
}

func (w *World) startLocked(m *member) {
	if m.running || m.starting {
		m.again = m.leaving
		return
	}
	m.starting = true
	w.disturbLocked()
	w.background.Go(func() {
		node, caches, err := w.startNode(m)
		w.mu.Lock()
		defer w.mu.Unlock()
		m.starting = false
		if err != nil {
			w.violations = append(w.violations, Violation{Kind: "start", Text: fmt.Sprintf("n%d does not start: %v", m.number, err)})
			return
		}
		m.node, m.caches, m.running, m.paused, m.leaving, m.fresh = node, caches, true, false, false, true
		w.setDomainLocked(m, 0)
		m.last, m.touched = 0, time.Since(w.began)
		w.joinedLocked(m)
		w.changedLocked()
	})
}

// joinedLocked puts a node that has just started into the domain of the
// others, when they have one and are well.
func (w *World) joinedLocked(m *member) {
	if len(w.cuts) > 0 {
		return
	}
	domain := 0
	for _, other := range w.members {
		if other == m || !other.running {
			continue
		}
		if other.out || other.domain == 0 || domain != 0 && other.domain != domain {
			return
		}
		domain = other.domain
	}
	if !m.out {
		w.setDomainLocked(m, domain)
	}
}

func (w *World) startNode(m *member) (*peercache.Node, map[string]*peercache.Cache[string], error) {
	config, err := w.config(m)
	if err != nil {
		return nil, nil, err
	}
	node, err := peercache.Start(context.Background(), config)
	if err != nil {
		return nil, nil, err
	}
	caches := make(map[string]*peercache.Cache[string])
	if w.bare(m.number) {
		return node, caches, nil
	}
	for _, name := range cacheNames {
		var options peercache.Options[string]
		if name == cacheMixed || name == cacheLoads {
			options.Load = func(ctx context.Context, key string) (string, error) { return w.load(ctx, m, name, key) }
		}
		cache, err := peercache.New(node, name, options)
		if err != nil {
			node.Close()
			return nil, nil, err
		}
		caches[name] = cache
	}
	return node, caches, nil
}

// silence is from what delay on the other end of a link seems silent.
const silence = 500 * time.Millisecond

// setSlow notes that a link is slow from now on, or is not any more: what was
// sent before stays slow. Who is slow to reach more than one other is as good as
// cut off.
func (w *World) setSlow(s Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	link := [2]int{s.Node, s.Other}
	if s.Time < silence {
		if until, slow := w.slowed[link]; slow && until == forEver {
			w.slowed[link] = time.Since(w.began) + w.lastSlow
		}
		return
	}
	w.slow, w.lastSlow = true, max(w.lastSlow, s.Time)
	w.slowed[link] = forEver
	w.disturbLocked()
	if w.apartLocked() {
		for _, m := range w.members {
			w.setDomainLocked(m, 0)
		}
	}
}

const forEver time.Duration = math.MaxInt64

// apartLocked reports whether more than one link is so slow that its ends may
// take each other for dead.
func (w *World) apartLocked() bool {
	slow := 0
	for _, until := range w.slowed {
		if until > time.Since(w.began) {
			slow++
		}
	}
	return slow > 1
}

func (w *World) endSlow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow = false
	for link := range w.slowed {
		w.slowed[link] = time.Since(w.began) + w.lastSlow
	}
}

func (w *World) pause(m *member) {
	w.mu.Lock()
	if !m.running || m.paused {
		w.mu.Unlock()
		return
	}
	m.paused, m.touched = true, time.Since(w.began)
	w.outLocked(m)
	w.mu.Unlock()
	m.host.Pause()
}

func (w *World) resume(m *member) {
	m.host.Resume()
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.paused && m.domain == 0 && len(w.cuts) == 0 && !w.slow && !m.skewed {
		m.back = m.last
	}
	m.paused, m.touched = false, time.Since(w.began)
	w.changedLocked()
}

// shutdown lets a node leave in the background.
func (w *World) shutdown(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !m.running || m.leaving {
		return
	}
	m.leaving = true
	w.disturbLocked()
	if !slices.ContainsFunc(w.members, func(m *member) bool { return m.running && !m.paused && !m.leaving && !m.fresh }) {
		w.lossLocked() // perhaps nobody is known who could take over; who stands still cannot
	}
	node := m.node
	w.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
		defer cancel()
		err := node.Shutdown(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		if m.node != node || !m.running {
			return // it was killed meanwhile
		}
		w.noteLocked("n%d has left: %v", m.number, err)
		m.running, m.leaving, m.paused = false, false, false
		m.host.Resume()
		if err != nil {
			w.outLocked(m)
		}
		w.setDomainLocked(m, 0)
		if m.again {
			m.again = false
			w.startLocked(m)
		}
		w.changedLocked()
	})
}

// split cuts some nodes from all others, and ends other cuts.
func (w *World) split(nodes []int) {
	in := make(map[int]bool)
	for _, i := range nodes {
		in[i] = true
	}
	var side, rest []string
	for i := range w.members {
		if in[i] {
			side = append(side, hostOf(i))
		} else {
			rest = append(rest, hostOf(i))
		}
	}
	w.cut(func(cuts map[[2]int]bool) {
		clear(cuts)
		for i := range w.members {
			for j := range w.members {
				if in[i] != in[j] {
					cuts[[2]int{i, j}] = true
				}
			}
		}
	})
	w.net.Partition(side, rest)
}

// farOff is from where on a clock keeps its node out of the tables.
const farOff = 400 * time.Millisecond

func (w *World) skew(m *member, s Step) {
	w.mu.Lock()
	m.skewed, m.touched = s.Time.Abs() > farOff, time.Since(w.began)
	if m.skewed && m.running {
		w.outLocked(m)
	}
	w.disturbLocked()
	w.mu.Unlock()
	m.host.SetSkew(s.Time)
}
