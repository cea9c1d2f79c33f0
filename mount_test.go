package peercache_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

const upgradeHeader = peercache.UpgradeToken

// get asks a handler for a path, to be upgraded to a protocol.
func get(h http.Handler, path, upgrade string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", upgrade)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// from makes cfg that of a node on a host of a network which is served by the
// caller at addr.
func from(nw *peercachetest.Network, addr string, cfg peercache.Config) peercache.Config {
	cfg.Advertise, cfg.DialContext = addr, nw.Host(addr).DialContext
	return cfg
}

// serveHTTP serves a handler at addr until the test ends.
func serveHTTP(t testing.TB, nw *peercachetest.Network, addr string, server *http.Server) *http.Server {
	t.Helper()
	listener, err := nw.Host(addr).Listen(addr)
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	go func() {
		if server.TLSConfig != nil {
			server.ServeTLS(listener, "", "")
		} else {
			server.Serve(listener)
		}
	}()
	return server
}

// muxed returns a server's handler with a node in it, and a program's own.
func muxed(path string, n *peercache.Node) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle(path, n)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the program's own") })
	return mux
}

func TestMountedNodes(t *testing.T) {
	for _, path := range []string{"", "/internal/cache/", "/"} {
		t.Run("path "+path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nw := peercachetest.NewNetwork()
				var nodes []*peercache.Node
				var addrs []string
				for i := range 3 {
					addr := fmt.Sprintf("10.0.0.%d:80", i+1)
					addrs = append(addrs, addr)
					n := startNode(t, from(nw, addr, peercache.Config{Path: path, Join: addrs}))
					mount := path
					if mount == "" {
						mount = "/_peercache/"
					}
					handler := http.Handler(n)
					if path != "/" {
						handler = muxed(mount, n)
					}
					serveHTTP(t, nw, addr, &http.Server{Handler: handler})
					nodes = append(nodes, n)
				}
				waitAgreed(t, nodes...)
				for i, n := range nodes {
					require.Equal(t, addrs[i], n.Addr())
					require.NoError(t, n.Stats().AnnounceErr)
				}
				if path != "/" {
					client := http.Client{Transport: &http.Transport{DialContext: nw.DialContext, DisableKeepAlives: true}}
					response, err := client.Get("http://10.0.0.1:80/")
					require.NoError(t, err)
					body, _ := io.ReadAll(response.Body)
					response.Body.Close()
					require.Equal(t, "the program's own", string(body))
				}
				require.NoError(t, nodes[0].Shutdown(context.Background()))
				waitAgreed(t, nodes[1:]...)
			})
		})
	}
}

// A node is announced when its own incarnation answers at its address and not
// before; until then it uses the cluster without being a part of it.
func TestMountedNodeBeforeItsServerServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		const addr = "10.1.0.1:80"
		var book logbook
		n := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}, Logger: book.logger()}))
		asks := func() {
			for _, m := range c.Nodes {
				require.Len(t, m.Members(), 2, "the members do not know of it")
			}
			require.Equal(t, peercache.MemberJoining, n.Stats().State)
			require.Len(t, n.Members(), 3, "the members and itself")
			require.Equal(t, c.Nodes[0].Owners("users", "42"), n.Owners("users", "42"))
			require.NoError(t, n.AskView(context.Background(), c.Nodes[1].Self()))
			require.Error(t, n.Stats().AnnounceErr)
			require.NoError(t, n.Stats().Seeds[0].Err)
		}
		eventually(t, "it has tried", func() bool { return n.Stats().AnnounceErr != nil })
		asks()
		require.ErrorContains(t, n.Stats().AnnounceErr, "peercache: Advertise 10.1.0.1:80: ")
		require.ErrorContains(t, n.Stats().AnnounceErr, "connection refused")
		ended, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.ErrorIs(t, n.WaitReady(ended), context.DeadlineExceeded)
		asks()

		c.Start(2) // what happens in the cluster meanwhile is told to it
		eventually(t, "it hears of a third member", func() bool { return len(n.Members()) == 4 })
		c.Kill(2)
		eventually(t, "it hears of a death", func() bool { return len(n.Members()) == 3 })
		require.Len(t, book.told("not announced"), 1, "once, not per attempt")

		serveHTTP(t, c.Network, addr, &http.Server{Handler: muxed("/_peercache/", n)})
		require.NoError(t, n.WaitReady(context.Background()))
		waitAgreed(t, c.Nodes[0], c.Nodes[1], n)
		require.NoError(t, n.Stats().AnnounceErr)
	})
}

func TestMountedNodeWhereAnotherNodeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		const addr = "10.1.0.1:80"
		first := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}}))
		server := serveHTTP(t, c.Network, addr, &http.Server{Handler: first})
		waitAgreed(t, c.Nodes[0], c.Nodes[1], first)

		// As behind a load balancer, where the same address leads elsewhere.
		var book logbook
		second := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}, Logger: book.logger()}))
		time.Sleep(5 * time.Minute)
		waitAgreed(t, c.Nodes[0], c.Nodes[1], first)
		require.ErrorContains(t, second.Stats().AnnounceErr, "another incarnation")
		require.ErrorContains(t, second.Stats().AnnounceErr, "10.1.0.1:80")
		require.Len(t, book.told("not announced"), 1)

		require.NoError(t, first.Shutdown(context.Background()))
		require.NoError(t, server.Close())
		serveHTTP(t, c.Network, addr, &http.Server{Handler: second})
		waitAgreed(t, c.Nodes[0], c.Nodes[1], second)
	})
}

func TestMountedNodeAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		n := startNode(t, from(nw, "10.0.0.1:80", peercache.Config{}))
		serveHTTP(t, nw, "10.0.0.1:80", &http.Server{Handler: n})
		require.NoError(t, n.WaitReady(context.Background()))
		waitAgreed(t, n)
	})
}

func TestMountedInATimeoutHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		const addr = "10.1.0.1:80"
		var book logbook
		n := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}, Logger: book.logger()}))
		server := serveHTTP(t, c.Network, addr, &http.Server{
			Handler: http.TimeoutHandler(muxed("/_peercache/", n), time.Second, "too late"),
		})
		views := c.Nodes[0].Stats().Views
		time.Sleep(10 * time.Minute)
		waitAgreed(t, c.Nodes[0], c.Nodes[1])
		require.Equal(t, views, c.Nodes[0].Stats().Views, "peers have not noticed anything")
		require.Equal(t, peercache.MemberJoining, n.Stats().State)
		require.ErrorContains(t, n.Stats().AnnounceErr, "501 Not Implemented")
		require.Len(t, book.told("peers cannot connect", "http.TimeoutHandler"), 1)
		require.Len(t, book.told("not announced", "501"), 1)
		require.Positive(t, n.Stats().Refused)

		// Mounted beside the wrapper it joins.
		require.NoError(t, server.Close())
		mux := http.NewServeMux()
		mux.Handle("/", http.TimeoutHandler(http.NotFoundHandler(), time.Second, "too late"))
		mux.Handle("/_peercache/", n)
		serveHTTP(t, c.Network, addr, &http.Server{Handler: mux})
		waitAgreed(t, c.Nodes[0], c.Nodes[1], n)
	})
}

// A wrapper whose Unwrap gives what it wraps, as http.ResponseController wants.
type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func TestMountedInAWrapperThatUnwraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		n := startNode(t, from(nw, "10.0.0.1:80", peercache.Config{}))
		serveHTTP(t, nw, "10.0.0.1:80", &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.ServeHTTP(unwrapper{w}, r)
		})})
		require.NoError(t, n.WaitReady(context.Background()))
	})
}

// The timeouts of the server are for its requests: a connection that was
// upgraded lives on.
func TestMountedInAServerWithTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		var nodes []*peercache.Node
		for i := range 2 {
			addr := fmt.Sprintf("10.0.0.%d:80", i+1)
			n := startNode(t, from(nw, addr, peercache.Config{Join: []string{"10.0.0.1:80"}}))
			serveHTTP(t, nw, addr, &http.Server{
				Handler:     muxed("/_peercache/", n),
				ReadTimeout: time.Second, ReadHeaderTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second,
			})
			nodes = append(nodes, n)
		}
		waitAgreed(t, nodes...)
		require.NoError(t, nodes[0].AskView(t.Context(), nodes[1].Self()))
		time.Sleep(5 * time.Second)
		views := nodes[0].Stats().Views
		before := nodes[0].Stats().Peers[0]
		for range 10 {
			time.Sleep(30 * time.Second)
			now := nodes[0].Stats().Peers[0]
			require.True(t, now.Connected, "the connection for calls, over which nothing went")
			require.Greater(t, now.BytesOut, before.BytesOut, "the counters are those of the first connections")
			before = now
		}
		require.Equal(t, views, nodes[0].Stats().Views)
	})
}

func TestMountedInAServerWithTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		nw := peercachetest.NewNetwork()
		var nodes []*peercache.Node
		for i := range 3 {
			host := fmt.Sprintf("10.0.0.%d", i+1)
			addr := host + ":443"
			n := startNode(t, from(nw, addr, peercache.Config{Join: []string{"10.0.0.1:443"}, TLS: ca.mutual(t, host)}))
			// The server speaks HTTP/2 with those who can.
			serveHTTP(t, nw, addr, &http.Server{Handler: muxed("/_peercache/", n), TLSConfig: ca.oneWay(t, host)})
			nodes = append(nodes, n)
		}
		waitAgreed(t, nodes...)
	})
}

