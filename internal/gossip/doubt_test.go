package gossip

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder is a link to nobody that remembers with which incarnations a member
// was said to be alive.
type recorder struct {
	name string
	mu   sync.Mutex
	inc  uint64 // guarded by mu; the greatest
}

func (r *recorder) Send(_ Peer, packet []byte) error {
	return check(packet, func(m message) {
		if m.live && string(m.node) == r.name {
			r.mu.Lock()
			r.inc = max(r.inc, m.inc)
			r.mu.Unlock()
		}
	})
}

func (*recorder) Open(context.Context, Peer) (net.Conn, error) { return nil, errRefusedConn }

// Gossip may lose an objection: who accuses on is told again, with a greater
// incarnation each time.
func TestObjectionIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const self = "00000000000000ff"
		r := &recorder{name: self}
		g, err := Start(Config{Name: self, Link: r, AddrOf: addrOf, Meta: func() []byte { return []byte("self:1|") }})
		require.NoError(t, err)
		defer g.Close()
		from := Peer{Name: someone, Addr: "x:1"}
		g.Packet(from, alive(someone, dummyIP, 1, "x:1|"))
		accuse := func(inc int) (objected uint64) {
			g.Packet(from, encode(kindSuspect, "Incarnation", inc, "Node", self, "From", someone))
			time.Sleep(g.pace.interval)
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.inc
		}
		before := accuse(1)
		require.Greater(t, before, uint64(1), "memberlist objects")
		for range 3 {
			now := accuse(1)
			require.Greater(t, now, before)
			before = now
		}
		require.Greater(t, accuse(int(before)), before, "memberlist objects")
	})
}
