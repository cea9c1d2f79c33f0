package memnet

import "time"

// ratePiece is how much arrives at a time over a link that has a rate.
const ratePiece = 8 << 10

// Rate bounds what host from sends to host to, on all their connections together, to so many bytes in a second. What is sent
// beyond waits for its turn, and a connection's Write once its buffer is full. It acts on what is sent from now on; handshakes
// are not touched. Zero, as a negative number, means no bound.
func (nw *Network) Rate(from, to string, bytesPerSecond int) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.linkLocked(hostName(from), hostName(to)).rate = max(bytesPerSecond, 0)
}

// RateAll is [Network.Rate] for every direction between any two hosts, those to come included, and of a host with itself. It
// replaces all rates set before; Rate can change single ones afterwards.
func (nw *Network) RateAll(bytesPerSecond int) {
	nw.mu.Lock()
	defer nw.mu.Unlock()
	nw.rate = max(bytesPerSecond, 0)
	for _, l := range nw.links {
		l.rate = nw.rate
	}
}

// crossLocked returns how long n bytes that are sent now take until the last of them is on its way: what was sent before goes
// first.
func (l *link) crossLocked(now time.Duration, n int) time.Duration {
	if l.rate == 0 {
		return 0
	}
	l.free = max(l.free, now) + time.Duration(n)*time.Second/time.Duration(l.rate)
	return l.free - now
}
