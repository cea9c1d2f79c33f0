// Package memnet is a network in memory, for tests of programs that speak TCP.
//
// A [Network] has hosts, hosts listen and dial, and what they get are a [net.Listener] and [net.Conn]s that behave as the
// kernel's do: bytes in order, bounded buffers, deadlines, half-close, refused and reset connections, with the same error
// types and numbers. Everything above it (net/http, crypto/tls, any protocol) runs unchanged.
//
// Faults can be switched on and off at any time and act on connections that exist as well as on those that are made later:
// a link can be cut in both directions or one, slowed down, its connections reset; a host can be paused, crash or lose its
// power. Each host has a clock that stops while the host is paused and that can be set wrong.
//
// # Virtual time
//
// The package is made for [testing/synctest]. A goroutine that waits for the network is durably blocked, so a bubble whose
// goroutines all wait goes idle, and its clock jumps to the next timer or ends the test. A Network has no goroutine of its
// own: one that was never closed leaks nothing. Create it, and all that belongs to it, inside the bubble, and use it only
// there. Outside a bubble it works in real time.
//
// # Names
//
// A host is named by an IP address or by any other word without a colon ("node-1"); it comes into being when somebody
// listens on it or asks for it with [Network.Host]. Wherever a method takes the name of a host, host:port does as well and
// means the host. [Network.SetName] adds names that stand for several hosts, as a name service would.
//
// # What is not modelled
//
// There are no packets: nothing is lost, duplicated or reordered within a connection, bandwidth has no limit, and a delay
// is what [Network.Delay] and [Network.Jitter] say. Retransmission is modelled for links that are cut, see
// [Network.SetRetransmission]. No keep-alive ends an established connection, and no retransmission does unless the connection
// has a user timeout: one that is cut stays as it is until it is healed, closed or reset. Besides the methods of [net.Conn] a
// connection has
//
//	CloseWrite() error
//	SetUserTimeout(d time.Duration) error // TCP_USER_TIMEOUT; zero, the default: none
//
// A connection that is closed while it holds unread bytes is closed in good order and not reset. Of the handshake only the
// outcome and the round trip are modelled: a dial that a cut holds up goes on when the cut is healed. There is no UDP.
package memnet
