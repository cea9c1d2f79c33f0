package peercache_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/peercachetest"
)

// A stranger is a program that is found where a peer was expected.
type stranger struct {
	is    string
	serve func(t testing.TB, listener net.Listener) // returns at once
	texts []string                                  // of the seed's error, beside the address
}

// eachConn serves a listener's connections one by one until it is closed.
func eachConn(f func(conn net.Conn)) func(testing.TB, net.Listener) {
	return func(_ testing.TB, listener net.Listener) {
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go f(conn)
			}
		}()
	}
}

// program serves HTTP.
func program(h http.HandlerFunc) func(testing.TB, net.Listener) {
	return func(t testing.TB, listener net.Listener) {
		server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
		t.Cleanup(func() { server.Close() })
		go server.Serve(listener)
	}
}

// says answers whatever comes first with a text and closes.
func says(text string) func(testing.TB, net.Listener) {
	return eachConn(func(conn net.Conn) {
		defer conn.Close()
		http.ReadRequest(bufio.NewReader(conn))
		io.WriteString(conn, text)
	})
}

// upgrades lets connections through to the handshake.
func upgrades(f func(conn net.Conn)) func(testing.TB, net.Listener) {
	return eachConn(func(conn net.Conn) {
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\n\r\n")
		f(conn)
	})
}

// handshakes as a peer with other ideas.
func handshakesAs(local mux.Local) func(testing.TB, net.Listener) {
	return upgrades(func(conn net.Conn) { mux.ServerHandshake(conn, time.Time{}, local, nil) })
}

var strangers = []stranger{
	{"it accepts and says nothing", eachConn(func(conn net.Conn) { io.Copy(io.Discard, conn) }), []string{"no answer"}},
	{"it accepts and hangs up", eachConn(func(conn net.Conn) { conn.Close() }), []string{"the other end closed the connection"}},
	{"it hangs up after the request", says(""), []string{"the other end closed the connection"}},
	{"it stops in the middle of a line", says("HTTP/1.1 101 Switch"), []string{"the other end closed the connection"}},
	{"it never ends its header", says("HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X: y\r\n", 1<<14)), []string{"its header is longer than 8192 bytes"}},
	{"it speaks something else", says("SSH-2.0-OpenSSH_9.7\r\n"), []string{"no HTTP answer", "SSH-2.0"}},
	{"another program, 404", program(http.NotFound), []string{"no peer answers at /_peercache/v1/connect there (Config.Path): 404 Not Found", "404 page not found"}},
	{"another program, 200", program(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello\x1b[31m") }), []string{"did not upgrade to peercache/1: 200 OK", `"hello\x1b[31m"`}},
	{"another program, a redirect", program(http.RedirectHandler("/login", http.StatusFound).ServeHTTP), []string{"did not upgrade to peercache/1: 302 Found"}},
	{"another program, websockets", says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"), []string{"did not upgrade to peercache/1: 101"}},
	{"a newer peercache", says("HTTP/1.1 426 Upgrade Required\r\nUpgrade: peercache/2\r\nContent-Length: 22\r\n\r\nspeaks peercache/2 now"), []string{"did not upgrade to peercache/1: 426 Upgrade Required", "speaks peercache/2 now"}},
	{"a body that never ends", eachConn(func(conn net.Conn) {
		io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nlater")
		io.Copy(io.Discard, conn)
	}), []string{"503 Service Unavailable", "later"}},
	{"TLS, and HTTP behind it", func(t testing.TB, listener net.Listener) {
		program(http.NotFound)(t, tls.NewListener(listener, newAuthority(t).oneWay(t, "10.0.0.2")))
	}, []string{"the other end speaks TLS and this node does not (Config.TLS)"}},
	{"TLS that answers with an alert", says("\x15\x03\x01\x00\x02\x02\x46"), []string{"the other end speaks TLS and this node does not (Config.TLS)"}},
	{"it hangs in the handshake", upgrades(func(conn net.Conn) { io.Copy(io.Discard, conn) }), []string{"no answer"}},
	{"it hangs up in the handshake", upgrades(func(net.Conn) {}), []string{"handshake", "the other end closed the connection"}},
	{"nonsense in the handshake", upgrades(func(conn net.Conn) {
		io.WriteString(conn, strings.Repeat("nonsense", 1000))
		io.Copy(io.Discard, conn)
	}), []string{"handshake", "malformed"}},
	{"another version of the protocol", handshakesAs(mux.Local{
		Self: mux.Identity{Cluster: "/_peercache/", Incarnation: 1, Shards: peercache.ShardCount}, MinVersion: 2, MaxVersion: 3,
	}), []string{"no common version", "versions 2 to 3 there, 1 to 1 here"}},
	{"another number of shards", handshakesAs(mux.Local{
		Self: mux.Identity{Cluster: "/_peercache/", Incarnation: 1, Shards: 16},
	}), []string{"another number of shards", "16 shards there, 4096 here"}},
	{"another cluster", handshakesAs(mux.Local{
		Self: mux.Identity{Cluster: "/other/", Incarnation: 1, Shards: peercache.ShardCount},
	}), []string{"another cluster", `cluster "/other/" there, "/_peercache/" here`, "(Config.Path)"}},
}

// Whatever is found at a seed's address, Start succeeds, Stats and the log say
// what is wrong, the log once, and when a peer is there instead it is joined.
func TestStrangerAtASeedsAddress(t *testing.T) {
	for _, s := range strangers {
		t.Run(s.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const addr = "10.0.0.2:7600"
				nw := peercachetest.NewNetwork()
				defer nw.Close()
				listener, err := nw.Host(addr).Listen(addr)
				require.NoError(t, err)
				s.serve(t, listener)

				var book logbook
				n := startNode(t, at(t, nw, "10.0.0.1:7600", peercache.Config{Join: []string{addr}, Logger: book.logger()}))
				require.NoError(t, n.WaitReady(t.Context()), "it is active, alone")
				seed := n.Stats().Seeds[0]
				require.Equal(t, addr, seed.Addr)
				require.Zero(t, seed.LastContact)
				for _, text := range append(s.texts, "peercache: join "+addr+": ") {
					require.ErrorContains(t, seed.Err, text)
				}
				time.Sleep(5 * time.Minute)
				require.Len(t, book.told("seed does not answer", "seed="+addr), 1, "once, not per round")

				require.NoError(t, listener.Close())
				time.Sleep(20 * time.Second)
				require.ErrorContains(t, n.Stats().Seeds[0].Err, "connection refused")
				require.Len(t, book.told("seed does not answer", "seed="+addr), 2, "it is another fault now")

				other := startNode(t, at(t, nw, addr, peercache.Config{}))
				waitAgreed(t, n, other)
				eventually(t, "the seed is well", func() bool { return n.Stats().Seeds[0].Err == nil })
				require.Len(t, book.told("seed answers now", "seed="+addr), 1)
				require.NotZero(t, n.Stats().Seeds[0].LastContact)
			})
		})
	}
}

// The same where the real network words the errors: they hold the port that
// the system picked for each attempt.
func TestStrangerAtASeedsAddressOnLoopback(t *testing.T) {
	for _, s := range strangers {
		if s.is == "it accepts and says nothing" || s.is == "it hangs in the handshake" || s.is == "a body that never ends" {
			continue // they take their time
		}
		t.Run(s.is, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer listener.Close()
			counted := &countingListener{Listener: listener}
			s.serve(t, counted)
			addr := listener.Addr().String()

			var book logbook
			n := startNode(t, peercache.Config{Listen: "127.0.0.1:0", Join: []string{addr}, Logger: book.logger()})
			for _, text := range append(s.texts, "peercache: join "+addr+": ") {
				require.ErrorContains(t, n.Stats().Seeds[0].Err, text)
			}
			for counted.accepted.Load() < 8 {
				n.Rediscover()
				time.Sleep(time.Millisecond)
			}
			require.NoError(t, n.Close())
			require.Len(t, book.told("seed does not answer", "seed="+addr), 1, "once, not per round")
		})
	}
}

