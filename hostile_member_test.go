package peercache_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/peercachetest"
)

// said is an announcement as it travels: a version and fields.
func said(fields ...[]byte) []byte { return append([]byte{1}, bytes.Join(fields, nil)...) }

// tagged is one field of it; the tags are those of heartbeat.go.
func tagged(tag byte, value ...byte) []byte { return append([]byte{tag, byte(len(value))}, value...) }

// A liar is a member of the gossip that announces what it likes. It opens
// streams and sends no packets.
type liar struct {
	t     testing.TB
	dial  func(context.Context, string, string) (net.Conn, error)
	local mux.Local
}

var _ gossip.Link = liar{}

func (liar) Send(gossip.Peer, []byte) error { return nil }

func (l liar) Open(ctx context.Context, to gossip.Peer) (net.Conn, error) {
	conn := upgraded(l.t, l.dial, to.Addr)
	if _, err := mux.ClientHandshake(conn, time.Time{}, l.local, mux.PurposeStream, 0); err != nil {
		return nil, err
	}
	return conn, nil
}

// lie joins the member at addr with an announcement, and leaves it at that.
func lie(t testing.TB, nw *peercachetest.Network, addr string, incarnation uint64, meta []byte) {
	t.Helper()
	local := strangersLocal("")
	local.Self.Incarnation = incarnation
	g, err := gossip.Start(gossip.Config{
		Name:   fmt.Sprintf("%016x", incarnation),
		Meta:   func() []byte { return meta },
		AddrOf: func([]byte) (string, bool) { return "10.66.0.1:7600", true },
		Link:   liar{t, nw.Host("10.66.0.1").DialContext, local},
	})
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, g.Join(t.Context(), addr))
}

func TestAnnouncementsThatAreNone(t *testing.T) {
	addr, active := tagged(1, []byte("10.66.0.1:7600")...), tagged(7, byte(peercache.MemberActive))
	long := func(tag byte, size int) []byte { return tagged(tag, bytes.Repeat([]byte("x"), size)...) }
	for is, meta := range map[string][]byte{
		"nothing":               {},
		"noise":                 []byte("noise"),
		"another version":       append([]byte{2}, said(addr, active)[1:]...),
		"no address":            said(active),
		"no state":              said(addr),
		"an address of 2 lines": said(tagged(1, []byte("a\r\nb:1")...), active),
		"state 9":               said(addr, tagged(7, 9)),
		"weight 0":              said(addr, active, tagged(4, 0)),
		"weight 2^62":           said(addr, active, tagged(4, binary.AppendUvarint(nil, 1<<62)...)),
		"17 copies":             said(addr, active, tagged(5, 17)),
		"no copies":             said(addr, active, tagged(5, 0)),
		"algorithm 0":           said(addr, active, tagged(6, 0)),
		"a name too long":       said(addr, active, long(2, 129)),
		"a zone too long":       said(addr, active, long(3, 65)),
		"cut short":             said(addr, active, []byte{2, 200, 'x'}),
	} {
		t.Run(is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				views := c.Nodes[0].Stats().Views
				lie(t, c.Network, c.Addr(0), 4711, meta)
				for range 5 {
					time.Sleep(2 * time.Second)
					require.Zero(t, c.WaitAgree())
				}
				require.Equal(t, views, c.Nodes[0].Stats().Views, "it was in no view")
			})
		})
	}
}

// everySees reports whether all nodes list a member, or none does.
func everySees(nodes []*peercache.Node, incarnation uint64, listed bool) bool {
	for _, n := range nodes {
		if slices.ContainsFunc(n.Members(), func(m peercache.Member) bool { return m.Incarnation == incarnation }) != listed {
			return false
		}
	}
	return true
}

// A member that says what is allowed is believed, however odd that is; when it
// is found dead all is as it was.
func TestOddAnnouncements(t *testing.T) {
	addr, active := tagged(1, []byte("10.66.0.1:7600")...), tagged(7, byte(peercache.MemberActive))
	for is, meta := range map[string][]byte{
		"the least":              said(addr, active),
		"joining":                said(addr, tagged(7, byte(peercache.MemberJoining))),
		"leaving":                said(addr, tagged(7, byte(peercache.MemberLeaving))),
		"a name to trip over":    said(addr, active, tagged(2, []byte("\x1b[2J\x00\r\n\xff%s")...)),
		"the greatest weight":    said(addr, active, tagged(4, binary.AppendUvarint(nil, 65536)...)),
		"16 copies":              said(addr, active, tagged(5, 16)),
		"an algorithm to come":   said(addr, active, tagged(6, 0xff, 0x01)),
		"a clock that is off":    said(addr, active, tagged(8, 1)),
		"fields to come":         said(addr, active, tagged(200, []byte("x")...), tagged(201)),
		"an address of nobody's": said(tagged(1, []byte("nobody.example:1")...), active),
	} {
		t.Run(is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				before := c.Nodes[0].Stats().TableDigest
				lie(t, c.Network, c.Addr(0), 4711, meta)
				eventually(t, "all have heard of it", func() bool {
					return everySees(c.Nodes, 4711, true)
				})
				for _, n := range c.Nodes {
					require.NotEmpty(t, n.Owners("users", "42"))
				}
				eventually(t, "it is found dead", func() bool { return everySees(c.Nodes, 4711, false) })
				c.WaitAgree()
				require.Equal(t, before, c.Nodes[0].Stats().TableDigest)
			})
		})
	}
}

// relays serves clients that ask for the members with an answer.
func relays(answer []byte) func(testing.TB, net.Listener) {
	return upgrades(func(conn net.Conn) {
		local := strangersLocal("")
		if _, err := mux.ServerHandshake(conn, time.Time{}, local, nil); err != nil {
			return
		}
		c := mux.New(conn, mux.Options{Serve: func(context.Context, mux.Request, func(mux.Reply) bool) mux.Reply {
			return mux.Reply{Body: answer}
		}})
		<-c.Done()
		c.Close()
	})
}

// A member that tells nonsense of the others does not keep a client from those
// that do not.
func TestClientOfAMemberThatTellsNonsense(t *testing.T) {
	for is, answer := range map[string][]byte{
		"nothing":        {},
		"noise":          []byte("noise"),
		"2^63 members":   wire.AppendUvarint(nil, 1<<63),
		"one that is no": wire.AppendBytes(wire.AppendUint64(wire.AppendUvarint(nil, 1), 7), []byte("noise")),
		"megabytes":      bytes.Repeat([]byte("noise"), 1<<20),
	} {
		t.Run(is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				const addr = "10.66.0.1:7600"
				listener, err := c.Network.Host(addr).Listen(addr)
				require.NoError(t, err)
				relays(answer)(t, listener)
				client := c.StartClient(func(cfg *peercache.Config) { cfg.Join = []string{addr, c.Addr(0)} })
				require.NoError(t, client.WaitReady(t.Context()))
				require.Len(t, client.Members(), 3)
				i := slices.IndexFunc(client.Stats().Seeds, func(s peercache.SeedStats) bool { return s.Addr == addr })
				require.ErrorContains(t, client.Stats().Seeds[i].Err, "peercache: join "+addr+": ")
				time.Sleep(time.Minute)
				require.Equal(t, c.Nodes[0].Members(), client.Members())
				for _, m := range client.Members() {
					require.True(t, strings.HasPrefix(m.Name, "node-"))
				}
				client.Close() // before the listener: its connections end
				c.Network.Close()
			})
		})
	}
}
