package sim

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
)

// inspect reads every key on every node, and what each owner holds of it.
func (w *World) inspect() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	probes := make(map[uint64]*probe)
	for _, m := range w.members {
		p, err := newProbe(ctx, w.net.Host(probeHost), m.node.Self())
		if err != nil {
			w.violate("probe", "n%d: %v", m.number, err)
			return
		}
		defer p.close()
		probes[m.node.Self().Incarnation] = p
		if s := m.node.Stats(); s.Bytes > s.MaxBytes {
			w.violate("memory", "n%d holds %d bytes, at most %d are allowed", m.number, s.Bytes, s.MaxBytes)
		}
	}
	for _, cache := range cacheNames {
		one, other := keyName(cache, 0), keyName(cache, 1)
		if node := w.members[0].node; !slices.Equal(node.Owners(cache, one), node.Owners(cache, other)) {
			w.violate("keys of one shard", "%s and %s of %s have other owners", one, other, cache)
		}
	}
	for _, k := range w.script.keys() {
		w.compare(ctx, k, probes)
		for _, m := range w.members {
			w.readLast(ctx, m, k)
		}
	}
}

// keys are all keys of the script.
func (s *Script) keys() [][2]string {
	var keys [][2]string
	for _, calls := range s.Clients {
		for _, c := range calls {
			for _, k := range c.Keys {
				keys = append(keys, [2]string{c.Cache, k})
			}
		}
	}
	slices.SortFunc(keys, func(a, b [2]string) int { return strings.Compare(a[0]+"/"+a[1], b[0]+"/"+b[1]) })
	return slices.Compact(keys)
}

// compare asks all owners of a key what they hold. Each answer is a read of
// the history as well.
func (w *World) compare(ctx context.Context, k [2]string, probes map[uint64]*probe) {
	var first holding
	var all []string
	var held []holding
	differ := false
	for i, owner := range w.members[0].node.Owners(k[0], k[1]) {
		h, err := probes[owner.Incarnation].holds(ctx, k[0], k[1])
		if err != nil {
			w.violate("probe", "%s: %v", owner.Name, err)
			return
		}
		if i == 0 {
			first = h
		}
		held = append(held, h)
		all = append(all, fmt.Sprintf("%s: %v", owner.Name, h))
		differ = differ || h != first
		op := &Op{Client: -2, Node: w.numberOf(owner), Kind: Lookup, Cache: k[0], Key: k[1]}
		if h.there() {
			op.Value = h.Value
		}
		w.mu.Lock()
		op.Call = w.markLocked(w.members[op.Node])
		op.Return = w.markLocked(w.members[op.Node])
		w.mu.Unlock()
		if h.there() || w.script.Pieces == 0 {
			w.history.add(op)
		}
	}
	if differ && w.script.Pieces == 0 && k[0] != cacheBrief && !onlyCopiesMissing(held) {
		w.mu.Lock()
		w.violations = append(w.violations, Violation{Kind: "owners differ", Key: k, Text: strings.Join(all, "; ")})
		w.mu.Unlock()
	}
}

// onlyCopiesMissing reports whether the owners that differ just lack a copy of
// one load: nobody waits for those, and a fault may swallow them.
func onlyCopiesMissing(held []holding) bool {
	var load holding
	for _, h := range held {
		if h.Held && h.W != h.V {
			if load.Held && h != load {
				return false
			}
			load = h
		}
	}
	for _, h := range held {
		if h != load && h.W != load.W {
			return false
		}
	}
	return load.Held
}

func (w *World) numberOf(m peercache.Member) int {
	return slices.IndexFunc(w.members, func(other *member) bool { return other.node.Self().Incarnation == m.Incarnation })
}

// readLast looks a key up through a node.
func (w *World) readLast(ctx context.Context, m *member, k [2]string) {
	if w.bare(m.number) {
		return
	}
	w.mu.Lock()
	op := &Op{Client: -2, Node: m.number, Kind: Lookup, Cache: k[0], Key: k[1], Call: w.markLocked(m)}
	w.mu.Unlock()
	v, ok, err := m.caches[k[0]].Lookup(ctx, k[1])
	op.read(v, ok, err)
	w.mu.Lock()
	op.Return = w.markLocked(m)
	w.mu.Unlock()
	w.history.add(op)
}

// leftover returns the stacks of the other goroutines of this bubble once
// nothing more happens.
func leftover() string {
	time.Sleep(time.Minute)
	synctest.Wait()
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, false)
	_, bubble, ok := strings.Cut(string(buf[:n]), "synctest bubble ")
	if !ok {
		return ""
	}
	bubble, _, _ = strings.Cut(bubble, "]")
	n = runtime.Stack(buf, true)
	var left []string
	for i, stack := range strings.Split(string(buf[:n]), "\n\n") {
		head, _, _ := strings.Cut(stack, "\n")
		if i > 0 && strings.Contains(head, "synctest bubble "+bubble+"]") && !strings.Contains(stack, "testing/synctest.Test") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}
