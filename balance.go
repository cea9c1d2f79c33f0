package peercache

import (
	"math/rand/v2"
	"time"
)

const (
	// zoneBias is how much costlier than another member one in another zone
	// seems: only when those in this node's zone are so much slower is it asked.
	zoneBias = 4
	// oldLatency is when a measured latency counts half: who has not been asked
	// for long may have become faster.
	oldLatency = time.Second
	// clearlyLess is what part of another's cost one may have to be taken instead:
	// what differs by less is noise, and would turn all requests to one side.
	clearlyLess = 0.95
	// busyCalls is how many requests under way make a member twice as costly.
	busyCalls = 8
)

// pick returns which of a shard's owners, by place, is asked first for what it
// holds: of two at random the one that is likely to answer sooner (Mitzenmacher,
// "The Power of Two Choices in Randomized Load Balancing", 2001). 0 is the
// primary.
func (n *Node) pick(v *view, owners []uint16) int {
	var places [maxCopies]int
	able := places[:0]
	for place, i := range owners {
		m := v.current.member(int(i))
		if m.Incarnation == n.incarnation {
			continue
		}
		r := n.peers.find(m.Incarnation)
		if r == nil {
			if known, ok := v.find(m.Incarnation); ok {
				r, _ = n.peers.get(known.Incarnation, known.Addr)
			}
		}
		if r != nil && !r.health.silent.Load() && !r.isStuck() && r.calls.want() {
			able = append(able, place)
		}
	}
	switch len(able) {
	case 0:
		return 0
	case 1:
		return able[0]
	}
	i := rand.IntN(len(able))
	j := rand.IntN(len(able) - 1)
	if j >= i {
		j++
	}
	a, b := able[i], able[j]
	if n.cost(v, owners[b]) < n.cost(v, owners[a])*clearlyLess {
		return b
	}
	return a
}

// cost estimates how long a member takes for one more request: by how long one
// takes, how many it has been sent and not answered, and how many it said it is
// working on.
func (n *Node) cost(v *view, member uint16) float64 {
	m := v.current.member(int(member))
	r := n.peers.find(m.Incarnation)
	if r == nil {
		return 0
	}
	latency := float64(r.health.latency.Load())
	if conn := r.calls.live.Load(); conn != nil {
		latency /= 1 + float64(conn.SinceHeard())/float64(oldLatency)
	}
	cost := latency * (1 + float64(r.gate.inside()+r.health.load.Load())/busyCalls)
	if m.Zone != n.cfg.Zone {
		cost *= zoneBias
	}
	return cost
}

// readsReplicas reports whether all owners of a key are asked for it, not only
// the primary.
func (s *space) readsReplicas() bool {
	f := s.face.Load()
	return f != nil && f.readReplicas
}
