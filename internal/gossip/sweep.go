package gossip

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Memberlist probes one member at a time. That is enough while few die: the
// others have noticed before it is this one's turn. But who is left of many, or
// alone, would have to wait for each of the dead in turn. So when one member
// owes the answer to a ping for an Interval, all that were not heard just now
// are pinged at once, those that do not answer are asked for through others, and
// those that do not answer then either are suspected, as if memberlist had
// probed them.

// A sweeper is what is known of the pings that are not memberlist's own.
type sweeper struct {
	mu    sync.Mutex
	seq   uint32            // guarded by mu; the last one's number
	pings map[uint32]string // guarded by mu; whom those that others were asked to send are for
}

// Numbers of such pings. Memberlist counts from 1, a few in a second.
const firstSweep = 1 << 31

// relays is how many members are asked to ping one that does not answer.
const relays = 3

// sweep looks for members that do not answer until Close.
func (g *Gossip) sweep() {
	every := g.pace.interval / 2
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; last = time.Now() {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
		}
		if g.stopped() || time.Since(last) > 3*every {
			g.table.unask() // this process did not run: the silence was its own
		} else if len(g.inbox) == 0 { // else some may have been heard
			g.sweepOnce()
		}
	}
}

func (g *Gossip) sweepOnce() {
	now := time.Now()
	silent := g.table.silent(now)
	for _, name := range silent.ping {
		g.send(name, pingPacket(g.sweeper.next(""), name, g.cfg.Name))
	}
	for _, name := range silent.ask {
		for i, relay := range silent.heard {
			if i == relays {
				break
			}
			g.send(relay, indirectPingPacket(g.sweeper.next(name), name, g.cfg.Name))
		}
	}
	for name, inc := range silent.suspect {
		if g.cfg.SinceHeard(name) < 2*g.pace.interval {
			g.table.answered(name)
			continue
		}
		g.suspect(name, inc)
	}
}

// suspect lets memberlist suspect a member.
func (g *Gossip) suspect(name string, inc uint32) {
	b := suspectPacket(inc, name, g.cfg.Name)
	_ = check(b, g.table.learn)
	select {
	case <-g.ctx.Done():
	case g.transport.packets <- &memberlist.Packet{Buf: b, From: logAddr("self"), Timestamp: time.Now()}:
	}
}

// next returns the number of another ping, which a relay is asked for unless
// name is empty.
func (s *sweeper) next(name string) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq = firstSweep | (s.seq + 1)
	if name != "" {
		if s.pings == nil || len(s.pings) >= maxPings {
			s.pings = make(map[uint32]string)
		}
		s.pings[s.seq] = name
	}
	return s.seq
}

// relayed takes note of an ack, which a relay may have sent.
func (g *Gossip) relayed(m message) {
	if m.kind != kindAck || m.seq < firstSweep {
		return
	}
	s := &g.sweeper
	s.mu.Lock()
	name := s.pings[uint32(m.seq)]
	delete(s.pings, uint32(m.seq))
	s.mu.Unlock()
	if name != "" {
		g.table.answered(name)
	}
}

// silence is what is to be done about members that do not answer.
type silence struct {
	ping    []string          // they were not heard of lately
	ask     []string          // they owe an answer
	suspect map[string]uint32 // others did not get one either; with their incarnations
	heard   []string          // they were heard of lately, in random order
}

// silent returns what is to be done, and takes it for done.
func (t *table) silent(now time.Time) (s silence) {
	t.mu.Lock()
	defer t.mu.Unlock()
	interval := t.pace.interval
	trouble := false
	for _, e := range t.members {
		trouble = trouble || e.live && !e.asked.IsZero() && now.Sub(e.asked) >= interval
	}
	if !trouble {
		return s
	}
	for name, e := range t.members {
		switch {
		case !e.live || name == t.self:
		case e.asked.IsZero() && now.Sub(e.heard) < interval:
			s.heard = append(s.heard, name)
		case e.asked.IsZero():
			e.asked, e.relayed = now, false
			s.ping = append(s.ping, name)
		case now.Sub(e.asked) < interval:
		case !e.relayed:
			e.relayed = true
			s.ask = append(s.ask, name)
		case now.Sub(e.asked) >= 2*interval && !e.suspect(now, t.pace):
			if s.suspect == nil {
				s.suspect = make(map[string]uint32)
			}
			s.suspect[name] = uint32(e.inc)
		}
	}
	rand.Shuffle(len(s.heard), func(i, j int) { s.heard[i], s.heard[j] = s.heard[j], s.heard[i] })
	return s
}

// asked notes that a member was sent a ping.
func (t *table) asked(name string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil && e.asked.IsZero() {
		e.asked, e.relayed = now, false
	}
}

// answered notes that a member gave a sign of life.
func (t *table) answered(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.members[name]; e != nil {
		e.asked = time.Time{}
	}
}

// unask forgets which members owe an answer.
func (t *table) unask() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.members {
		e.asked = time.Time{}
	}
}

// The following make messages as memberlist decodes them.

func pingPacket(seq uint32, node, source string) []byte {
	b := appendNumber([]byte{kindPing, 0x83}, "SeqNo", seq)
	b = appendText(b, "Node", node)
	return appendText(b, "SourceNode", source)
}

func indirectPingPacket(seq uint32, node, source string) []byte {
	b := appendNumber([]byte{kindIndirectPing, 0x85}, "SeqNo", seq)
	b = appendText(b, "Target", string(dummyIP))
	b = appendNumber(b, "Port", dummyPort)
	b = appendText(b, "Node", node)
	return appendText(b, "SourceNode", source)
}

func suspectPacket(inc uint32, node, from string) []byte {
	b := appendNumber([]byte{kindSuspect, 0x83}, "Incarnation", inc)
	b = appendText(b, "Node", node)
	return appendText(b, "From", from)
}

func appendNumber(b []byte, key string, n uint32) []byte {
	return binary.BigEndian.AppendUint32(append(appendString(b, key), 0xce), n)
}

func appendText(b []byte, key, text string) []byte { return appendString(appendString(b, key), text) }

// appendString appends a string of less than 32 bytes.
func appendString(b []byte, s string) []byte { return append(append(b, 0xa0|byte(len(s))), s...) }
