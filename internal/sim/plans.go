package sim

import (
	"maps"
	"slices"
	"time"
)

// plans are the kinds of scripts, by name. Each adds the steps.
var plans = map[string]func(*generator){
	"bare":   (*generator).planBare,
	"late":   (*generator).planLate,
	"loads":  (*generator).planLoads,
	"calm":   (*generator).planCalm,
	"crash":  (*generator).planCrash,
	"pause":  (*generator).planPause,
	"stop":   (*generator).planStop,
	"deploy": (*generator).planDeploy,
	"storm":  (*generator).planStorm,
	"split":  (*generator).planSplit,
	"links":  (*generator).planLinks,
	"skew":   (*generator).planSkew,
	"wild":   (*generator).planWild,
	"tiny":   (*generator).planTiny,
	"away":   (*generator).planAway,
	"rivals": (*generator).planRivals,

	"deaf":    (*generator).planDeaf,
	"link":    (*generator).planLink,
	"resets":  (*generator).planResets,
	"reborn":  (*generator).planReborn,
	"patient": (*generator).planPatient,
	"clocks":  (*generator).planClocks,
	"large":   (*generator).planLarge,
}

// notYet are the plans that the product does not pass yet, and why. They are
// played only when they are asked for by name.
var notYet = map[string]string{}

// lengthy are the plans that take minutes of virtual time, and so more work than
// others. Fewer seeds choose them.
var lengthy = []string{"away", "deaf"}

// planNames are the plans that seeds choose from.
func planNames() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(plans)), func(name string) bool { return notYet[name] != "" })
}

const (
	shortWait = 50 * time.Millisecond
	longWait  = 1500 * time.Millisecond
)

// planCalm has no faults at all, or a few gossip packets lost.
func (g *generator) planCalm() {
	if g.IntN(2) == 0 {
		g.step(Step{Action: Lose, Count: g.IntN(20)})
	}
	g.step(Step{After: g.between(200*time.Millisecond, 2*time.Second), Action: Wait})
}

// planLoads has slow loads, with deletes and deaths while they are under way.
func (g *generator) planLoads() {
	g.script.Loading = g.between(200*time.Millisecond, time.Second)
	if g.IntN(2) == 0 {
		g.planCrash()
		return
	}
	g.step(Step{After: g.between(time.Second, 3*time.Second), Action: Wait})
}

// planBare has the caches on one node or two, and else is as calm or as crash.
func (g *generator) planBare() {
	g.script.Bare = g.some(g.script.Nodes - 1 - g.IntN(2))
	if g.IntN(2) == 0 {
		g.planCrash()
		return
	}
	g.planCalm()
}

// planLate makes one direction so slow that what is sent there arrives after
// its sender has given up.
func (g *generator) planLate() {
	for range 1 + g.IntN(2) {
		two := g.some(2)
		g.step(Step{After: g.between(shortWait, 500*time.Millisecond), Action: Slow, Node: two[0], Other: two[1],
			Time: g.between(2600*time.Millisecond, 4*time.Second)})
		g.step(Step{After: g.between(time.Second, 3*time.Second), Action: Slow, Node: two[0], Other: two[1]})
	}
	g.step(Step{After: 4 * time.Second, Action: Wait})
}

// planCrash kills nodes one after the other, and starts them again.
func (g *generator) planCrash() {
	for range 1 + g.IntN(2) {
		i := g.IntN(g.script.Nodes)
		how := []Action{Kill, Kill, Vanish, Restart}[g.IntN(4)]
		g.step(Step{After: g.between(shortWait, longWait), Action: how, Node: i})
		if how != Restart {
			g.step(Step{After: g.between(shortWait, 4*time.Second), Action: Start, Node: i})
		}
		g.step(Step{After: g.between(0, 500*time.Millisecond), Action: Whole})
	}
}

// planPause stops nodes one after the other, for less or more than it takes
// until the others give them up.
func (g *generator) planPause() {
	for range 1 + g.IntN(3) {
		i := g.IntN(g.script.Nodes)
		g.step(Step{After: g.between(shortWait, longWait), Action: Pause, Node: i})
		length := g.between(200*time.Millisecond, 4*time.Second)
		if g.IntN(5) == 0 {
			length = g.between(4*time.Second, 40*time.Second)
		}
		g.step(Step{After: length, Action: Resume, Node: i})
		g.step(Step{After: g.between(0, 500*time.Millisecond), Action: Whole})
	}
}

