package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fate is what happens to what goes one way between two addresses.
type fate int

const (
	pass   fate = iota
	refuse      // the sender is told that nobody is there
	drop        // nobody is told anything
)

// network joins the members of a test, within a bubble.
type network struct {
	t       *testing.T
	mu      sync.Mutex
	at      map[string]*peer   // by address
	fates   map[[2]string]fate // from, to
	silent  map[string]bool    // by address: nothing in, nothing out
	lossOne map[[2]string]int  // drop so many packets
	skew    map[string]time.Duration
	loss    float64        // of all packets, dropped at random
	sent    int            // packets
	opened  map[string]int // streams, by address
	last    int
}

// peer is a member of a test.
type peer struct {
	net  *network
	name string
	addr string
	*Gossip

	mu      sync.Mutex
	extra   string // rest of the metadata
	changed int
	offsets map[string]time.Duration
}

var errRefusedConn = errors.New("connection refused")

func newNetwork(t *testing.T) *network {
	return &network{
		t: t, at: make(map[string]*peer), fates: make(map[[2]string]fate), silent: make(map[string]bool),
		lossOne: make(map[[2]string]int), skew: make(map[string]time.Duration), opened: make(map[string]int),
	}
}

// add starts a member, which nobody knows.
func (n *network) add(mutate ...func(*Config)) *peer {
	n.mu.Lock()
	n.last++
	p := &peer{
		net: n, name: fmt.Sprintf("%016x", n.last), addr: fmt.Sprintf("node-%d.test:7600", n.last),
		offsets: make(map[string]time.Duration),
	}
	n.mu.Unlock()
	cfg := Config{
		Name:   p.name,
		Meta:   func() []byte { p.mu.Lock(); defer p.mu.Unlock(); return []byte(p.addr + "|" + p.extra) },
		AddrOf: addrOf,
		Link:   p,
		Changed: func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed++
		},
		Now: func() time.Time {
			n.mu.Lock()
			defer n.mu.Unlock()
			return time.Now().Add(n.skew[p.addr])
		},
		Offset: func(name string, offset, rtt time.Duration) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.offsets[name] = offset
		},
	}
	for _, f := range mutate {
		f(&cfg)
	}
	g, err := Start(cfg)
	require.NoError(n.t, err)
	p.Gossip = g
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at[p.addr] = p
	n.t.Cleanup(func() {
		start := time.Now()
		p.Close()
		require.Zero(n.t, time.Since(start), "Close waits for nothing")
		require.Zero(n.t, p.Stats().Refused, "what memberlist sends is what check lets pass")
	})
	return p
}

func addrOf(meta []byte) (string, bool) {
	addr, _, ok := bytes.Cut(meta, []byte("|"))
	return string(addr), ok
}

// cluster starts count members that know each other.
func (n *network) cluster(count int, mutate ...func(*Config)) []*peer {
	n.t.Helper()
	var all []*peer
	for i := range count {
		p := n.add(mutate...)
		if i > 0 {
			require.NoError(n.t, p.Join(n.t.Context(), all[rand.IntN(i)].addr))
		}
		all = append(all, p)
	}
	n.agree(5*time.Second, all)
	return all
}

// agree waits until all list exactly all, and returns how long that took.
func (n *network) agree(within time.Duration, all []*peer) time.Duration {
	n.t.Helper()
	want := names(all)
	return n.eventually(within, func() bool {
		for _, p := range all {
			if !slices.Equal(p.list(), want) {
				return false
			}
		}
		return true
	}, func() string {
		var b strings.Builder
		for _, p := range all {
			fmt.Fprintf(&b, "%s: %v\n", p.name, p.list())
		}
		return b.String()
	})
}

// eventually waits until cond holds, and returns how long that took.
func (n *network) eventually(within time.Duration, cond func() bool, say ...func() string) time.Duration {
	n.t.Helper()
	start := time.Now()
	for !cond() {
		if time.Since(start) >= within {
			why := ""
			for _, f := range say {
				why += f()
			}
			n.t.Fatalf("not within %v\n%s", within, why)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// holds checks for a time that all list exactly all.
func (n *network) holds(during time.Duration, all []*peer) {
	n.t.Helper()
	want := names(all)
	for start := time.Now(); time.Since(start) < during; time.Sleep(10 * time.Millisecond) {
		for _, p := range all {
			require.Equal(n.t, want, p.list(), "list of %s after %v", p.name, time.Since(start))
		}
	}
}

// kill ends a member; its address refuses connections.
func (n *network) kill(p *peer) {
	n.mu.Lock()
	delete(n.at, p.addr)
	n.mu.Unlock()
	p.Close()
}

// silence lets nothing in or out of a member any more, or again.
func (n *network) silence(p *peer, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[p.addr] = silent
}

// split sets what happens between members of two sides, both ways.
func (n *network) split(a, b []*peer, f fate) {
	for _, x := range a {
		for _, y := range b {
			n.cut(x, y, f)
			n.cut(y, x, f)
		}
	}
}

// cut sets what happens one way.
func (n *network) cut(from, to *peer, f fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fates[[2]string{from.addr, to.addr}] = f
}

// route returns who is at an address and what happens on the way.
func (n *network) route(from *peer, to Peer) (*peer, fate) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.Addr == "" {
		for addr, p := range n.at {
			if p.name == to.Name {
				to.Addr = addr
			}
		}
	}
	if n.silent[from.addr] || n.silent[to.Addr] {
		return nil, drop
	}
	way := [2]string{from.addr, to.Addr}
	target := n.at[to.Addr]
	if target == nil || to.Name != "" && target.name != to.Name {
		return nil, refuse
	}
	if n.lossOne[way] > 0 {
		n.lossOne[way]--
		return nil, drop
	}
	return target, n.fates[way]
}

func latency() time.Duration { return 100*time.Microsecond + rand.N(900*time.Microsecond) }

// Send is Link's.
func (p *peer) Send(to Peer, packet []byte) error {
	target, f := p.net.route(p, to)
	switch f {
	case refuse:
		return errRefusedConn
	case drop:
		return nil
	}
	p.net.mu.Lock()
	p.net.sent++
	lost := rand.Float64() < p.net.loss
	p.net.mu.Unlock()
	if lost {
		return nil
	}
	time.AfterFunc(latency(), func() {
		if _, f := p.net.route(p, to); f == pass {
			target.Packet(Peer{Name: p.name, Addr: p.addr}, packet)
		}
	})
	return nil
}

// Open is Link's.
func (p *peer) Open(ctx context.Context, to Peer) (net.Conn, error) {
	p.net.mu.Lock()
	p.net.opened[to.Addr]++
	p.net.mu.Unlock()
	target, f := p.net.route(p, to)
	if f == pass {
		if _, back := p.net.route(target, Peer{Addr: p.addr}); back == drop {
			f = drop
		}
	}
	switch f {
	case refuse:
		return nil, errRefusedConn
	case drop:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(latency()):
	case <-ctx.Done(): // Close waits for nothing
		return nil, ctx.Err()
	}
	a, b := net.Pipe()
	target.Stream(b)
	return a, nil
}

func (p *peer) list() []string {
	var l []string
	for _, m := range p.Members() {
		l = append(l, m.Name)
	}
	return l
}

func names(all []*peer) []string {
	var l []string
	for _, p := range all {
		l = append(l, p.name)
	}
	slices.Sort(l)
	return l
}

// without returns all but some.
func without(all []*peer, some ...*peer) []*peer {
	return slices.DeleteFunc(slices.Clone(all), func(p *peer) bool { return slices.Contains(some, p) })
}