// Connections that the node took over are its own: they end with it.
func TestMountedNodeClosesWhatItTookOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		const addr = "10.1.0.1:80"
		n := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}}))
		serveHTTP(t, c.Network, addr, &http.Server{Handler: n})
		waitAgreed(t, c.Nodes[0], n)
		require.NoError(t, c.Nodes[0].AskView(t.Context(), n.Self()))
		require.NoError(t, n.Close())
		c.WaitAgree()
		eventually(t, "no connection is left", func() bool { return c.Network.Open() == 0 })
		w := get(n, "/_peercache/v1/connect", upgradeHeader)
		require.Equal(t, http.StatusServiceUnavailable, w.Code)
		require.Contains(t, w.Body.String(), "closed")
	})
}

func TestRequestsThatAreNotUpgraded(t *testing.T) {
	n := startNode(t, peercache.Config{Advertise: "127.0.0.1:1"})
	const connect = "/_peercache/v1/connect"
	for _, c := range []struct {
		is, method, path, upgrade string
		status                    int
		text                      string
		header                    [2]string
	}{
		{"another path below", "GET", "/_peercache/", upgradeHeader, 404, "peers connect at /_peercache/v1/connect", [2]string{}},
		{"another path", "GET", "/", upgradeHeader, 404, "peers connect at /_peercache/v1/connect", [2]string{}},
		{"a path behind", "GET", connect + "/x", upgradeHeader, 404, "peers connect at", [2]string{}},
		{"another method", "POST", connect, upgradeHeader, 405, "GET only", [2]string{"Allow", "GET"}},
		{"another method without a body", "HEAD", connect, upgradeHeader, 405, "", [2]string{"Allow", "GET"}},
		{"no upgrade", "GET", connect, "", 426, "this node speaks peercache/1", [2]string{"Upgrade", "peercache/1"}},
		{"another protocol", "GET", connect, "websocket", 426, "this node speaks peercache/1", [2]string{"Upgrade", "peercache/1"}},
		{"another version", "GET", connect, "peercache/2", 426, "this node speaks peercache/1", [2]string{"Upgrade", "peercache/1"}},
		{"a server that does not let go", "GET", connect, upgradeHeader, 501, "http.Hijacker", [2]string{}},
	} {
		t.Run(c.is, func(t *testing.T) {
			r := httptest.NewRequest(c.method, c.path, nil)
			if c.upgrade != "" {
				r.Header.Set("Upgrade", c.upgrade)
			}
			w := httptest.NewRecorder()
			n.ServeHTTP(w, r)
			require.Equal(t, c.status, w.Code)
			require.Contains(t, w.Body.String(), c.text)
			if c.header[0] != "" {
				require.Equal(t, c.header[1], w.Header().Get(c.header[0]))
			}
			strangers, all := n.Inbound()
			require.Zero(t, strangers+all, "no place is kept for it")
		})
	}
}

func TestRequestOverHTTP2(t *testing.T) {
	n := startNode(t, peercache.Config{Advertise: "127.0.0.1:1"})
	server := httptest.NewUnstartedServer(n)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	response, err := server.Client().Get(server.URL + "/_peercache/v1/connect")
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, 2, response.ProtoMajor)
	require.Equal(t, http.StatusNotImplemented, response.StatusCode)
	body, _ := io.ReadAll(response.Body)
	require.Contains(t, string(body), "HTTP/1.1")
}

// Peers and browsers may meet at one port; what a browser offers does not get
// peers into HTTP/2.
func TestNodesOwnPortOffersNoHTTP2(t *testing.T) {
	ca := newAuthority(t)
	n := startNode(t, peercache.Config{Listen: "127.0.0.1:0", TLS: ca.oneWay(t, "127.0.0.1")})
	conn, err := tls.Dial("tcp", n.Addr(), &tls.Config{RootCAs: ca.pool(), NextProtos: []string{"h2", "http/1.1"}})
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "http/1.1", conn.ConnectionState().NegotiatedProtocol)
}

// Whoever comes to a node's own port with HTTP gets an answer of HTTP.
func TestNodesOwnPortAnswersHTTP(t *testing.T) {
	n := startNode(t, peercache.Config{Listen: "127.0.0.1:0"})
	conn, err := net.Dial("tcp", n.Addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(answer), "HTTP/1.1 404 Not Found\r\n"), "%s", answer)
	require.Contains(t, string(answer), "peercache: peers connect at /_peercache/v1/connect")
}
