package gossip

import (
	"encoding/binary"
	"errors"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls back. NotifyAlive, NotifyJoin,
// NotifyUpdate and NotifyLeave come under memberlist's lock: they must not
// wait and must not call memberlist.
type delegate struct{ g *Gossip }

var (
	_ memberlist.Delegate      = delegate{}
	_ memberlist.EventDelegate = delegate{}
	_ memberlist.AliveDelegate = delegate{}
	_ memberlist.PingDelegate  = delegate{}
)

var (
	errName    = errors.New("not a member's name")
	errAddress = errors.New("not the address that members announce")
	errNoAddr  = errors.New("metadata is refused")
	errFull    = errors.New("too many members")
)

// dummyIP is dummyHost as it travels.
var dummyIP = net.IPv4(127, 0, 0, 1).To4()

// NotifyAlive refuses who cannot be a member. It is called for every message
// that says that a member is alive, old ones included, so it learns nothing
// from it. What it lets pass has one address, so memberlist, which trusts the
// first address it hears for a name, can be lied to about none.
func (d delegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.cfg.Name {
		return nil // it would be missing in memberlist's map, and LocalNode panic
	}
	switch {
	case !isName(n.Name):
		return errName
	case string(n.Addr) != string(dummyIP) || n.Port != dummyPort: // byte for byte, as memberlist compares
		return errAddress
	case len(n.Meta) > MaxMeta:
		return errNoAddr
	case d.g.table.full(n.Name):
		return errFull
	}
	if _, ok := d.addrOf(n.Meta); !ok {
		return errNoAddr
	}
	return nil
}

func (d delegate) addrOf(meta []byte) (string, bool) {
	if !d.g.calls.enter() {
		return "", false
	}
	defer d.g.calls.leave()
	return d.g.cfg.AddrOf(meta)
}

// NotifyJoin is called when a member became live, for the first time or again.
func (d delegate) NotifyJoin(n *memberlist.Node) { d.up(n) }

// NotifyUpdate is called when a live member has new metadata.
func (d delegate) NotifyUpdate(n *memberlist.Node) { d.up(n) }

// NotifyLeave is called when a member is dead or has left; which of the two,
// memberlist does not tell.
func (d delegate) NotifyLeave(n *memberlist.Node) {
	d.g.table.down(n.Name)
	d.g.retune()
	d.g.signal()
}

func (d delegate) up(n *memberlist.Node) {
	addr, _ := d.addrOf(n.Meta)
	d.g.table.up(n.Name, addr, n.Meta)
	d.g.retune()
	d.g.signal()
}

// AckPayload sends our wall clock along with the answer to a ping.
func (d delegate) AckPayload() []byte {
	if !d.g.calls.enter() {
		return nil
	}
	defer d.g.calls.leave()
	return binary.BigEndian.AppendUint64(nil, uint64(d.g.cfg.Now().UnixMicro()))
}

// NotifyPingComplete compares clocks: the peer read its own half a round trip
// ago. It is called by the prober, under no lock. After a pause of this
// process an ack may win over the timer that should have ended the wait for
// it, with a round trip as long as the pause: that one says nothing.
func (d delegate) NotifyPingComplete(n *memberlist.Node, rtt time.Duration, payload []byte) {
	if len(payload) != 8 || rtt < 0 || rtt > d.g.pace.ack || !d.g.calls.enter() {
		return
	}
	defer d.g.calls.leave()
	theirs := time.UnixMicro(int64(binary.BigEndian.Uint64(payload)))
	d.g.cfg.Offset(n.Name, theirs.Sub(d.g.cfg.Now().Add(-rtt/2)), rtt)
}

// NodeMeta returns what Start or Update got from Config.Meta; memberlist
// panics when it is too long.
func (d delegate) NodeMeta(int) []byte { return *d.g.meta.Load() }

// Nothing but membership travels in gossip.

func (delegate) NotifyMsg([]byte)                {}
func (delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (delegate) LocalState(bool) []byte          { return nil }
func (delegate) MergeRemoteState([]byte, bool)   {}
