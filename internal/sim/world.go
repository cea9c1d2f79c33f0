package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/memnet"
)

const (
	port       = "7600"
	probeHost  = "10.9.9.9"
	watchEvery = 25 * time.Millisecond
	startTime  = time.Minute      // in which the nodes must agree for the first time
	wholeTime  = 30 * time.Second // and again, after all is healed
	leaveTime  = 30 * time.Second // of one Shutdown
	settleTime = 2500 * time.Millisecond
	callTime   = 10 * time.Second // of one call of a client
	largeTime  = time.Minute      // that, for large values

	endlessTime = 2 * time.Minute // of a call without a deadline
)

// A Result is what came of a script.
type Result struct {
	Script     *Script
	History    *History
	Violations []Violation // found while the world ran
	Trace      []string    // what happened to nodes, links and members
	ancestors  map[int]map[int]bool
	disturbed  []time.Duration // when members came, went or stood still, and when all agreed again
	cut        []time.Duration // when links were cut or healed
}

// A Violation is a promise that was not kept.
type Violation struct {
	Kind string
	Text string
	Key  [2]string // cache and key; "" where it is about none
}

// A member is one node and what the world knows of it.
type member struct {
	number int
	host   *memnet.Host

	// World.mu guards all below.
	node     *peercache.Node
	caches   map[string]*peercache.Cache[string]
	running  bool
	starting bool
	leaving  bool
	touched  time.Duration // when it started, stood still or got another clock last
	again    bool          // it is to start when it has left
	fresh    bool          // it has started, and not agreed with the others since
	paused   bool
	skewed   bool // its clock is so far off that it stays out of the tables
	out      bool // killed, paused or cut off since all agreed last
	domain   int
	last     int // its last domain that was one; or that of the others, since they went on without it
	back     int // that, while it goes on after a pause and has none again yet
	flux     int
}

// A World is a cluster under a script.
type World struct {
	script  *Script
	net     *memnet.Network
	packets *packets
	began   time.Time
	history *History

	background sync.WaitGroup // starts and shutdowns under way

	mu         sync.Mutex
	members    []*member
	cuts       map[[2]int]bool          // from, to
	slowed     map[[2]int]time.Duration // links that seem silent at one end, from, to: until when, after World.began
	changed    chan struct{}            // closed when a member's state changes
	seq        int64
	losses     int
	weak       bool
	slow       bool
	relinked   map[[2]int]time.Duration // when links were last cut or healed, by the lesser number first
	frames     int64                    // of requests, that were sent until the watcher looked last
	lastSlow   time.Duration            // the longest delay of a slow link
	unsettled  bool
	loads      int
	domains    int
	ancestors  map[int]map[int]bool
	random     *rand.Rand
	violations []Violation
	trace      []string
	disturbed  []time.Duration
	cutAt      []time.Duration
	stopped    bool // clients make no more calls
}

// Run plays a script. It must be called in a bubble of [testing/synctest].
func Run(script *Script) *Result {
	w := &World{
		script:    script,
		net:       memnet.New(),
		began:     time.Now(),
		history:   new(History),
		cuts:      make(map[[2]int]bool),
		slowed:    make(map[[2]int]time.Duration),
		changed:   make(chan struct{}),
		relinked:  make(map[[2]int]time.Duration),
		ancestors: make(map[int]map[int]bool),
		random:    rand.New(rand.NewPCG(script.Seed, 1)),
		packets:   &packets{random: rand.New(rand.NewPCG(script.Seed, 2))},
	}
	w.net.DelayAll(script.Delay)
	w.net.RateAll(script.Rate)
	w.net.JitterAll(script.Jitter, script.Seed)
	for i := range script.Nodes {
		w.members = append(w.members, &member{number: i, host: w.net.Host(hostOf(i))})
	}
	w.play()
	w.end()
	return &Result{Script: script, History: w.history, Violations: w.violations, Trace: w.trace, ancestors: w.ancestors, disturbed: w.disturbed, cut: w.cutAt}
}

func (w *World) play() {
	for _, m := range w.members {
		w.start(m)
		if m.number == 0 {
			w.background.Wait()
		}
	}
	w.background.Wait()
	if !w.waitWhole(startTime) {
		w.violate("agree", "the nodes do not agree after their start")
		return
	}
	stop := make(chan struct{})
	var watcher, clients sync.WaitGroup
	watcher.Go(func() { w.watch(stop) })
	for i, calls := range w.script.Clients {
		if w.bare(i % w.script.Nodes) {
			continue
		}
		clients.Go(func() { w.client(i, i%w.script.Nodes, calls) })
	}
	for _, s := range w.script.Steps {
		time.Sleep(s.After)
		w.step(s)
	}
	w.heal()
	healed := w.waitWhole(wholeTime)
	w.stop()
	clients.Wait()
	close(stop)
	watcher.Wait()
	if !healed {
		w.violate("agree", "the nodes do not agree within %v after all was healed:\n%s", wholeTime, w.describe())
		return
	}
	time.Sleep(settleTime)
	if !w.waitWhole(wholeTime) {
		w.violate("agree", "the nodes do not agree any more:\n%s", w.describe())
		return
	}
	w.inspect()
}

// heal ends all faults and starts all nodes.
func (w *World) heal() {
	w.note("heal all")
	for _, m := range w.members {
		m.host.SetSkew(0)
		w.resume(m)
	}
	w.packets.lost.Store(0)
	w.endSlow()
	w.net.DelayAll(w.script.Delay)
	w.net.JitterAll(w.script.Jitter, w.script.Seed)
	w.healLinks()
	w.background.Wait()
	for _, m := range w.members {
		w.mu.Lock()
		if m.skewed {
			m.skewed, m.touched = false, time.Since(w.began)
		}
		w.mu.Unlock()
		w.start(m)
	}
	w.background.Wait()
}