type countingListener struct {
	net.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	l.accepted.Add(1)
	return conn, err
}

func TestSeedThatRefuses(t *testing.T) {
	var book logbook
	addr := freeAddr(t)
	n := startNode(t, peercache.Config{Listen: "127.0.0.1:0", Join: []string{addr}, Logger: book.logger()})
	require.EqualError(t, n.Stats().Seeds[0].Err,
		fmt.Sprintf("peercache: join %s: gossip: join %s: dial tcp %s: connect: connection refused", addr, addr, addr))
	require.Len(t, book.told("seed does not answer", "seed="+addr, "connection refused"), 1)
}

func TestSeedThatDoesNotResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		var book logbook
		n := startNode(t, at(t, nw, "10.0.0.1:7600", peercache.Config{Join: []string{"cache.example:7600"}, Logger: book.logger()}))
		require.ErrorContains(t, n.Stats().Seeds[0].Err, "peercache: join cache.example:7600: lookup cache.example")
		require.ErrorContains(t, n.Stats().Seeds[0].Err, "no such host")
		time.Sleep(5 * time.Minute)
		require.Len(t, book.told("seed does not answer"), 1)

		// Of several addresses each has its own fault, told once, in whatever
		// order the name service gives them.
		turn := nw.Host("10.0.0.9") // a host where nobody listens
		nw.SetName("cache.example", "10.0.0.8", turn.Name())
		time.Sleep(20 * time.Second)
		nw.SetName("cache.example", turn.Name(), "10.0.0.8")
		time.Sleep(20 * time.Second)
		require.ErrorContains(t, n.Stats().Seeds[0].Err, "join 10.0.0.8:7600: ")
		require.ErrorContains(t, n.Stats().Seeds[0].Err, "join 10.0.0.9:7600: ")
		require.Len(t, book.told("seed does not answer"), 2)
	})
}

