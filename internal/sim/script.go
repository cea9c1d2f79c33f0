package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Action is what happens to nodes and links.
type Action string

// The actions. Those that are about one node take it from Step.Node; Join
// starts and Leave ends several at once.
const (
	Kill      Action = "kill"       // as kill -9
	Vanish    Action = "vanish"     // as a power loss
	Start     Action = "start"      // again, if it is not running
	Restart   Action = "restart"    // kill and start at once
	Pause     Action = "pause"      // with its clock
	Resume    Action = "resume"     //
	Join      Action = "join"       // several at once
	Leave     Action = "leave"      // several at once, in good order
	Cut       Action = "cut"        // between Node and Other
	CutOneWay Action = "cut-oneway" // from Node to Other
	Split     Action = "split"      // Nodes from all others
	Resets    Action = "resets"     // what the link between Node and Other answers, until all cuts are healed
	Heal      Action = "heal"       // all cuts
	Reset     Action = "reset"      // the connections between Node and Other
	Slow      Action = "slow"       // from Node to Other, by Time
	Skew      Action = "skew"       // Node's clock, by Time
	Lose      Action = "lose"       // so many of 100 packets of gossip
	Whole     Action = "whole"      // wait until all agree, at most for Time, or half a minute
	Wait      Action = "wait"       // nothing
)

// A Step is something that happens some time after the step before.
type Step struct {
	After  time.Duration
	Action Action
	Node   int
	Other  int
	Nodes  []int
	Time   time.Duration
	Count  int
}

// String returns the step as it is printed.
func (s Step) String() string {
	b := fmt.Sprintf("+%v %s", s.After, s.Action)
	switch s.Action {
	case Join, Leave, Split:
		return fmt.Sprint(b, " ", s.Nodes)
	case Heal, Wait:
		return b
	case Whole:
		if s.Time > 0 {
			return fmt.Sprint(b, " within ", s.Time)
		}
		return b
	case Lose:
		return fmt.Sprint(b, " ", s.Count, "%")
	case Cut, CutOneWay, Resets, Reset:
		return fmt.Sprint(b, " ", s.Node, " ", s.Other)
	case Slow:
		return fmt.Sprint(b, " ", s.Node, " ", s.Other, " ", s.Time)
	case Skew:
		return fmt.Sprint(b, " ", s.Node, " ", s.Time)
	}
	return fmt.Sprint(b, " ", s.Node)
}

// A Call is one thing that a client does, some time after it did the one
// before.
type Call struct {
	Think time.Duration
	Kind  Kind
	Cache string
	Keys  []string
	TTL   time.Duration
}

// A Script is what happens in one world.
type Script struct {
	Seed     uint64
	Plan     string
	Nodes    int
	Copies   int
	Delay    time.Duration // of every link
	Jitter   time.Duration // added to it, up to that
	Pieces   int64         // MaxBytes of each node; 0: plenty
	Size     int           // bytes of each value
	Loading  time.Duration // that a load takes at most
	Patience time.Duration // that callers have with a write; 0: as with other calls
	Endless  bool          // calls have no deadline, and are judged by how long they take
	Timeout  time.Duration // of the heartbeat; 0: the default
	Rate     int           // bytes a second over each link; 0: no bound
	Large    bool          // values are of Size or less, and there is memory for them
	Unlisted []int         // nodes that the others have not in their Join lists
	Bare     []int         // nodes on which no cache is made, and so no call
	Steps    []Step
	Clients  [][]Call // client i is on node i modulo Nodes
}

// The caches. Keys of cacheMixed and cacheLoads are asked for with a loader,
// those of cacheLoads are never written.
const (
	cacheStore = "store"
	cacheMixed = "mixed"
	cacheLoads = "loads"
)

// cacheBrief is for values that expire.
const cacheBrief = "brief"

var cacheNames = []string{cacheStore, cacheMixed, cacheLoads, cacheBrief}

// keyName names a key of a cache by its number. Keys 0 and 1 share a shard: what
// happens to one of them is told and mended together with the other.
func keyName(cache string, number int) string {
	if number == 0 {
		number = partners()[cache]
	}
	return fmt.Sprint("k", number)
}

// partners are, by cache, the least numbers of keys in the shard of its k1.
var partners = sync.OnceValue(func() map[string]int {
	numbers := make(map[string]int)
	for _, cache := range cacheNames {
		number := 10 // keys with fewer digits have their own shards
		for shardOf(cache, fmt.Sprint("k", number)) != shardOf(cache, "k1") {
			number++
		}
		numbers[cache] = number
	}
	return numbers
})

// String returns the script as it is printed: all but what the clients do.
func (s *Script) String() string {
	var b strings.Builder
	calls := 0
	for _, c := range s.Clients {
		calls += len(c)
	}
	fmt.Fprintf(&b, "seed %d: %s, %d nodes, %d copies, delay %v to %v, %d clients with %d calls", s.Seed, s.Plan, s.Nodes, s.Copies,
		s.Delay, s.Delay+s.Jitter, len(s.Clients), calls)
	if s.Patience > 0 {
		fmt.Fprintf(&b, ", writes given up after %v", s.Patience)
	}
	if s.Endless {
		b.WriteString(", calls without a deadline")
	}
	if s.Timeout > 0 {
		fmt.Fprintf(&b, ", a heartbeat of %v", s.Timeout)
	}
	if s.Large {
		fmt.Fprintf(&b, ", values up to %d bytes", s.Size)
		if s.Rate > 0 {
			fmt.Fprintf(&b, " at %d bytes a second", s.Rate)
		}
	}
	if len(s.Unlisted) > 0 {
		fmt.Fprintf(&b, ", no other lists %v", s.Unlisted)
	}
	if len(s.Bare) > 0 {
		fmt.Fprintf(&b, ", none on nodes %v", s.Bare)
	}
	if s.Pieces > 0 {
		fmt.Fprintf(&b, ", %d KiB each, values of %d", s.Pieces>>10, s.Size)
	}
	for _, step := range s.Steps {
		fmt.Fprintf(&b, "\n    %v", step)
	}
	return b.String()
}

