package peercache_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/peercachetest"
)

// An attack is what somebody does who reached a node's port.
type attack struct {
	is      string
	upgrade bool        // first the connection is upgraded, as a peer's
	purpose mux.Purpose // not 0: and then there is a handshake
	do      func(conn net.Conn)
}

// sends sends and then waits until the other end has had enough.
func sends(b ...[]byte) func(net.Conn) {
	return func(conn net.Conn) {
		conn.Write(bytes.Join(b, nil))
		io.Copy(io.Discard, conn)
	}
}

// leaves sends and hangs up.
func leaves(b ...[]byte) func(net.Conn) {
	return func(conn net.Conn) { conn.Write(bytes.Join(b, nil)) }
}

// repeats sends the same again and again, until the other end has had enough.
func repeats(b []byte, pause time.Duration) func(net.Conn) {
	return func(conn net.Conn) {
		for {
			if _, err := conn.Write(b); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// noise is different each time.
func noise(size int) func(net.Conn) {
	return func(conn net.Conn) {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		conn.Write(b)
		io.Copy(io.Discard, conn)
	}
}

// message is a message of the handshake.
func message(size int, kind byte, body ...[]byte) []byte {
	b := wire.AppendUint16(nil, uint16(size))
	return append(append(b, kind), bytes.Join(body, nil)...)
}

func frame(h wire.Header, body string) []byte { return wire.AppendFrame(nil, &h, []byte(body), nil) }

// claim is the head of a frame that says that it is this long.
func claim(size uint32) []byte {
	return append(binary.BigEndian.AppendUint32(nil, size), byte(wire.KindRequest), 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
}

var attacks = []attack{
	{"noise", false, 0, noise(4 << 10)},
	{"nothing", false, 0, sends()},
	{"it hangs up", false, 0, leaves()},
	{"half a request", false, 0, leaves([]byte("GET /_peercache/v1/conn"))},
	{"half a request, and it waits", false, 0, sends([]byte("GET /_peercache/v1/connect HTTP/1.1\r\nUpg"))},
	{"a header byte by byte", false, 0, func(conn net.Conn) {
		io.WriteString(conn, "GET / HTTP/1.1\r\n")
		repeats([]byte("x"), 100*time.Millisecond)(conn)
	}},
	{"a header without an end", false, 0, func(conn net.Conn) {
		io.WriteString(conn, "GET /_peercache/v1/connect HTTP/1.1\r\nHost: x\r\n")
		repeats([]byte("X-Y: "+strings.Repeat("z", 1000)+"\r\n"), 0)(conn)
	}},
	{"a line without an end", false, 0, func(conn net.Conn) {
		io.WriteString(conn, "GET /")
		repeats(bytes.Repeat([]byte("x"), 1000), 0)(conn)
	}},
	{"a body without an end", false, 0, func(conn net.Conn) {
		io.WriteString(conn, "POST /_peercache/v1/connect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
		repeats(bytes.Repeat([]byte("x"), 1000), 0)(conn)
	}},
	{"requests in a row", false, 0, repeats([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 0)},
	{"HTTP/2", false, 0, sends([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))},
	{"TLS", false, 0, func(conn net.Conn) { tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake() }},

	{"noise in the handshake", true, 0, noise(8 << 10)},
	{"silence in the handshake", true, 0, sends()},
	{"it hangs up in the handshake", true, 0, leaves()},
	{"a message of no bytes", true, 0, sends(message(0, 0))},
	{"a message too large", true, 0, sends(message(0xffff, 1), bytes.Repeat([]byte("x"), 1<<16))},
	{"half a message", true, 0, sends(message(1000, 1, []byte("peercach")))},
	{"a hello of another protocol", true, 0, sends(message(101, 1, bytes.Repeat([]byte("x"), 100)))},
	{"a hello of strings too long", true, 0, sends(message(300, 1, []byte("peercach\x00\x01\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\xff\xff\xff\xff\x0f"), make([]byte, 300)))},
	{"a proof without a hello", true, 0, sends(message(10, 3, make([]byte, 9)))},
	{"a refusal", true, 0, sends(message(10, 5, make([]byte, 9)))},
	{"a handshake byte by byte", true, 0, repeats([]byte{0}, 100*time.Millisecond)},

	{"calls: noise", true, mux.PurposeCalls, noise(8 << 10)},
	{"calls: silence", true, mux.PurposeCalls, sends()},
	{"calls: a frame of 4 GB", true, mux.PurposeCalls, sends(claim(0xffffffff))},
	{"calls: a frame too large", true, mux.PurposeCalls, func(conn net.Conn) {
		conn.Write(claim(mux.MaxWhole * 2))
		repeats(make([]byte, 1<<10), 0)(conn)
	}},
	{"calls: a frame too small", true, mux.PurposeCalls, sends(claim(3))},
	{"calls: half a frame", true, mux.PurposeCalls, sends(claim(1000), []byte("half"))},
	{"calls: a body of 16 EB", true, mux.PurposeCalls, sends(frame(wire.Header{Kind: wire.KindRequest, Code: 1, Call: 1, Fields: wire.Fields{BodySize: 1 << 63}}, ""))},
	{"calls: a kind that is none", true, mux.PurposeCalls, sends(frame(wire.Header{Kind: 250, Call: 1}, "x"))},
	{"calls: operations that are none", true, mux.PurposeCalls, func(conn net.Conn) {
		for op := range 256 {
			conn.Write(frame(wire.Header{Kind: wire.KindRequest, Code: uint8(op), Call: uint64(op + 1)}, "nonsense of 20 bytes"))
		}
		io.Copy(io.Discard, conn)
	}},
	{"calls: one call twice", true, mux.PurposeCalls, sends(question(), question())},
	{"calls: questions without reading", true, mux.PurposeCalls, func(conn net.Conn) {
		for call := range uint64(200) {
			if _, err := conn.Write(frame(wire.Header{Kind: wire.KindRequest, Code: 1, Call: call + 1}, "12345678")); err != nil {
				return
			}
		}
		time.Sleep(5 * time.Second) // and goes on not reading
	}},
	{"calls: answers to nothing", true, mux.PurposeCalls, sends(frame(wire.Header{Kind: wire.KindReply, Call: 7}, "x"), frame(wire.Header{Kind: wire.KindChunk, Call: 7}, "x"))},
	{"calls: packets", true, mux.PurposeCalls, repeatTimes(frame(wire.Header{Kind: wire.KindPacket}, "x"), 1000)},

	{"gossip: noise in packets", true, mux.PurposeGossip, func(conn net.Conn) {
		for i := range 300 {
			b := make([]byte, i)
			for j := range b {
				b[j] = byte(rand.Uint32())
			}
			conn.Write(frame(wire.Header{Kind: wire.KindPacket}, string(b)))
		}
		io.Copy(io.Discard, conn)
	}},
	{"gossip: packets too large", true, mux.PurposeGossip, repeatTimes(frame(wire.Header{Kind: wire.KindPacket}, strings.Repeat("x", 100<<10)), 3)},
	{"gossip: requests", true, mux.PurposeGossip, sends(question())},
	{"stream: noise", true, mux.PurposeStream, noise(8 << 10)},
	{"stream: silence", true, mux.PurposeStream, sends()},
	{"stream: a message of 4 GB", true, mux.PurposeStream, sends([]byte{0xff, 0xff, 0xff, 0xff}, make([]byte, 1<<10))},
	{"stream: a megabyte of nothing", true, mux.PurposeStream, sends([]byte{0, 0x10, 0, 0}, make([]byte, 1<<20))},
	{"bulk: noise", true, mux.PurposeBulk, noise(8 << 10)},
	{"probe: it stays", true, mux.PurposeProbe, sends()},
}

func repeatTimes(b []byte, times int) func(net.Conn) {
	return func(conn net.Conn) {
		for range times {
			if _, err := conn.Write(b); err != nil {
				return
			}
		}
		io.Copy(io.Discard, conn)
	}
}

var incarnations atomic.Uint64

// run attacks the node at addr once, and returns when that is over or at the
// deadline. Each time it is somebody else.
func (a attack) run(t testing.TB, dial func(context.Context, string, string) (net.Conn, error), addr string, deadline time.Time) {
	var conn net.Conn
	if a.upgrade {
		conn = upgraded(t, dial, addr)
	} else {
		var err error
		conn, err = dial(context.Background(), "tcp", addr)
		require.NoError(t, err)
	}
	defer conn.Close()
	if a.purpose != 0 {
		local := strangersLocal("")
		local.Self.Incarnation = incarnations.Add(1)
		_, err := mux.ClientHandshake(conn, deadline, local, a.purpose, 0)
		require.NoError(t, err)
	}
	conn.SetDeadline(deadline)
	a.do(conn)
}

// A load of calls between members that must go well.
type load struct {
	stop  chan struct{}
	done  sync.WaitGroup
	calls atomic.Int64
	err   atomic.Pointer[error]
}

// startLoad lets every node ask every other, over and over.
func startLoad(nodes []*peercache.Node) *load {
	l := &load{stop: make(chan struct{})}
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			l.done.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					if err := from.AskView(ctx, to.Self()); err != nil {
						err = fmt.Errorf("%v asks %v: %w", from, to, err)
						l.err.CompareAndSwap(nil, &err)
					}
					cancel()
					l.calls.Add(1)
					select {
					case <-l.stop:
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
			})
		}
	}
	return l
}

// end ends the load and reports the first call that failed.
func (l *load) end(t testing.TB) {
	t.Helper()
	close(l.stop)
	l.done.Wait()
	if err := l.err.Load(); err != nil {
		require.NoError(t, *err)
	}
	require.Positive(t, l.calls.Load())
}

// Each attack is made 200 times at once while the members call each other: no
// call fails, no member is taken for dead, and after it all is as it was.
func TestAttacksOnThePort(t *testing.T) {
	times := 200
	if testing.Short() {
		times = 20
	}
	for _, a := range attacks {
		t.Run(a.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var book logbook
				c := peercachetest.NewCluster(t, 3, func(i int, cfg *peercache.Config) {
					if i == 0 {
						cfg.Logger = book.logger()
					}
				})
				l := startLoad(c.Nodes)
				time.Sleep(time.Second)
				views := c.Nodes[1].Stats().Views

				var attackers sync.WaitGroup
				deadline := time.Now().Add(10 * time.Second)
				for i := range times {
					dial := c.Network.Host(fmt.Sprintf("10.66.0.%d", i+1)).DialContext
					attackers.Go(func() { a.run(t, dial, c.Addr(0), deadline) })
				}
				time.Sleep(time.Second)
				strangers, all := c.Nodes[0].Inbound()
				require.LessOrEqual(t, strangers, peercache.MaxStrangers)
				require.LessOrEqual(t, all, times+peercache.MaxStrangers)
				attackers.Wait()
				l.end(t)
				require.Zero(t, c.WaitAgree())
				require.Equal(t, views, c.Nodes[1].Stats().Views, "nobody was taken for dead")

				time.Sleep(10 * time.Second)
				require.Zero(t, c.WaitAgree())
				strangers, all = c.Nodes[0].Inbound()
				require.Zero(t, strangers)
				require.LessOrEqual(t, all, 2*2*peercache.MaxPerPeer, "only those of the members are left")
				require.Less(t, len(book.told("")), 2*peercache.MaxStrangers, "the log is not flooded")
			})
		})
	}
}