// Two nodes that are not set up alike. Each says so.
func TestPeerThatIsSetUpOtherwise(t *testing.T) {
	ca := newAuthority(t)
	for _, c := range []struct {
		is           string
		mine, theirs peercache.Config
		text         string // of the seed's error
		theirLog     string // what the other end logs; empty: nothing
	}{
		{
			"another secret",
			peercache.Config{Secret: "a"}, peercache.Config{Secret: "b"},
			"secrets differ: the secret is not accepted there (Config.Secret, AcceptSecrets)",
			"secrets differ: the other side does not prove a secret that is accepted here (Config.Secret, AcceptSecrets)",
		}, {
			"a secret here only",
			peercache.Config{Secret: "a"}, peercache.Config{},
			"secrets differ: no secret there, one here (Config.Secret, AcceptSecrets)",
			"secrets differ: a secret there, none here (Config.Secret, AcceptSecrets)",
		}, {
			"a secret there only",
			peercache.Config{}, peercache.Config{Secret: "a"},
			"secrets differ: a secret there, none here (Config.Secret, AcceptSecrets)",
			"secrets differ: no secret there, one here (Config.Secret, AcceptSecrets)",
		}, {
			"TLS here only",
			peercache.Config{TLS: ca.mutual(t, "10.0.0.1")}, peercache.Config{},
			"the other end does not speak TLS and this node does (Config.TLS)", "",
		}, {
			"TLS there only",
			peercache.Config{}, peercache.Config{TLS: ca.mutual(t, "10.0.0.2")},
			"the other end speaks TLS and this node does not (Config.TLS)", "",
		}, {
			"another path",
			peercache.Config{Path: "/a/"}, peercache.Config{Path: "/b/"},
			`no peer answers at /a/v1/connect there (Config.Path): 404 Not Found: "peercache: peers connect at /b/v1/connect"`, "",
		},
	} {
		t.Run(c.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nw := peercachetest.NewNetwork()
				var mine, theirs logbook
				c.mine.Logger, c.theirs.Logger = mine.logger(), theirs.logger()
				c.mine.Name, c.mine.Join = "mine", []string{"10.0.0.2:7600"}
				other := startNode(t, at(t, nw, "10.0.0.2:7600", c.theirs))
				n := startNode(t, at(t, nw, "10.0.0.1:7600", c.mine))
				err := n.Stats().Seeds[0].Err
				require.ErrorContains(t, err, "peercache: join 10.0.0.2:7600: ")
				require.ErrorContains(t, err, c.text)

				time.Sleep(5 * time.Minute)
				require.Len(t, n.Members(), 1)
				require.Len(t, other.Members(), 1)
				require.Len(t, mine.told("seed does not answer", "seed=10.0.0.2:7600"), 1, "once, not per round")
				if c.theirLog == "" {
					require.Empty(t, theirs.told("connection refused"))
					return
				}
				require.Len(t, theirs.told("connection refused", "from=10.0.0.1:", "name=mine", c.theirLog), 1, theirs.text())
				require.Len(t, theirs.told("connection refused"), 1, "once, not per round")
				require.Greater(t, other.Stats().Refused, uint64(5))
			})
		})
	}
}

// A handler that serves a node below a path other than its own. Path says which
// cluster it is, too.
func TestPeerOfAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		var theirs logbook
		other := startNode(t, from(nw, "10.0.0.2:80", peercache.Config{Path: "/b/", Logger: theirs.logger()}))
		serveHTTP(t, nw, "10.0.0.2:80", &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.URL.Path = strings.Replace(r.URL.Path, "/a/", "/b/", 1)
			other.ServeHTTP(w, r)
		})})
		require.NoError(t, other.WaitReady(t.Context()))
		n := startNode(t, at(t, nw, "10.0.0.1:7600", peercache.Config{Path: "/a/", Join: []string{"10.0.0.2:80"}}))
		require.ErrorContains(t, n.Stats().Seeds[0].Err, `another cluster: cluster "/b/" there, "/a/" here (Config.Path)`)
		require.Len(t, theirs.told("connection refused", `cluster \"/a/\" there, \"/b/\" here (Config.Path)`), 1, theirs.text())
		require.Len(t, other.Members(), 1)
	})
}

// A client says the same of its seeds as a member does.
func TestClientWhoseSeedsDoNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1, func(_ int, cfg *peercache.Config) { cfg.Secret = "a" })
		var book logbook
		client, err := peercache.Start(context.Background(), peercache.Config{
			Client: true, Join: []string{c.Addr(0), "10.9.9.9:7600"}, Secret: "b",
			DialContext: c.Network.Host("10.1.1.1").DialContext, Logger: book.logger(),
		})
		require.NoError(t, err)
		defer client.Close()
		require.ErrorContains(t, client.Stats().Seeds[0].Err, "peercache: join "+c.Addr(0)+": ")
		require.ErrorContains(t, client.Stats().Seeds[0].Err, "secrets differ")
		require.ErrorContains(t, client.Stats().Seeds[1].Err, "connection refused")
		time.Sleep(5 * time.Minute)
		require.Len(t, book.told("seed does not answer"), 2)
		require.Empty(t, client.Members())
		require.Empty(t, client.Owners("users", "42"))
		waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, client.WaitReady(waiting), context.DeadlineExceeded)
	})
}
