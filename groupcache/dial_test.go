package groupcache

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	original "github.com/golang/groupcache"
	pb "github.com/golang/groupcache/groupcachepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestParsePeer(t *testing.T) {
	for s, want := range map[string]peerURL{
		"http://10.0.0.1:8000":        {addr: "10.0.0.1:8000"},
		"http://cache.local":          {addr: "cache.local:80"},
		"https://cache.local":         {addr: "cache.local:443", secure: true},
		"HTTPS://cache.local:8/":      {addr: "cache.local:8", secure: true},
		"http://[::1]:8000/a/b/":      {addr: "[::1]:8000", prefix: "/a/b"},
		"http://user@cache.local:9/x": {addr: "cache.local:9", prefix: "/x"},
	} {
		got, ok := parsePeer(s)
		require.True(t, ok, s)
		require.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "me", "10.0.0.1:8000", "should-be-ignored", "ftp://a:1", "http://", "http://:80", "http://a:b", "%"} {
		_, ok := parsePeer(s)
		require.False(t, ok, s)
	}
}

// testTLS returns the two sides of a TLS configuration that fit each other.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	transport := s.Client().Transport.(*http.Transport)
	client = transport.TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
}

// Peers of https and of http URLs are one cluster, with the TLS configuration
// and the dialer of the program's Transport.
func TestTLSPeers(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	for name, schemes := range map[string][]string{"https": {"https", "https", "https"}, "mixed": {"https", "http", "https"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nw := peercachetest.NewNetwork()
				var peers []string
				for i, scheme := range schemes {
					peers = append(peers, scheme+"://"+addrOf(i))
				}
				var all []*process
				var dials atomic.Int64
				for i := range schemes {
					p := newProcess(t, nw, peers[i], nil)
					p.pool.Configure(func(c *peercache.Config) { c.DialContext = nil })
					p.pool.Transport = func(context.Context) http.RoundTripper {
						return &http.Transport{TLSClientConfig: clientTLS, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
							dials.Add(1)
							return nw.Host(p.addr).DialContext(ctx, network, addr)
						}}
					}
					p.pool.Set(peers...)
					listener, err := nw.Host(p.addr).Listen(p.addr)
					require.NoError(t, err)
					p.server = &http.Server{Handler: p.pool, TLSConfig: serverTLS.Clone()} // the server changes it
					if schemes[i] == "https" {
						go p.server.ServeTLS(listener, "", "")
					} else {
						go p.server.Serve(listener)
					}
					all = append(all, p)
				}
				agree(t, all...)
				for i := range 50 {
					for _, p := range all {
						p.mustGet(fmt.Sprint(i))
					}
				}
				require.EqualValues(t, 50, loads(all...))
				require.Positive(t, dials.Load())
			})
		})
	}
}

// Without the right roots a peer is not trusted.
func TestTLSPeersWithoutRoots(t *testing.T) {
	serverTLS, _ := testTLS(t)
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		p := newProcess(t, nw, "https://"+addrOf(0), nil)
		p.pool.Set("https://" + addrOf(0))
		listener, err := nw.Host(p.addr).Listen(p.addr)
		require.NoError(t, err)
		p.server = &http.Server{Handler: p.pool, TLSConfig: serverTLS, ErrorLog: log.New(io.Discard, "", 0)}
		go p.server.ServeTLS(listener, "", "")
		eventually(t, "it has tried", func() bool {
			err := p.node().Stats().AnnounceErr
			return err != nil && strings.Contains(err.Error(), "groupcache: TLS with 10.0.0.1:8000")
		})
		p.mustGet("k")
	})
}

// A path in the peers' URLs comes before the base path; the program may have
// stripped it or not.
func TestPathBeforeTheBasePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		peers := []string{"http://" + addrOf(0) + "/app", "http://" + addrOf(1) + "/app/"}
		var all []*process
		for i := range 2 {
			p := newProcess(t, nw, "http://"+addrOf(i)+"/app", &HTTPPoolOptions{BasePath: "/cache/"})
			p.pool.Set(peers...)
			mux := http.NewServeMux()
			mux.Handle("/app/cache/", http.StripPrefix("/app", p.pool))
			all = append(all, p.serve(mux))
		}
		agree(t, all...)
		client := newProcess(t, nw, "", &HTTPPoolOptions{BasePath: "/cache/"})
		client.pool.Set(peers...)
		for i := range 20 {
			client.mustGet(fmt.Sprint(i))
		}
		require.Zero(t, loads(client))
	})
}

// roundTripper is a RoundTripper that is no http.Transport: old processes
// behind it.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A client all of whose peers are old goes on asking them as the original does,
// and loads when they fail.
func TestClientOfOldProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		for i := range 2 {
			listener, err := nw.Host(addrOf(i)).Listen(addrOf(i))
			require.NoError(t, err)
			server := &http.Server{Handler: http.NotFoundHandler()} // what they say to an upgrade
			t.Cleanup(func() { server.Close() })
			go server.Serve(listener)
		}
		client := newProcess(t, nw, "client", nil)
		broken := false
		client.pool.Transport = func(context.Context) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if broken {
					return nil, fmt.Errorf("no way")
				}
				w := httptest.NewRecorder()
				value := []byte("old:" + r.URL.Path)
				body, err := proto.Marshal(protoadapt.MessageV2Of(&pb.GetResponse{Value: value}))
				require.NoError(t, err)
				w.Write(body)
				return w.Result(), nil
			})
		}
		client.pool.Set(urls(2)...)
		for range 2 {
			value, err := client.get("k")
			require.NoError(t, err)
			require.Equal(t, "old:/_groupcache/things/k", value)
		}
		require.Zero(t, loads(client))
		require.EqualValues(t, 2, client.group.Stats.PeerLoads.Get())
		broken = true
		client.mustGet("k")
		require.EqualValues(t, 1, loads(client))
	})
}

// Values pass between the two packages, and a group of ours may be filled from
// one of the original's: the first step of a deploy without a cold cache.
func TestFilledFromTheOriginal(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		old := original.GetGroup("both")
		if old == nil {
			old = original.NewGroup("both", 1<<20, origin)
		}
		fresh := r.newGroup("both", 1<<20, GetterFunc(old.Get), GroupOptions{})
		var view original.ByteView
		for range 3 {
			require.NoError(t, fresh.Get(t.Context(), "k", original.ByteViewSink(&view)))
			require.Equal(t, "ECHO:k", view.String())
		}
		require.EqualValues(t, 2, fresh.Stats.CacheHits.Get())
	})
}