// All attacks at once on the real network: the members go on, and afterwards
// no goroutine and no memory is left of it.
func TestAttacksOnLoopback(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds of real time")
	}
	first := startNode(t, peercache.Config{Listen: "127.0.0.1:0"})
	second := startNode(t, peercache.Config{Listen: "127.0.0.1:0", Join: []string{first.Addr()}})
	waitAgreed(t, first, second)
	require.NoError(t, first.AskView(t.Context(), second.Self()))
	require.NoError(t, second.AskView(t.Context(), first.Self()))
	memory := heap()
	back := goroutinesBack(t)

	l := startLoad([]*peercache.Node{first, second})
	dial := new(net.Dialer).DialContext
	var attackers sync.WaitGroup
	deadline := time.Now().Add(8 * time.Second)
	for _, a := range attacks {
		for range 5 {
			attackers.Go(func() { a.run(t, dial, first.Addr(), deadline) })
		}
	}
	attackers.Wait()
	l.end(t)
	waitAgreed(t, first, second)
	back()
	strangers, _ := first.Inbound()
	require.Zero(t, strangers)
	held := heap() - memory
	t.Logf("%d KiB are held after it", held>>10)
	require.Less(t, held, int64(8<<20))
	require.NoError(t, first.AskView(t.Context(), second.Self()))
}

