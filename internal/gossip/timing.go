package gossip

import (
	"log"
	"math"
	"time"

	"github.com/hashicorp/memberlist"
)

// The address that every member announces to memberlist. All the same, so that
// no two are ever in conflict; a literal IP address with a port, so that
// memberlist's Join looks no name up.
const (
	dummyHost = "127.0.0.1"
	dummyPort = 1
	dummyAddr = "127.0.0.1:1"
)

// pace is everything about time, derived from Config.Interval and
// Config.Timeout.
//
// A member that falls silent is gone from all lists after
//
//	the first probe      one of the others probes it every Interval, so e^-t/Interval
//	                     of silences are longer than t before their first probe
//	+ that probe         Interval (twice that when the prober doubts itself)
//	+ the suspicion      see suspicionMult; gossip reaches the others meanwhile
//	+ telling the rest   a few gossip intervals
//
// of which the suspicion gets Timeout less 3 Intervals.
type pace struct {
	interval  time.Duration // from probe to probe
	ack       time.Duration // a direct or relayed ping's time; then others are asked
	gossip    time.Duration // from gossip round to gossip round
	suspicion time.Duration // how long a suspect may object
	pushPull  time.Duration // from full exchange to full exchange
	stream    time.Duration // bound on dialling, and on each way of a stream
	dead      time.Duration // how long memberlist remembers a dead member
	remember  time.Duration // how long the table does, to meet again after a split
	reconnect time.Duration // from try to try to meet a dead member again
}

// maxAwareness is memberlist's AwarenessMaxMultiplier: a prober whose probes
// fail while nobody confirms it takes up to this many Intervals for a probe.
// More would make a list late when many members die at once.
const maxAwareness = 2

func paceFor(interval, timeout time.Duration) pace {
	return pace{
		interval: interval,
		// A relay answers with a nack when it has waited as long, and its nack
		// has to be back before the probe ends, or the prober doubts itself.
		ack:       interval * 2 / 5,
		gossip:    interval / 4,
		suspicion: timeout - 3*interval,
		pushPull:  5 * timeout,
		stream:    timeout * 5 / 2,
		dead:      15 * timeout,
		remember:  300 * timeout,
		reconnect: timeout / 4,
	}
}

// suspicionMult returns the SuspicionMult with which memberlist's formula
//
//	SuspicionMult * max(1, log10(n)) * ProbeInterval
//
// comes nearest to the wanted suspicion time among n members.
func (p pace) suspicionMult(n int) int {
	scale := math.Max(1, math.Log10(math.Max(1, float64(n))))
	return max(1, int(math.Round(float64(p.suspicion)/float64(p.interval)/scale)))
}

// memberlistConfig returns a new configuration, each time, as memberlist
// writes to what it is given.
func (p pace) memberlistConfig(name string, logger *log.Logger) *memberlist.Config {
	return &memberlist.Config{
		Name:            name,
		BindAddr:        dummyHost,
		BindPort:        dummyPort, // also what memberlist puts for a missing port
		AdvertiseAddr:   dummyHost,
		AdvertisePort:   dummyPort,
		ProtocolVersion: memberlist.ProtocolVersionMax,

		ProbeInterval:  p.interval,
		ProbeTimeout:   p.ack,
		IndirectChecks: 3,
		// The maximum equals the minimum: waiting longer for confirmations of
		// others would take a member that is cut off past its Timeout.
		SuspicionMult:           p.suspicionMult(1),
		SuspicionMaxTimeoutMult: 1,
		AwarenessMaxMultiplier:  maxAwareness,

		GossipInterval:      p.gossip,
		GossipNodes:         3,
		RetransmitMult:      retransmitMult,
		GossipToTheDeadTime: p.dead,
		PushPullInterval:    p.pushPull,
		TCPTimeout:          p.stream,

		// Packets travel over TCP, so more than an Ethernet frame is well. But
		// memberlist counts the messages of a ping's packet in one byte without
		// a look at it, and the smallest broadcast has some 60 bytes: 8 KiB is
		// where 255 cannot be reached.
		UDPBufferSize: 8 << 10,
		// What is queued between memberlist's two packet goroutines; more is
		// dropped. Together with its broadcast queue, which holds one message
		// per member, that is all it keeps.
		HandoffQueueDepth: 512,
		// A compressed message is refused by check.
		EnableCompression:  false,
		RequireNodeNames:   true,
		QueueCheckInterval: time.Minute, // zero would spin
		DNSConfigPath:      "/dev/null", // never read, as no name is looked up
		Logger:             logger,
	}
}

// retransmitMult times the digits of the member count is how often each member
// sends a broadcast that is new to it, to members drawn at random. So a member
// gets about as many copies of it, and none with a probability of e to the
// minus that. With memberlist's usual 4, one start of 30 members in four left
// a pair that did not know each other before the next full exchange.
const retransmitMult = 8
