package peercache

import (
	"encoding/binary"
	"sync"
	"time"
)

// What members tell each other by gossip is news. When a link was cut, packets
// wait in the buffers of its connections for as long as that takes, and arrive
// together when it is back: that somebody is dead, say, who was alive all the
// time. So packets are dated, and old ones are not believed.

// maxPacketAge is how much longer than the quickest a packet may take.
const maxPacketAge = 2 * time.Second

// datePacket puts the moment on the sender's clock before a packet.
func datePacket(now time.Duration, packet []byte) []byte {
	b := make([]byte, 0, 8+len(packet))
	b = binary.BigEndian.AppendUint64(b, uint64(now))
	return append(b, packet...)
}

// A packetAge judges the packets of one connection. The clocks of both ends
// run on, and have nothing else in common: the quickest packet so far shows
// what is between them. The zero packetAge is ready. It may be used
// concurrently.
type packetAge struct {
	mu    sync.Mutex
	known bool          // guarded by mu
	least time.Duration // guarded by mu; from the sender's moment to the receiver's
}

// fresh returns what is in a dated packet, and whether it is to be believed.
func (a *packetAge) fresh(now time.Duration, dated []byte) (packet []byte, ok bool) {
	if len(dated) < 8 {
		return nil, false
	}
	took := now - time.Duration(binary.BigEndian.Uint64(dated))
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known || took < a.least {
		a.known, a.least = true, took
	}
	return dated[8:], took-a.least <= maxPacketAge
}
