package sim

import (
	"slices"
	"time"
)

// planReborn kills all nodes but one and starts them again at once. They have
// each other in their Join lists, and not the one that lives.
func (g *generator) planReborn() {
	s := g.script
	survivor := 1 + g.IntN(s.Nodes-1) // node 0 is the first of all, and could not find it
	s.Unlisted = []int{survivor}
	var others []int
	for i := range s.Nodes {
		if i != survivor {
			others = append(others, i)
		}
	}
	g.step(Step{After: g.between(shortWait, 12*time.Second), Action: Wait}) // anywhere between two looks at the seeds
	for _, i := range others {
		g.step(Step{Action: Kill, Node: i})
	}
	var gap time.Duration
	if g.IntN(3) == 0 {
		gap = g.between(0, time.Second)
	}
	g.step(Step{After: gap, Action: Join, Nodes: others})
	g.step(Step{Action: Whole, Time: oneCluster})
	g.step(Step{After: g.between(0, time.Second), Action: Wait})
	g.clientsWith(s.length()+2*time.Second, 80)
}

// oneCluster is how long nodes that started while another one lived may take
// until they are one cluster with it, all copies made.
const oneCluster = 4 * time.Second

// planPatient has a heartbeat that is patient with the silent: they stay in the
// tables for long, and writes have to wait for them.
func (g *generator) planPatient() {
	s := g.script
	s.Timeout = time.Duration(6+g.IntN(5)) * time.Second
	for range 1 + g.IntN(2) {
		i := g.IntN(s.Nodes)
		g.step(Step{After: g.between(shortWait, longWait), Action: []Action{Kill, Vanish, Vanish, Pause}[g.IntN(4)], Node: i})
		g.step(Step{After: g.between(shortWait, 2*s.Timeout), Action: Resume, Node: i})
		g.step(Step{Action: Start, Node: i})
		g.step(Step{After: g.between(0, 500*time.Millisecond), Action: Whole})
	}
}

// planClocks sets a clock minutes ahead or behind, or to about as far ahead as
// others follow, while the node runs or before it starts again.
func (g *generator) planClocks() {
	s := g.script
	s.Delay = max(s.Delay, 200*time.Microsecond) // asking again and again takes time
	far := func() time.Duration {
		switch g.IntN(4) {
		case 0:
			return -g.between(time.Minute, 10*time.Minute)
		case 1:
			return g.between(59900*time.Millisecond, 60100*time.Millisecond)
		case 2:
			return g.between(time.Minute, 10*time.Minute)
		default:
			return g.between(-65*time.Second, 65*time.Second)
		}
	}
	for range 1 + g.IntN(2) {
		i := g.IntN(s.Nodes)
		started := g.IntN(3) == 0
		if started {
			g.step(Step{After: g.between(shortWait, longWait), Action: Kill, Node: i})
		}
		g.step(Step{After: g.between(shortWait, longWait), Action: Skew, Node: i, Time: far()})
		if started {
			g.step(Step{Action: Start, Node: i})
		}
		for range g.IntN(3) {
			g.step(Step{After: g.between(shortWait, 2*time.Second), Action: Skew, Node: i, Time: far()})
		}
		g.step(Step{After: g.between(time.Second, 5*time.Second), Action: Skew, Node: i})
		g.step(Step{After: g.between(0, time.Second), Action: Whole})
	}
}

// planLarge has few values, of up to many megabytes.
func (g *generator) planLarge() {
	const mega = 1 << 20
	s := g.script
	s.Large, s.Nodes, s.Copies = true, 3, 2
	s.Size = []int{mega / 3, 2 * mega, 9 * mega, 16*mega - 100, 18 * mega}[g.IntN(5)]
	s.Rate = []int{0, 0, 16e6, 125e6}[g.IntN(4)]
	switch i := g.IntN(s.Nodes); g.IntN(4) {
	case 0:
		g.step(Step{After: g.between(shortWait, longWait), Action: Kill, Node: i})
		g.step(Step{After: g.between(shortWait, 4*time.Second), Action: Start, Node: i})
	case 1:
		g.step(Step{After: g.between(shortWait, longWait), Action: Leave, Nodes: []int{i}})
		g.step(Step{After: g.between(0, time.Second), Action: Join, Nodes: []int{i}})
	default:
		if s.Rate == 16e6 {
			s.Rate = 4e6
		}
		g.step(Step{After: g.between(shortWait, 2*time.Second), Action: Wait})
	}
	g.step(Step{After: g.between(0, time.Second), Action: Whole})
	g.clientsWith(s.length(), 8)
	for _, calls := range s.Clients {
		for i := range calls {
			c := &calls[i]
			if c.Cache != cacheMixed {
				c.Cache = cacheStore
			}
			if c.TTL = 0; c.Kind == Clear {
				c.Kind = Delete
			}
			for k := range c.Keys { // three keys, not all of one cache's
				c.Keys[k] = keyName(c.Cache, g.IntN(3))
			}
			slices.Sort(c.Keys)
			c.Keys = slices.Compact(c.Keys)
		}
	}
}