// heap returns how much memory is in use.
func heap() int64 {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// flood opens connections to addr until the node has enough of them, and
// returns those that it let be.
func flood(t testing.TB, c *peercachetest.Cluster, open func(dial func(context.Context, string, string) (net.Conn, error)) net.Conn) (held []net.Conn) {
	dial := c.Network.Host("10.66.0.1").DialContext
	for range peercache.MaxStrangers + 100 {
		if conn := open(dial); conn != nil {
			held = append(held, conn)
		}
	}
	synctest.Wait()
	return held
}

func TestStrangersAreBounded(t *testing.T) {
	for _, a := range []struct {
		is   string
		open func(dial func(context.Context, string, string) (net.Conn, error), addr string) net.Conn
	}{
		{"who say nothing", func(dial func(context.Context, string, string) (net.Conn, error), addr string) net.Conn {
			conn, err := dial(context.Background(), "tcp", addr)
			if err != nil {
				return nil
			}
			return conn
		}},
		{"who upgrade and say no more", func(dial func(context.Context, string, string) (net.Conn, error), addr string) net.Conn {
			conn, err := dial(context.Background(), "tcp", addr)
			if err != nil {
				return nil
			}
			fmt.Fprintf(conn, "GET /_peercache/v1/connect HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\n\r\n")
			answer := make([]byte, 1<<10)
			n, _ := conn.Read(answer)
			if !strings.HasPrefix(string(answer[:n]), "HTTP/1.1 101 ") {
				conn.Close()
				return nil
			}
			return conn
		}},
	} {
		t.Run(a.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				victim := c.Nodes[0]
				l := startLoad(c.Nodes)
				views := c.Nodes[1].Stats().Views
				time.Sleep(time.Second)
				held := flood(t, c, func(dial func(context.Context, string, string) (net.Conn, error)) net.Conn {
					return a.open(dial, c.Addr(0))
				})
				strangers, _ := victim.Inbound()
				require.Equal(t, peercache.MaxStrangers, strangers, "as many as are let in, and no more")

				// While it lasts nobody else gets in, and says so.
				late := startNode(t, at(t, c.Network, "10.0.1.1:7600", peercache.Config{Join: []string{c.Addr(0)}}))
				require.Error(t, late.Stats().Seeds[0].Err)
				require.Len(t, late.Members(), 1)

				// They are given some seconds, then the late one gets in.
				waitAgreed(t, c.Nodes[0], c.Nodes[1], c.Nodes[2], late)
				strangers, _ = victim.Inbound()
				require.Zero(t, strangers)
				for _, conn := range held {
					conn.SetDeadline(time.Now().Add(time.Second))
					_, err := io.Copy(io.Discard, conn)
					require.NotErrorIs(t, err, context.DeadlineExceeded, "the node has closed it")
					conn.Close()
				}
				l.end(t)
				require.LessOrEqual(t, c.Nodes[1].Stats().Views, views+2, "the late one came and became active, no more")
			})
		})
	}
}

