package memnet

import (
	"math/rand/v2"
	"syscall"
	"time"
)

// Cut cuts the link between two hosts in both directions, as if every packet were dropped. Connections neither end nor make
// progress: what is under way stalls, writes are taken until the buffer is full, a Close is not seen on the other side.
// Dials hang. What had arrived before can still be read.
func (nw *Network) Cut(a, b string) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.setCutLocked(hostName(a), hostName(b), true)
	nw.setCutLocked(hostName(b), hostName(a), true)
}

// CutOneWay is [Network.Cut] in one direction: nothing comes from host from to host to, while all that host to sends still
// arrives. Dials hang in either direction, because a handshake needs both.
func (nw *Network) CutOneWay(from, to string) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.setCutLocked(hostName(from), hostName(to), true)
}

// Heal ends cuts between two hosts, in both directions. What they held up is delivered, in order, at TCP's next retransmission
// (see [Network.SetRetransmission]). Delays stay.
func (nw *Network) Heal(a, b string) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.setCutLocked(hostName(a), hostName(b), false)
	nw.setCutLocked(hostName(b), hostName(a), false)
}

// HealAll ends all cuts. Delays stay, and so do hosts that are paused, down or refuse.
func (nw *Network) HealAll() {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	for key := range nw.links {
		nw.setCutLocked(key.from, key.to, false)
	}
}

// Partition cuts the links between hosts of different groups and heals those within a group. Links of hosts that are in no
// group stay as they are.
func (nw *Network) Partition(groups ...[]string) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	for i, group := range groups {
		for j, other := range groups {
			for _, a := range group {
				for _, b := range other {
					nw.setCutLocked(hostName(a), hostName(b), i != j)
				}
			}
		}
	}
}

// Delay makes everything that host from sends to host to arrive d later. It acts on what is sent from now on and never
// changes the order within a connection. Zero, as a negative d, means no delay.
func (nw *Network) Delay(from, to string, d time.Duration) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.linkLocked(hostName(from), hostName(to)).delay = max(d, 0)
	nw.changedLocked()
}

// DelayAll is [Network.Delay] for every direction between any two hosts, those to come included, and of a host with itself.
// It replaces all delays set before; Delay can change single ones afterwards.
func (nw *Network) DelayAll(d time.Duration) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.delay = max(d, 0)
	for _, l := range nw.links {
		l.delay = nw.delay
	}
	nw.changedLocked()
}

// Jitter makes everything that host from sends to host to arrive up to d later than [Network.Delay] says, each piece by a time
// of its own. The order within a connection stays; that of what travels on two connections does not. It acts on what is sent
// from now on; handshakes are not touched. Zero, as a negative d, means no jitter.
func (nw *Network) Jitter(from, to string, d time.Duration) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.linkLocked(hostName(from), hostName(to)).jitter = max(d, 0)
}

// JitterAll is [Network.Jitter] for every direction between any two hosts, those to come included, and of a host with itself.
// The times are drawn from seed, so that the same calls in the same order have the same jitter.
func (nw *Network) JitterAll(d time.Duration, seed uint64) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.jitter = max(d, 0)
	nw.random = rand.New(rand.NewPCG(seed, 0))
	for _, l := range nw.links {
		l.jitter = nw.jitter
	}
}

// Reset breaks all connections between two hosts now, whatever other faults there are: at both ends reads and writes fail
// with ECONNRESET, and what was not read is lost. New connections can be made.
func (nw *Network) Reset(a, b string) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	for _, key := range []linkKey{{hostName(a), hostName(b)}, {hostName(b), hostName(a)}} {
		if l := nw.links[key]; l != nil {
			for p := range l.pipes {
				p.failLocked(syscall.ECONNRESET)
			}
		}
	}
}

// Resets makes the link between two hosts answer with resets, as a firewall does that rejects, or, with false, no more: all
// connections between them break at once, as with [Network.Reset], and dials in either direction are refused with ECONNREFUSED
// although the other host listens.
func (nw *Network) Resets(a, b string, resets bool) {
	if resets {
		nw.Reset(a, b)
	}
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.linkLocked(hostName(a), hostName(b)).resets = resets
	nw.linkLocked(hostName(b), hostName(a)).resets = resets
	nw.changedLocked()
}

func (nw *Network) resetsLocked(from, to string) bool {
	l := nw.links[linkKey{from, to}]
	return l != nil && l.resets
}

// Refuse makes a host refuse all dials with ECONNREFUSED although it listens, or, with false, accept them again.
// Connections that exist are not touched.
func (nw *Network) Refuse(host string, refuse bool) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.hostLocked(hostName(host)).refuses = refuse
	nw.changedLocked()
}

func (nw *Network) linkLocked(from, to string) *link {
	key := linkKey{from, to}
	l := nw.links[key]
	if l == nil {
		l = &link{delay: nw.delay, jitter: nw.jitter, rate: nw.rate, pipes: make(map[*pipe]struct{})}
		nw.links[key] = l
	}
	return l
}

func (nw *Network) setCutLocked(from, to string, cut bool) {
	l := nw.links[linkKey{from, to}]
	if l == nil {
		if !cut {
			return
		}
		l = nw.linkLocked(from, to)
	}
	if l.cut == cut {
		return
	}
	now := nw.now()
	if cut {
		for p := range l.pipes {
			p.settleLocked(now) // what is due has arrived, though its timer may not have fired yet
		}
	}
	l.cut = cut
	for p := range l.pipes {
		for _, way := range []*pipe{p, p.dst.out} {
			if cut {
				way.brokenOffLocked(now)
			} else {
				way.healedLocked(now)
			}
		}
	}
	nw.changedLocked()
}

func (nw *Network) cutLocked(from, to string) bool {
	l := nw.links[linkKey{from, to}]
	return l != nil && l.cut
}

func (nw *Network) delayLocked(from, to string) time.Duration {
	if l := nw.links[linkKey{from, to}]; l != nil {
		return l.delay
	}
	return nw.delay
}
