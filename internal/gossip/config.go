package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"
)

// Limits.
const (
	// MaxMeta is the greatest size of a member's metadata, in bytes.
	MaxMeta = 400
	// MaxPacket is the greatest size of a packet, in bytes: what Link.Send is
	// given is never larger, what Gossip.Packet is given is dropped when it is.
	MaxPacket = 16 << 10
	// MaxStream is the greatest size of the one message that a stream carries
	// each way, in bytes: enough for 2,000 members with metadata of full size.
	MaxStream = 1 << 20
	// MaxStreams is how many streams a member has open at once, accepted and
	// opened. One more is closed at once.
	MaxStreams = 64
	// MaxMembers is how many members are known at once, the dead that are
	// still remembered included. One more is not taken in.
	MaxMembers = 4096
)

// Errors of Gossip's methods.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("gossip: closed")
	// ErrReplaced is in the error of a Link's Open when another process lives at
	// the address of the member, which is gone for good.
	ErrReplaced = errors.New("gossip: another member lives there")
	// ErrMeta is returned when Config.Meta gives more than MaxMeta bytes, or
	// something that Config.AddrOf refuses.
	ErrMeta = errors.New("gossip: own metadata is too large or has no address")
)

// Peer says where a packet or stream goes to or comes from.
type Peer struct {
	// Name is the member's gossip name; empty when unknown, which a seed's is.
	Name string
	// Addr is the host:port that the member announces, which may hold a host
	// name; empty when unknown, and for a member that nobody can dial.
	Addr string
}

// Link is the network. Its methods may be called concurrently, and are not
// called any more when Close has returned.
type Link interface {
	// Send sends a packet of at most MaxPacket bytes, as well as it can: a
	// packet may be lost, late or doubled, and is dropped rather than queued
	// for long. It never blocks. The packet is shared and must not be written
	// to, now or later; Send may keep it. An error means that the member is
	// known not to be there (its address refuses connections, another
	// incarnation answers): it counts as a probe that failed. Anything else
	// that goes wrong is a lost packet and no error.
	Send(to Peer, packet []byte) error
	// Open opens a stream to a member, or to whoever answers at to.Addr when
	// to.Name is empty. ctx bounds the opening only; Open returns soon after
	// it ends. The connection's deadlines must work.
	Open(ctx context.Context, to Peer) (net.Conn, error)
}

// Config is what Start needs. Zero values are defaults where one is named.
// The functions must not block, but for Running, and must not call Close.
type Config struct {
	// Name is this member's gossip name: its incarnation as 16 lower-case hex
	// digits. No two members ever have the same.
	Name string
	// Meta gives this member's metadata, at most MaxMeta bytes. It is called
	// by Start and Update.
	Meta func() []byte
	// AddrOf finds the address in a member's metadata, "" for a member that
	// cannot be dialled. A member whose metadata it refuses (false) is no
	// member. It is called under a lock: it must return at once and must not
	// call back. It must not keep meta.
	AddrOf func(meta []byte) (addr string, ok bool)
	// Link carries packets and streams.
	Link Link
	// Interval is the time from one probe to the next; default 200 ms.
	Interval time.Duration
	// Timeout is how long a member that fell silent stays in the list of the
	// others, on average; about half as long again at most. At least 5
	// intervals; default 2 s.
	Timeout time.Duration
	// Changed says that the list of live members or the metadata of one may
	// have changed. Calls are coalesced and come from one goroutine. May be
	// nil.
	Changed func()
	// Now is the wall clock that is compared with other members'; default
	// time.Now.
	Now func() time.Time
	// Running waits while this process is stopped, or until ctx ends, and
	// reports whether it ran all the time. It is for tests that stop a process
	// without its goroutines: nothing is sent before it returned. May be nil.
	Running func(ctx context.Context) bool
	// Offset tells how far ahead of ours the clock of a live member is,
	// measured over a round trip of the given time; half of that is the
	// greatest error. It is called at most once per Interval. May be nil.
	Offset func(name string, offset, rtt time.Duration)
	// SinceHeard tells how long ago a member was last heard from in other ways
	// than by gossip. Who is heard from is not dead, whatever others say. May be
	// nil.
	SinceHeard func(name string) time.Duration
	// Suspected tells that this member did not get an answer from a live one,
	// which may soon be dead. It is called again each Interval while that is so.
	// May be nil.
	Suspected func(name string)
	// Logger gets what memberlist has to say; nil: silence.
	Logger *slog.Logger
}

// withDefaults returns a copy with every default filled in, or all that is
// wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Interval == 0 {
		c.Interval = 200 * time.Millisecond
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Offset == nil {
		c.Offset = func(string, time.Duration, time.Duration) {}
	}
	if c.Running == nil {
		c.Running = func(context.Context) bool { return true }
	}
	if c.Suspected == nil {
		c.Suspected = func(string) {}
	}
	if c.SinceHeard == nil {
		c.SinceHeard = func(string) time.Duration { return math.MaxInt64 }
	}
	var faults []error
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Errorf("gossip: "+format, args...))
		}
	}
	fault(!isName(c.Name), "Name %q is not 16 lower-case hex digits", c.Name)
	fault(c.Meta == nil, "Meta is nil")
	fault(c.AddrOf == nil, "AddrOf is nil")
	fault(c.Link == nil, "Link is nil")
	fault(c.Interval < time.Millisecond, "Interval %v is below 1ms", c.Interval)
	fault(c.Timeout < 5*c.Interval, "Timeout %v is below 5 intervals of %v", c.Timeout, c.Interval)
	return c, errors.Join(faults...)
}

// isName reports whether s can be a gossip name. An address or a join's key
// never can, so the two are told apart by their form.
func isName(s string) bool {
	if len(s) != 16 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