// What a stranger says that it will send is not made room for.
func TestClaimsTakeNoMemory(t *testing.T) {
	n := startNode(t, peercache.Config{Listen: "127.0.0.1:0"})
	const times = 100
	dial := new(net.Dialer).DialContext
	before := heap()
	for i := range times {
		conn := upgraded(t, dial, n.Addr())
		purpose, claims := mux.PurposeCalls, append(
			frame(wire.Header{Kind: wire.KindRequest, Code: 1, Call: 1, Fields: wire.Fields{BodySize: 16 << 20}}, ""), claim(mux.MaxWhole)...)
		if i%2 == 1 {
			purpose, claims = mux.PurposeStream, binary.BigEndian.AppendUint32(nil, 1<<20)
		}
		local := strangersLocal("")
		local.Self.Incarnation = incarnations.Add(1)
		_, err := mux.ClientHandshake(conn, time.Now().Add(patience), local, purpose, 0)
		require.NoError(t, err)
		_, err = conn.Write(claims)
		require.NoError(t, err)
	}
	eventually(t, "the handshakes are over", func() bool { strangers, _ := n.Inbound(); return strangers == 0 })
	held := heap() - before
	t.Logf("%d connections hold %d KiB", times, held>>10)
	require.Less(t, held, int64(times*(mux.MaxWhole+64<<10)), "a frame each, at most")
}

// The oldest connections of one peer for one purpose go when there are too
// many.
func TestConnectionsOfOnePeerAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		dial := c.Network.Host("10.9.9.9").DialContext
		var conns []net.Conn
		for range 3 * peercache.MaxPerPeer {
			conn := upgraded(t, dial, c.Addr(0))
			_, err := mux.ClientHandshake(conn, time.Time{}, strangersLocal(""), mux.PurposeCalls, 0)
			require.NoError(t, err)
			conns = append(conns, conn)
			time.Sleep(time.Millisecond)
		}
		_, all := c.Nodes[0].Inbound()
		require.Equal(t, peercache.MaxPerPeer, all)
		for i, conn := range conns {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			_, err := conn.Read(make([]byte, 1))
			require.Equal(t, i >= len(conns)-peercache.MaxPerPeer, isTimeout(err), "connection %d: %v", i, err)
		}
	})
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