// planStop stops nodes until the others have given them up. Those may be all
// owners of a key, or the others are replaced meanwhile, one by one: then those
// who were stopped go on with a table of members who are gone.
func (g *generator) planStop() {
	s := g.script
	s.Nodes = max(s.Nodes, 4)
	nodes := g.some(s.Nodes)
	count, replaced := 1+g.IntN(s.Nodes-2), 0
	if g.IntN(2) == 0 {
		count = 1 + g.IntN(2)
		replaced = 1 + g.IntN(s.Nodes-count)
	}
	stopped, others := nodes[:count], nodes[count:]
	g.step(Step{After: g.between(shortWait, longWait), Action: Wait})
	for _, i := range stopped {
		g.step(Step{After: g.between(0, shortWait), Action: Pause, Node: i})
	}
	g.step(Step{After: g.between(2*time.Second, 5*time.Second), Action: Wait})
	for _, i := range others[:replaced] {
		g.step(Step{Action: Leave, Nodes: []int{i}})
		g.step(Step{After: g.between(0, time.Second), Action: Join, Nodes: []int{i}})
		g.step(Step{After: g.between(time.Second, 8*time.Second), Action: Wait}) // a start asks those who are stopped as well, for 5 s
	}
	for _, i := range stopped {
		g.step(Step{After: g.between(0, shortWait), Action: Resume, Node: i})
	}
	g.step(Step{After: g.between(0, time.Second), Action: Whole})
}

// planDeploy replaces nodes one by one, each leaving in good order.
func (g *generator) planDeploy() {
	for _, i := range g.some(1 + g.IntN(3)) {
		g.step(Step{After: g.between(shortWait, 500*time.Millisecond), Action: Leave, Nodes: []int{i}})
		g.step(Step{After: g.between(0, 500*time.Millisecond), Action: Join, Nodes: []int{i}})
		if g.IntN(2) == 0 {
			g.step(Step{Action: Whole})
		}
	}
}

// planStorm lets several leave and several join at the same time.
func (g *generator) planStorm() {
	for range 2 {
		n := 1 + g.IntN(max(g.script.Nodes-1, 1))
		nodes := g.some(n)
		g.step(Step{After: g.between(shortWait, 500*time.Millisecond), Action: Leave, Nodes: nodes})
		g.step(Step{After: g.between(0, longWait), Action: Join, Nodes: nodes})
		if g.IntN(2) == 0 {
			g.step(Step{Action: Whole})
		}
	}
}

// planRivals lets all clients change the same key without pause, each from what
// it finds, while its first owner leaves and joins.
func (g *generator) planRivals() {
	s := g.script
	s.Delay, s.Jitter = g.between(0, 5*time.Millisecond), g.between(0, 10*time.Millisecond)
	var length time.Duration
	for range 3 {
		nodes := g.some(1)
		leave, join := g.between(shortWait, 300*time.Millisecond), g.between(200*time.Millisecond, longWait)
		g.step(Step{After: leave, Action: Leave, Nodes: nodes})
		g.step(Step{After: join, Action: Join, Nodes: nodes})
		length += leave + join
	}
	const calls = 200
	for range s.Nodes {
		var client []Call
		for range calls {
			think := time.Duration(g.ExpFloat64() * float64(length/calls)).Round(10 * time.Microsecond)
			kind := []Kind{Get, IfSame, Update, Update}[g.IntN(4)]
			client = append(client, Call{Think: think, Cache: cacheStore, Keys: []string{keyName(cacheStore, g.IntN(2))}, Kind: kind})
		}
		s.Clients = append(s.Clients, client)
	}
}

// planSplit cuts the cluster in two, long enough for each side to go on, and
// perhaps lets a node die meanwhile.
func (g *generator) planSplit() {
	s := g.script
	s.Nodes = max(s.Nodes, 4)
	side := g.some(1 + g.IntN(s.Nodes/2))
	g.step(Step{After: g.between(shortWait, longWait), Action: Split, Nodes: side})
	g.step(Step{After: g.between(shortWait, 6*time.Second), Action: Wait})
	if g.IntN(4) == 0 {
		i := g.IntN(s.Nodes)
		g.step(Step{Action: []Action{Kill, Restart}[g.IntN(2)], Node: i})
		g.step(Step{After: g.between(shortWait, 3*time.Second), Action: Start, Node: i})
	}
	if g.IntN(2) == 0 {
		for _, i := range side {
			for j := range s.Nodes {
				if i != j {
					g.step(Step{Action: Reset, Node: i, Other: j})
				}
			}
		}
	}
	g.step(Step{After: g.between(0, 3*time.Second), Action: Heal})
	g.step(Step{After: g.between(0, time.Second), Action: Wait})
}

