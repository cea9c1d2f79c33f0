package peercachetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/memnet"
)

// Network is a network in memory; see its methods for the faults it can have.
type Network = memnet.Network

// Host is one machine of a [Network], with a clock of its own.
type Host = memnet.Host

// NewNetwork returns a network without faults. Call it inside the bubble in
// which it is used.
func NewNetwork() *Network { return memnet.New() }

// Port is what the nodes of a [Cluster] listen on.
const Port = "7600"

const (
	agreeTime = time.Minute           // virtual time in which a cluster must agree
	agreeStep = 10 * time.Millisecond // between two looks
)

// A Cluster is some nodes on a network in memory. Its methods are for one
// goroutine, the test's.
type Cluster struct {
	// Network connects the nodes. Node i is host Addr(i).
	Network *Network
	// Nodes are the nodes by number. One that was killed or shut down stays
	// here until Start replaces it.
	Nodes []*peercache.Node

	t       testing.TB
	mutate  []func(i int, c *peercache.Config)
	running []bool
}

// NewCluster starts n nodes inside a [testing/synctest] bubble, one after the
// other, waits until they agree on their tables, and closes them when the test
// ends. Each mutate is called with the number and the configuration of every
// node before it starts, those that are started later included. n may be 0.
func NewCluster(t testing.TB, n int, mutate ...func(i int, c *peercache.Config)) *Cluster {
	t.Helper()
	c := &Cluster{Network: NewNetwork(), t: t, mutate: mutate}
	t.Cleanup(c.close)
	// All are in everybody's Join, those that are not started yet included.
	c.Nodes = make([]*peercache.Node, n)
	c.running = make([]bool, n)
	for i := range n {
		c.Start(i)
	}
	c.WaitAgree()
	return c
}

// Host returns the name of node i's host, for the methods of [Network].
func (c *Cluster) Host(i int) string {
	return fmt.Sprintf("10.0.%d.%d", (i+1)/250, (i+1)%250)
}

// Addr returns the address that node i listens on.
func (c *Cluster) Addr(i int) string { return c.Host(i) + ":" + Port }

// Start starts node i, which must not be running: again, or for the first
// time where i is len(Nodes). It does not wait until the others know it.
func (c *Cluster) Start(i int) *peercache.Node {
	c.t.Helper()
	c.StartTogether(i)
	return c.Nodes[i]
}

// StartTogether is [Cluster.Start] for several nodes at the same moment, as
// after a power cut: each has the others among its seeds and none is there
// first.
func (c *Cluster) StartTogether(numbers ...int) {
	c.t.Helper()
	for _, i := range numbers {
		for len(c.Nodes) <= i {
			c.Nodes = append(c.Nodes, nil)
			c.running = append(c.running, false)
		}
	}
	configs := make([]peercache.Config, len(numbers))
	for k, i := range numbers {
		configs[k] = c.config(i)
	}
	errs := make([]error, len(numbers))
	var starts sync.WaitGroup
	for k, i := range numbers {
		starts.Go(func() { c.Nodes[i], errs[k] = peercache.Start(context.Background(), configs[k]) })
	}
	starts.Wait()
	for k, i := range numbers {
		if errs[k] != nil {
			c.t.Fatalf("peercachetest: node %d: %v", i, errs[k])
		}
		c.running[i] = true
	}
}

// config opens the listener of node i, which must not be running, and returns
// the configuration for it.
func (c *Cluster) config(i int) peercache.Config {
	c.t.Helper()
	host := c.Network.Host(c.Host(i))
	host.Restart()
	listener, err := host.Listen(c.Addr(i))
	if err != nil {
		c.t.Fatalf("peercachetest: node %d: %v", i, err)
	}
	config := peercache.Config{
		Name:        fmt.Sprintf("node-%d", i),
		Listener:    listener,
		Join:        c.addrs(),
		DialContext: host.DialContext,
	}
	for _, f := range c.mutate {
		f(i, &config)
	}
	return config
}

// Restart is Kill and at once Start: a process that crashed and was started
// again under its old name and address.
func (c *Cluster) Restart(i int) *peercache.Node {
	c.t.Helper()
	c.Kill(i)
	return c.Start(i)
}

// StartClient starts a node that uses the cluster and is no part of it. It is
// closed with the test.
func (c *Cluster) StartClient(mutate ...func(*peercache.Config)) *peercache.Node {
	c.t.Helper()
	config := peercache.Config{
		Name:        "client",
		Client:      true,
		Join:        c.addrs(),
		DialContext: c.Network.Host("10.255.0.1").DialContext,
	}
	for _, f := range mutate {
		f(&config)
	}
	n, err := peercache.Start(context.Background(), config)
	if err != nil {
		c.t.Fatalf("peercachetest: client: %v", err)
	}
	c.t.Cleanup(func() { n.Close() })
	return n
}

func (c *Cluster) addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i := range addrs {
		addrs[i] = c.Addr(i)
	}
	return addrs
}

