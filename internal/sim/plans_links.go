package sim

import "time"

// endless makes the callers' patience endless, and judges how long their calls
// take.
func (g *generator) endless() { g.script.Endless = true }

// planDeaf splits the cluster several times, briefly and for long, always along
// the same line. After a long split the connections between the sides wait for
// TCP's next retransmission.
func (g *generator) planDeaf() {
	s := g.script
	s.Nodes, s.Copies = 4+g.IntN(3), 2
	side := g.some(2 + g.IntN(s.Nodes-3))
	lengths := []time.Duration{5 * time.Second, g.between(20*time.Second, 70*time.Second), g.between(2*time.Second, 8*time.Second),
		g.between(3*time.Second, 40*time.Second)}
	for _, length := range lengths[g.IntN(2):] {
		g.step(Step{After: g.between(0, 3*time.Second), Action: Split, Nodes: side})
		g.step(Step{After: length, Action: Heal})
		g.step(Step{After: g.between(0, 2*time.Second), Action: Whole})
		if g.IntN(2) == 0 {
			g.step(Step{After: g.between(6*time.Second, 12*time.Second), Action: Wait})
		}
	}
	g.clientsWith(s.length(), 60+g.IntN(120))
}

// planLink cuts links, one way or both, so that every member is still reached
// through others: one link; those between two sides but for one member, the
// bridge; those of a ring. Callers wait without a deadline.
func (g *generator) planLink() {
	g.connected(func(one, other int) {
		switch g.IntN(3) {
		case 0:
			g.step(Step{Action: Cut, Node: one, Other: other})
		case 1:
			g.step(Step{Action: CutOneWay, Node: one, Other: other})
		case 2:
			g.step(Step{Action: CutOneWay, Node: other, Other: one})
		}
	})
}

// planResets lets a link, or several, answer with resets for a while. The
// processes at its ends live, and others reach them.
func (g *generator) planResets() {
	g.connected(func(one, other int) { g.step(Step{Action: Resets, Node: one, Other: other}) })
}

// connected does something to some links, once or twice, and ends it again.
func (g *generator) connected(fault func(one, other int)) {
	s := g.script
	g.endless()
	s.Loading = min(s.Loading, 50*time.Millisecond)
	for range 1 + g.IntN(2) {
		g.step(Step{After: g.between(shortWait, longWait), Action: Wait})
		nodes := g.some(s.Nodes)
		switch g.IntN(5) {
		default:
			fault(nodes[0], nodes[1])
		case 0:
			bridge, rest := nodes[0], nodes[1:]
			for i, one := range rest {
				for j, other := range rest[:i] {
					if i%2 != j%2 && one != bridge {
						fault(one, other)
					}
				}
			}
		case 1:
			s.Nodes = min(s.Nodes, 5) // requests go through few others
			nodes = g.some(s.Nodes)
			for i, one := range nodes {
				for j, other := range nodes[:i] {
					if i-j != 1 && i-j != len(nodes)-1 {
						fault(one, other)
					}
				}
			}
		}
		length := g.between(time.Second, 12*time.Second)
		if g.IntN(6) == 0 {
			length = g.between(12*time.Second, 40*time.Second)
		}
		g.step(Step{After: length, Action: Heal})
		g.step(Step{After: g.between(0, time.Second), Action: Whole})
	}
	g.clientsWith(s.length(), 80+g.IntN(80))
}
