package gossip

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// doubt makes a suspicion of the message that a member is dead, if that cannot
// be so, and reports whether it did: memberlist does the same with what it
// reads in a full exchange. The two messages have the same fields.
//
// When a split ends, each side has the other's members as dead and may still be
// telling so. Memberlist takes the word of any member for that: all members
// would be lost to all others, until each has objected.
func (g *Gossip) doubt(m *message) bool {
	name := string(m.node)
	if m.kind != kindDead || m.left || name == g.cfg.Name {
		return false
	}
	// Before a member is called dead, it has not answered a probe, and was
	// suspected for some time.
	if min(g.table.sinceHeard(name), g.cfg.SinceHeard(name)) >= g.pace.suspicion-g.pace.interval {
		return false
	}
	m.kind = kindSuspect
	m.raw[0] = kindSuspect
	return true
}

// An objection is what memberlist has said to the latest accusation of this
// member: by gossip, which may lose it. Its queue takes two messages of the same
// length for one when they have the same number, and numbers begin anew
// whenever the queue is empty for a moment. Who still accuses this member of
// the same is to be told again.
type objection struct {
	inc uint64    // that it was accused with
	at  time.Time // when it objected last; zero: never
}

// unheard notes a message about this member. It reports whether that is an
// accusation by somebody whom the objection should have reached by now.
func (o *objection) unheard(m message, now time.Time, p pace) bool {
	switch {
	case m.kind != kindSuspect && m.kind != kindDead || m.left:
		return false
	case o.at.IsZero() || m.inc > o.inc:
		o.inc, o.at = m.inc, now
		return false
	case now.Sub(o.at) < p.interval*3/4:
		return false
	}
	o.at = now
	return true
}

// seal makes the checksum of a packet right again.
func seal(packet []byte) {
	if packet[0] == kindCRC {
		binary.BigEndian.PutUint32(packet[1:], crc32.ChecksumIEEE(packet[5:]))
	}
}