// Hosts returns the names of the hosts of some nodes, for [Network.Partition]:
//
//	c.Network.Partition(c.Hosts(0, 1), c.Hosts(2, 3, 4))
//	...
//	c.Network.HealAll()
func (c *Cluster) Hosts(numbers ...int) []string {
	hosts := make([]string, len(numbers))
	for k, i := range numbers {
		hosts[k] = c.Host(i)
	}
	return hosts
}

// Running returns the nodes that were started and neither killed nor shut
// down since.
func (c *Cluster) Running() []*peercache.Node {
	var running []*peercache.Node
	for i, n := range c.Nodes {
		if c.running[i] {
			running = append(running, n)
		}
	}
	return running
}

// IsRunning reports whether node i was started and neither killed nor shut
// down since.
func (c *Cluster) IsRunning(i int) bool { return c.running[i] }

// Kill ends node i as kill -9 would: its connections break, and dials to it
// are refused.
func (c *Cluster) Kill(i int) {
	c.Network.Host(c.Host(i)).Crash()
	c.running[i] = false
	c.Nodes[i].Close()
}

// Vanish ends node i as a power loss would: its connections stall, and dials
// to it hang until it is started again.
func (c *Cluster) Vanish(i int) {
	c.Network.Host(c.Host(i)).Vanish()
	c.running[i] = false
	c.Nodes[i].Close()
}

// Shutdown lets node i leave the cluster.
func (c *Cluster) Shutdown(i int) {
	c.t.Helper()
	c.running[i] = false
	if err := c.Nodes[i].Shutdown(context.Background()); err != nil {
		c.t.Errorf("peercachetest: shutdown of node %d: %v", i, err)
	}
}

// Pause stops node i and its clock, as SIGSTOP would: what it wrote before is
// on its way, what is sent to it waits in buffers.
func (c *Cluster) Pause(i int) { c.Network.Host(c.Host(i)).Pause() }

// Resume lets node i go on; its clock jumps to the present.
func (c *Cluster) Resume(i int) { c.Network.Host(c.Host(i)).Resume() }

// WaitAgree waits until all running nodes are ready and have the same table
// over exactly the running nodes, and returns how long that took. It fails the
// test if they do not within a minute of virtual time.
func (c *Cluster) WaitAgree() time.Duration {
	c.t.Helper()
	return c.WaitAgreeAmong(c.Running()...)
}

// WaitAgreeAmong is [Cluster.WaitAgree] for one side of a split: it waits
// until these nodes, and no others, are what each of them sees.
func (c *Cluster) WaitAgreeAmong(nodes ...*peercache.Node) time.Duration {
	c.t.Helper()
	took, ok := wait(agreeTime, func() bool { return agree(nodes) })
	if !ok {
		c.t.Fatalf("peercachetest: nodes do not agree:\n%s", describe(nodes))
	}
	return took
}

// WaitFor waits until cond holds, which is looked at again and again, and
// returns how long that took. It fails the test, naming what was waited for,
// if cond does not hold within that much virtual time.
func (c *Cluster) WaitFor(what string, within time.Duration, cond func() bool) time.Duration {
	c.t.Helper()
	took, ok := wait(within, cond)
	if !ok {
		c.t.Fatalf("peercachetest: not within %v: %s\n%s", within, what, describe(c.Running()))
	}
	return took
}

// wait looks at cond at once, then after each step, the last time when the
// time is over.
func wait(most time.Duration, cond func() bool) (took time.Duration, ok bool) {
	for began := time.Now(); ; {
		synctest.Wait() // what happens at this instant has happened
		took = time.Since(began)
		if cond() {
			return took, true
		}
		if took >= most {
			return took, false
		}
		time.Sleep(min(agreeStep, most-took))
	}
}

// agree reports whether the nodes are ready and see each other and nobody
// else, with equal tables.
func agree(nodes []*peercache.Node) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	var digest uint64
	for i, n := range nodes {
		if n.WaitReady(ended) != nil || !sees(n, nodes) {
			return false
		}
		stats := n.Stats()
		if i == 0 {
			digest = stats.TableDigest
		} else if stats.TableDigest != digest {
			return false
		}
	}
	return true
}

// sees reports whether the members that n sees are these nodes.
func sees(n *peercache.Node, nodes []*peercache.Node) bool {
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
	return true
}

func describe(nodes []*peercache.Node) string {
	var b strings.Builder
	for _, n := range nodes {
		stats := n.Stats()
		fmt.Fprintf(&b, "%s: %s, table %016x:", n.Self().Name, n.Self().State, stats.TableDigest)
		for _, m := range n.Members() {
			fmt.Fprintf(&b, " %s=%s", m.Name, m.State)
		}
		for _, s := range stats.Seeds {
			if s.Err != nil {
				fmt.Fprintf(&b, "\n    seed %s: %v", s.Addr, s.Err)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (c *Cluster) close() {
	for i := range c.Nodes {
		c.Network.Host(c.Host(i)).Resume()
	}
	for _, n := range c.Nodes {
		if n != nil {
			n.Close()
		}
	}
	c.Network.Close()
}