// generator makes scripts.
type generator struct {
	*rand.Rand
	script *Script
}

// NewScript returns the script of a seed.
func NewScript(seed uint64) *Script {
	names, random := planNames(), rand.New(rand.NewPCG(seed, 0x91a2))
	for {
		plan := names[random.IntN(len(names))]
		if !slices.Contains(lengthy, plan) || random.IntN(4) == 0 {
			return NewScriptOf(seed, plan)
		}
	}
}

// NewScriptOf returns the script of a seed for one plan.
func NewScriptOf(seed uint64, plan string) *Script {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x5eed)), script: new(Script)}
	g.Uint64()
	return g.make(seed, plan)
}

func (g *generator) make(seed uint64, plan string) *Script {
	s := g.script
	*s = Script{Seed: seed, Plan: plan, Nodes: 3 + g.IntN(2), Copies: 2}
	switch g.IntN(10) {
	case 0:
		s.Nodes = 5 + g.IntN(3)
	case 1, 2:
		s.Nodes, s.Copies = 4+g.IntN(2), 3
	}
	s.Delay = []time.Duration{0, 0, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond}[g.IntN(5)]
	if g.IntN(3) > 0 {
		s.Jitter = []time.Duration{300 * time.Microsecond, 2 * time.Millisecond, 10 * time.Millisecond}[g.IntN(3)]
	}
	s.Loading = []time.Duration{0, 5 * time.Millisecond, 50 * time.Millisecond, 300 * time.Millisecond}[g.IntN(4)]
	plans[plan](g)
	if s.Clients == nil {
		g.clients(max(s.length(), 500*time.Millisecond))
	}
	return s
}

// length is how long the steps take, without what they wait for.
func (s *Script) length() time.Duration {
	length := time.Duration(0)
	for _, step := range s.Steps {
		length += step.After
	}
	return length
}

// timeout is the heartbeat's.
func (s *Script) timeout() time.Duration {
	if s.Timeout > 0 {
		return s.Timeout
	}
	return 2 * time.Second
}

func (g *generator) between(low, high time.Duration) time.Duration {
	return (low + time.Duration(g.Int64N(int64(high-low)+1))).Round(100 * time.Microsecond)
}

func (g *generator) step(s Step) { g.script.Steps = append(g.script.Steps, s) }

// some returns count nodes, in random order.
func (g *generator) some(count int) []int { return g.Perm(g.script.Nodes)[:count] }

// clients makes calls for about length.
func (g *generator) clients(length time.Duration) { g.clientsWith(length, 60) }

// clientsWith makes about so many calls of each client.
func (g *generator) clientsWith(length time.Duration, calls int) {
	s := g.script
	count := s.Nodes + g.IntN(2)
	for range count {
		pace := length / time.Duration(calls)
		var client []Call
		for at := time.Duration(0); at < length && len(client) < 2*calls; {
			think := time.Duration(g.ExpFloat64() * float64(pace)).Round(10 * time.Microsecond)
			if g.IntN(3) == 0 {
				think /= 20 // bursts
			}
			at += think
			client = append(client, g.call(think))
		}
		s.Clients = append(s.Clients, client)
	}
}

// call makes one call.
func (g *generator) call(think time.Duration) Call {
	c := Call{Think: think, Cache: cacheStore}
	keys := 4
	switch g.IntN(12) {
	case 0, 1, 2, 3:
		c.Cache = cacheMixed
	case 4, 5:
		c.Cache, keys = cacheLoads, 6
	case 6:
		c.Cache, keys = cacheBrief, 2
	}
	c.Keys = []string{keyName(c.Cache, g.IntN(keys))}
	some := func() []string {
		all := g.Perm(keys)[:2+g.IntN(keys-1)]
		slices.Sort(all)
		var names []string
		for _, i := range all {
			names = append(names, keyName(c.Cache, i))
		}
		return names
	}
	pick := g.IntN(100)
	if c.Cache == cacheLoads {
		if c.Kind = Get; pick < 10 {
			c.Kind, c.Keys = GetMany, some()
		}
		return c
	}
	if c.Cache == cacheBrief {
		switch c.Kind = Get; {
		case pick < 30:
			c.Kind, c.TTL = Set, []time.Duration{100 * time.Millisecond, 700 * time.Millisecond, 3 * time.Second}[g.IntN(3)]
		case pick < 35:
			c.Kind = Delete
		}
		return c
	}
	switch {
	case pick < 36:
		c.Kind = Get
	case pick < 41:
		c.Kind = Lookup
	case pick < 45:
		c.Kind, c.Keys = GetMany, some()
	case pick < 67:
		c.Kind = Set
	case pick < 69:
		c.Kind, c.Keys = SetMany, some()
	case pick < 82:
		c.Kind = Delete
	case pick < 90:
		c.Kind = Update
	case pick < 94:
		c.Kind = IfAbsent
	case pick < 99:
		c.Kind = IfSame
	default:
		if c.Kind = Get; g.IntN(4) == 0 {
			c.Kind = Clear
			c.Keys = nil
			for i := range keys {
				c.Keys = append(c.Keys, keyName(c.Cache, i))
			}
		}
	}
	return c
}