// cutWithoutPatience cuts one link to the end, for longer than it is tried to
// bring a write over it. Callers give up before, and make no more calls soon.
func (g *generator) cutWithoutPatience() {
	s := g.script
	s.Nodes, s.Patience = max(s.Nodes, 3), g.between(500*time.Millisecond, time.Second)
	two, at := g.some(2), g.between(shortWait, longWait)
	g.step(Step{After: at, Action: Cut, Node: two[0], Other: two[1]})
	g.step(Step{After: g.between(5*time.Second, 7*time.Second), Action: Wait})
	g.clients(at + time.Second)
}

// planLinks cuts links in one direction or both, slows them down, and breaks
// connections. Nobody dies.
func (g *generator) planLinks() {
	if g.IntN(3) == 0 {
		g.cutWithoutPatience()
		return
	}
	for range 2 + g.IntN(4) {
		two := g.some(2)
		s := Step{After: g.between(shortWait, longWait), Node: two[0], Other: two[1]}
		switch g.IntN(5) {
		case 0:
			s.Action = Cut
		case 1:
			s.Action = CutOneWay
		case 2:
			s.Action = Reset
		case 3:
			s.Action, s.Time = Slow, g.between(10*time.Millisecond, 200*time.Millisecond)
		case 4:
			s.Action, s.Count = Lose, g.IntN(40)
		}
		g.step(s)
		if s.Action == Cut || s.Action == CutOneWay {
			g.step(Step{After: g.between(shortWait, 5*time.Second), Action: Heal})
		}
	}
}

// planSkew sets clocks, a little and too far.
func (g *generator) planSkew() {
	for i := range g.script.Nodes {
		if g.IntN(2) == 0 {
			g.step(Step{Action: Skew, Node: i, Time: g.between(-200*time.Millisecond, 200*time.Millisecond)})
		}
	}
	i := g.IntN(g.script.Nodes)
	if g.IntN(2) == 0 {
		g.step(Step{After: g.between(shortWait, longWait), Action: Skew, Node: i, Time: g.between(-3*time.Second, 3*time.Second)})
		g.step(Step{After: g.between(shortWait, 3*time.Second), Action: Skew, Node: i})
		g.step(Step{Action: Whole})
	}
	g.planCrash()
}

// planWild has everything at once.
func (g *generator) planWild() {
	n := g.script.Nodes
	for range 4 + g.IntN(5) {
		two := g.some(2)
		s := Step{After: time.Duration(g.ExpFloat64() * float64(600*time.Millisecond)).Round(time.Millisecond), Node: two[0], Other: two[1]}
		s.Action = []Action{Kill, Vanish, Start, Start, Restart, Pause, Resume, Resume, Join, Leave, Cut, CutOneWay, Split, Heal, Heal,
			Reset, Slow, Lose}[g.IntN(18)]
		switch s.Action {
		case Join:
			s.Nodes = g.some(n)
		case Leave, Split:
			s.Nodes = g.some(1 + g.IntN(n-1))
		case Slow:
			s.Time = g.between(0, 100*time.Millisecond)
		case Lose:
			s.Count = g.IntN(50)
		}
		g.step(s)
	}
}

// planTiny has so little memory that all is evicted again and again.
func (g *generator) planTiny() {
	g.script.Pieces = 64 << 10
	g.script.Size = 2000 + g.IntN(8000)
	switch g.IntN(4) {
	case 0:
		g.planCrash()
	case 1:
		g.planPause()
	case 2:
		g.planDeploy()
	default:
		g.planCalm()
	}
}

// planAway keeps a node, or a side, away for longer than a deleted key is
// remembered.
func (g *generator) planAway() {
	i := g.IntN(g.script.Nodes)
	away := g.between(5*time.Minute, 7*time.Minute)
	g.clients(4 * time.Second)
	for c := range g.script.Clients {
		// Most of the calls before and while it is away, the rest when it is
		// back.
		calls := g.script.Clients[c]
		calls[len(calls)*3/4].Think = away - 2*time.Second
	}
	g.step(Step{After: time.Second, Action: Wait})
	if g.IntN(2) == 0 {
		g.step(Step{Action: Pause, Node: i})
		g.step(Step{After: away, Action: Resume, Node: i})
	} else {
		g.step(Step{Action: Split, Nodes: []int{i}})
		g.step(Step{After: away, Action: Heal})
	}
	g.step(Step{After: 4 * time.Second, Action: Wait})
}
