package sim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/memnet"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// What a probe says of the wire protocol, version 1.
const (
	basePath     = "/_peercache/"
	connectPath  = basePath + "v1/connect"
	upgradeToken = "peercache/1"
	shards       = 4096

	maxBody = 64 << 20 // of an answer

	opGet       = 3
	getLookup   = 0 // what that very member holds, tombstones included
	replyAbsent = 4
	replyEntry  = 5

	flagTombstone = 1
	flagNegative  = 2
)

// shardOf returns the shard of a key.
func shardOf(cache, key string) uint64 {
	return mix(xxhash.Sum64String(key)^mix(xxhash.Sum64String(cache))) / (1 << 64 / shards)
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// A holding is what one member holds of a key.
type holding struct {
	Held  bool
	Flags uint8
	W, V  [2]uint64 // the version of the last write, and of the entry
	Value string
}

// there reports whether it is a value.
func (h holding) there() bool { return h.Held && h.Flags&(flagTombstone|flagNegative) == 0 }

// String returns the holding for people.
func (h holding) String() string {
	switch {
	case !h.Held:
		return "nothing"
	case h.Flags&flagTombstone != 0:
		return fmt.Sprintf("deleted at %x", h.W)
	case h.Flags&flagNegative != 0:
		return fmt.Sprintf("known to be absent, %x %x", h.W, h.V)
	}
	return fmt.Sprintf("%q, %x %x", h.Value, h.W, h.V)
}

// A probe asks one member over the wire what it holds, as another member
// would.
type probe struct {
	conn *mux.Conn
}

// newProbe connects a host, which is no member, to one that is.
func newProbe(ctx context.Context, host *memnet.Host, m peercache.Member) (*probe, error) {
	conn, err := host.DialContext(ctx, "tcp", m.Addr)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "GET "+connectPath+" HTTP/1.1\r\nHost: "+m.Addr+
		"\r\nConnection: Upgrade\r\nUpgrade: "+upgradeToken+"\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	// The member says nothing beyond its answer before it got a hello.
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = errors.New(response.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	local := mux.Local{Self: mux.Identity{Cluster: basePath, Name: "probe", Incarnation: 1, Shards: shards}}
	if _, err := mux.ClientHandshake(conn, time.Now().Add(5*time.Second), local, mux.PurposeCalls, m.Incarnation); err != nil {
		conn.Close()
		return nil, err
	}
	return &probe{mux.New(conn, mux.Options{MaxBody: maxBody})}, nil
}

func (p *probe) close() { p.conn.Close() }

// holds asks for a key.
func (p *probe) holds(ctx context.Context, cache, key string) (holding, error) {
	b := wire.AppendByte(nil, getLookup)
	b = wire.AppendBool(b, false)
	b = wire.AppendBool(b, true)
	b = wire.AppendString(b, cache)
	b = wire.AppendString(b, key)
	reply, err := p.conn.Call(ctx, mux.Request{Op: opGet, Body: b}, nil)
	if err != nil {
		return holding{}, err
	}
	switch reply.Code {
	case replyAbsent:
		return holding{}, nil
	case replyEntry:
		return readHolding(reply.Body)
	default:
		return holding{}, fmt.Errorf("reply %d to a get", reply.Code)
	}
}

// readHolding reads an entry as it travels.
func readHolding(body []byte) (h holding, err error) {
	r := wire.NewReader(body)
	h.Held = true
	h.Flags = r.Byte()
	r.Uint16() // the codec's id
	write := r.Bool()
	h.W = [2]uint64{r.Uint64(), r.Uint64()}
	if h.V = h.W; !write {
		h.V = [2]uint64{r.Uint64(), r.Uint64()}
	}
	if r.Uvarint() != 0 {
		r.Uint64() // when it expires
	}
	h.Value = unpad(string(r.Bytes(len(body))))
	return h, r.End()
}
