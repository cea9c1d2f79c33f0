package sim

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"

	"github.com/peercache/peercache/internal/mux"
)

// packets loses packets of gossip: what is written on a connection for gossip
// once its handshake is over. A frame is written whole or with others, so
// whole frames get lost; bytes of other connections never do.
type packets struct {
	lost   atomic.Uint64 // of 100
	frames atomic.Int64  // written on dialed connections that are not for gossip

	mu     sync.Mutex
	random *rand.Rand // guarded by mu
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialer wraps the dialing of one host.
func (p *packets) dialer(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &lossyConn{Conn: conn, packets: p}, nil
	}
}

func (p *packets) lose() bool {
	lost := p.lost.Load()
	if lost == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.Uint64N(100) < lost
}

// A lossyConn is a dialed connection that may turn out to be for gossip.
type lossyConn struct {
	net.Conn
	packets *packets

	writes int // of the HTTP request, the hello and the proof
	gossip bool
}

// handshakeWrites is how often the side that dials writes before its frames.
const handshakeWrites = 3

// Write implements [net.Conn]. The handshake and the frames after it are
// written by one goroutine at a time.
func (c *lossyConn) Write(b []byte) (int, error) {
	switch {
	case c.writes < handshakeWrites:
		if c.writes == 1 {
			c.gossip = purposeOf(b) == mux.PurposeGossip
		}
		c.writes++
	case !c.gossip:
		c.packets.frames.Add(1)
	case c.packets.lose():
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// purposeOf reads the purpose in a hello: after its length, type, magic, range
// of versions and features.
func purposeOf(hello []byte) mux.Purpose {
	const at = 2 + 1 + 8 + 2 + 2 + 8
	if len(hello) <= at || int(binary.BigEndian.Uint16(hello)) != len(hello)-2 {
		return 0
	}
	return mux.Purpose(hello[at])
}
