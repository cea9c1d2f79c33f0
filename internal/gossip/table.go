package gossip

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Member is a live member.
type Member struct {
	// Name is its gossip name.
	Name string
	// Addr is its address, out of its metadata.
	Addr string
	// Meta is its metadata, a copy.
	Meta []byte
	// Suspect says that it did not answer somebody lately and may soon be
	// dead. It is a hint: it comes a little late, and Config.Changed is not
	// called for it.
	Suspect bool
}

// table holds what is known of members: the live ones, as memberlist's
// callbacks tell, and those that are not, for some time: a packet may have to
// go to a dead one so that it can object, or to one that only asked something.
//
// Its lock is taken under memberlist's, and nothing is called under it.
type table struct {
	self    string
	pace    pace
	mu      sync.Mutex
	members map[string]*entry // guarded by mu
	alive   map[string]uint64 // guarded by mu; incarnations of those that were said to be alive before memberlist took them in
}

// entry is one member. It is live, or left on purpose, or otherwise lost: dead
// or never a member in our eyes.
type entry struct {
	addr string
	meta []byte
	live bool
	left bool
	at   time.Time // since when it is what it is

	heard   time.Time // when it last sent something
	asked   time.Time // when it was first sent a ping since; zero: it was not
	relayed bool      // others were asked to ping it since

	// The last message that suspects it or calls it dead, and its incarnation
	// or that of a later message that says that it is alive.
	accusation []byte
	inc        uint64
	accused    time.Time
	ours       bool      // the accusation is a suspicion of ours
	told       time.Time // when it was last sent the accusation
}

func newTable(self string, p pace) *table {
	return &table{self: self, pace: p, members: make(map[string]*entry), alive: make(map[string]uint64)}
}

// full reports whether a member of an unknown name has no place.
func (t *table) full(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.members[name] == nil && len(t.members) >= MaxMembers
}

// up notes that a member is live, or has new metadata.
func (t *table) up(name, addr string, meta []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := &entry{addr: addr, meta: bytes.Clone(meta), live: true, at: time.Now()}
	if old := t.members[name]; old != nil {
		e.inc, e.heard, e.asked, e.relayed = old.inc, old.heard, old.asked, old.relayed
	}
	e.inc = max(e.inc, t.alive[name])
	delete(t.alive, name)
	t.members[name] = e
}

// down notes that a member is dead or has left.
func (t *table) down(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil {
		e.live, e.meta, e.at = false, nil, time.Now()
	}
}

// learn notes what a message says that memberlist's callbacks will not tell.
// Memberlist, which gets or made it, decides whether it is so.
func (t *table) learn(m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.members[string(m.node)]
	switch {
	case string(m.node) == t.self: // memberlist objects for us
	case e == nil:
		if m.live && len(t.alive) < MaxMembers {
			t.alive[string(m.node)] = max(t.alive[string(m.node)], m.inc)
		}
	case m.left:
		e.left = true
	case m.live && m.inc > e.inc:
		e.inc, e.accusation = m.inc, nil
	case (m.kind == kindSuspect || m.kind == kindDead) && m.inc >= e.inc:
		ours := m.kind == kindSuspect && string(m.from) == t.self
		if e.accusation != nil && e.ours && !ours && m.kind == kindSuspect && m.inc == e.inc {
			return // somebody confirms it
		}
		e.inc, e.accusation, e.accused, e.ours = m.inc, bytes.Clone(m.raw), time.Now(), ours
	}
}

// heard notes that a member sent something from addr. It reports whether the
// member is lost: it is there, yet not in our list; and returns what it is
// accused of, for it to object to, though not more often than each pause. A
// live member's accusation is void after some time: it was overtaken by an
// objection that we took no note of.
func (t *table) heard(name, addr string) (lost bool, accusation []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	e := t.members[name]
	if e == nil {
		if len(t.members) >= MaxMembers {
			return false, nil
		}
		t.members[name] = &entry{addr: addr, at: now, heard: now}
		return true, nil
	}
	e.heard, e.asked = now, time.Time{}
	if !e.live && addr != "" {
		e.addr = addr
	}
	if e.left {
		return false, nil
	}
	if e.live && !e.suspect(now, t.pace) {
		e.accusation = nil
	}
	if e.accusation != nil && now.Sub(e.told) >= t.pace.gossip {
		e.told = now
		accusation = e.accusation
	}
	return !e.live, accusation
}

// sinceHeard returns how long ago a member last sent something.
func (t *table) sinceHeard(name string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil && !e.heard.IsZero() {
		return time.Since(e.heard)
	}
	return math.MaxInt64
}

// suspects returns the live members that we suspect ourselves, and the message
// that says so.
func (t *table) suspects() map[string][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found map[string][]byte
	now := time.Now()
	for name, e := range t.members {
		if e.live && e.ours && e.suspect(now, t.pace) {
			if found == nil {
				found = make(map[string][]byte)
			}
			found[name] = e.accusation
		}
	}
	return found
}

// suspect reports whether a live member is under suspicion.
func (e *entry) suspect(now time.Time, p pace) bool {
	return e.accusation != nil && now.Sub(e.accused) <= 2*p.suspicion
}

// addr returns a member's address, "" when unknown.
func (t *table) addr(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil {
		return e.addr
	}
	return ""
}

// announces reports whether a member is live with that metadata.
func (t *table) announces(name string, meta []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.members[name]
	return e != nil && e.live && bytes.Equal(e.meta, meta)
}

// lost reports whether a known member is neither live nor left.
func (t *table) lost(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.members[name]
	return e != nil && !e.live && !e.left
}

// replaced notes that a lost member is gone for good.
func (t *table) replaced(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil && !e.live {
		e.left = true
	}
}

// someLost returns a lost member that has an address, at random, or "".
func (t *table) someLost() (name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := 0
	for n, e := range t.members {
		if !e.live && !e.left && e.addr != "" {
			if seen++; rand.IntN(seen) == 0 {
				name = n
			}
		}
	}
	return name
}

// known returns how many members are live or became something else at most
// ago ago: how many memberlist counts, but for its laziness in forgetting.
func (t *table) known(ago time.Duration) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, e := range t.members {
		if e.live || time.Since(e.at) <= ago {
			n++
		}
	}
	return n
}

// forget drops those that have not been live for longer than ago.
func (t *table) forget(ago time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.alive) // memberlist did not take these in
	for name, e := range t.members {
		if !e.live && time.Since(e.at) > ago {
			delete(t.members, name)
		}
	}
}

// live returns the live members, by name.
func (t *table) live() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	list := make([]Member, 0, len(t.members))
	for name, e := range t.members {
		if e.live {
			list = append(list, Member{
				Name: name, Addr: e.addr, Meta: bytes.Clone(e.meta), Suspect: e.suspect(now, t.pace),
			})
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return list
}
