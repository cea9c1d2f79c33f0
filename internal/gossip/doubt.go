package gossip

import (
	"encoding/binary"
	"hash/crc32"
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

// seal makes the checksum of a packet right again.
func seal(packet []byte) {
	if packet[0] == kindCRC {
		binary.BigEndian.PutUint32(packet[1:], crc32.ChecksumIEEE(packet[5:]))
	}
}