// end closes all and looks for goroutines that are left.
func (w *World) end() {
	w.stop()
	w.background.Wait()
	for _, m := range w.members {
		if m.node != nil {
			m.node.Close()
		}
	}
	w.net.Close()
	if left := leftover(); left != "" {
		w.violate("goroutines", "left behind:\n%s", left)
	}
}

// bare reports whether there are no caches on a node.
func (w *World) bare(node int) bool { return slices.Contains(w.script.Bare, node) }

func hostOf(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

func addrOf(i int) string { return hostOf(i) + ":" + port }

// config is the configuration of a node, with an open listener.
func (w *World) config(m *member) (peercache.Config, error) {
	m.host.Restart()
	listener, err := m.host.Listen(addrOf(m.number))
	if err != nil {
		return peercache.Config{}, err
	}
	c := peercache.Config{
		Name:        fmt.Sprint("n", m.number),
		Listener:    listener,
		Copies:      w.script.Copies,
		MaxBytes:    w.script.Pieces,
		DialContext: w.packets.dialer(m.host.DialContext),
		Events: &peercache.Events{
			MemberJoined:  func(p peercache.Member) { w.note("n%d sees %s, %s", m.number, p.Name, p.State) },
			MemberChanged: func(_, p peercache.Member) { w.note("n%d sees %s, %s", m.number, p.Name, p.State) },
			MemberLeft: func(p peercache.Member) {
				w.note("n%d sees %s no more", m.number, p.Name)
				w.dropped(m, p)
			},
		},
		Heartbeat: peercache.Heartbeat{Timeout: w.script.Timeout},
	}
	if w.script.Large {
		c.MaxBytes, c.MaxValueBytes = 1<<30, max(w.script.Size+1<<10, 16<<20)
	}
	for i := range w.script.Nodes {
		if i == m.number || !slices.Contains(w.script.Unlisted, i) {
			c.Join = append(c.Join, addrOf(i))
		}
	}
	return c, nil
}

// note writes a line into the trace.
func (w *World) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *World) disturb() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disturbLocked()
}

// disturbLocked notes that tables are about to change.
func (w *World) disturbLocked() {
	w.unsettled = true
	w.disturbed = append(w.disturbed, time.Since(w.began))
}

func (w *World) noteLocked(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%5d       %10v ", w.seq, time.Since(w.began).Round(time.Microsecond))+fmt.Sprintf(format, args...))
}

func (w *World) violate(kind, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, Violation{Kind: kind, Text: fmt.Sprintf(format, args...)})
}

// changedLocked wakes those who wait for a member's state.
func (w *World) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// markLocked is the present moment on a member.
func (w *World) markLocked(m *member) Mark {
	w.seq++
	still := slices.ContainsFunc(w.members, func(m *member) bool { return m.paused })
	return Mark{Seq: w.seq, At: time.Since(w.began), Domain: m.domain, Flux: m.flux, Back: m.back, Losses: w.losses, Weak: w.weak || m.leaving, Slow: w.slow, Still: still}
}

// enter waits until a member's process runs, and marks the moment. ok is
// false when the clients are to stop.
func (w *World) enter(m *member) (caches map[string]*peercache.Cache[string], mark Mark, ok bool) {
	for {
		w.mu.Lock()
		switch {
		case w.stopped:
			w.mu.Unlock()
			return nil, mark, false
		case m.running && !m.paused:
			caches, mark = m.caches, w.markLocked(m)
			w.mu.Unlock()
			return caches, mark, true
		}
		changed := w.changed
		w.mu.Unlock()
		<-changed
	}
}

// leave marks the moment when a call has returned. What a paused process got
// while it was stopped it has when it goes on.
func (w *World) leave(m *member) Mark {
	w.awaitGoing(m, nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.markLocked(m)
}

// awaitGoing waits until a member is not paused.
func (w *World) awaitGoing(m *member, ended <-chan struct{}) {
	for {
		w.mu.Lock()
		paused, changed := m.paused, w.changed
		w.mu.Unlock()
		if !paused {
			return
		}
		select {
		case <-changed:
		case <-ended:
			return
		}
	}
}

func (w *World) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.changedLocked()
}

// load is the loader of all caches on one member.
func (w *World) load(ctx context.Context, m *member, cache, key string) (string, error) {
	w.mu.Lock()
	op := &Op{Client: -1, Node: m.number, Kind: Load, Cache: cache, Key: key, Call: w.markLocked(m), Outcome: Unknown}
	w.loads++
	op.Value = fmt.Sprint("L", w.loads)
	var takes time.Duration
	if w.script.Loading > 0 {
		takes = time.Duration(w.random.Int64N(int64(w.script.Loading)))
	}
	w.mu.Unlock()
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	w.awaitGoing(m, ctx.Done())
	op.Err = ctx.Err()
	w.mu.Lock()
	if op.Err == nil {
		op.Outcome = Done
	}
	op.Return = w.markLocked(m)
	w.mu.Unlock()
	w.history.add(op)
	return w.pad(op.Value), op.Err
}

// pad makes a value as long as the script wants it.
func (w *World) pad(value string) string {
	n := w.script.Size - len(value) - 1
	if w.script.Large {
		n /= 1 << (shardOf("", value) % 3) // some are smaller
	}
	if n <= 0 {
		return value
	}
	b := make([]byte, 0, len(value)+1+n)
	b = append(append(b, value...), '|')
	return string(append(b, strings.Repeat(".", n)...))
}

func unpad(value string) string {
	for i := range len(value) {
		if value[i] == '|' {
			return value[:i]
		}
	}
	return value
}
