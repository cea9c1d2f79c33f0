package groupcache

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"testing/synctest"

	original "github.com/golang/groupcache"
	pb "github.com/golang/groupcache/groupcachepb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/peercache/peercache/peercachetest"
)

func request(path string) *http.Request { return httptest.NewRequest(http.MethodGet, path, nil) }

func decode(t testing.TB, body []byte) string {
	t.Helper()
	var m pb.GetResponse
	require.NoError(t, proto.Unmarshal(body, protoadapt.MessageV2Of(&m)))
	return string(m.Value)
}

// oddKeys are keys that do not travel as they are.
var oddKeys = []string{
	"plain", "", " ", "a b", "a+b", "a%20b", "%", "%%", "100%", "a/b", "/", "//", "a//b", "/a/", "?", "a?b=c&d", "#", "a#b", ";", "=",
	"\xff", "\xff\xfe/\x80", "\x00", "line\nline", "ä", "日本語", "a\\b", "\"", "'", "<>", "..", ".", "a/../b", "~", "*", ":", "@",
}

// A request of the old protocol gets what the original answers.
func TestOldProtocol(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		g := r.newGroup("g", 1<<20, origin, GroupOptions{})
		slash := r.newGroup("a/b c", 1<<20, origin, GroupOptions{})
		p := r.newPool("http://10.0.0.1:8000", nil)
		ask := func(path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			p.ServeHTTP(w, request(path))
			return w
		}
		w := ask("/_groupcache/g/k")
		require.Equal(t, 200, w.Code)
		require.Equal(t, "application/x-protobuf", w.Header().Get("Content-Type"))
		require.Equal(t, "\x0a\x06ECHO:k", w.Body.String())
		require.EqualValues(t, 1, g.Stats.ServerRequests.Get())
		require.EqualValues(t, 1, g.Stats.Gets.Get())

		for path, status := range map[string]int{"/_groupcache/": 400, "/_groupcache/g": 400, "/_groupcache/none/k": 404, "/_groupcache/v1/connect": 404} {
			require.Equal(t, status, ask(path).Code, path)
		}
		require.Equal(t, "bad request\n", ask("/_groupcache/g").Body.String())
		require.Equal(t, "no such group: none\n", ask("/_groupcache/none/k").Body.String())
		mine := fmt.Errorf("my own")
		origin.fail.Store(&mine)
		w = ask("/_groupcache/g/fails")
		require.Equal(t, 500, w.Code)
		require.Equal(t, "my own\n", w.Body.String())
		origin.fail.Store(nil)

		for _, key := range oddKeys {
			for _, group := range []*Group{g, slash} {
				w := ask("/_groupcache/" + url.QueryEscape(group.Name()) + "/" + url.QueryEscape(key))
				require.Equal(t, 200, w.Code, "%q", key)
				require.Equal(t, "ECHO:"+key, decode(t, w.Body.Bytes()))
			}
		}
		require.Equal(t, "ECHO:a/b", decode(t, ask("/_groupcache/g/a/b").Body.Bytes()), "as others may ask")

		upgrade := request("/_groupcache/v1/connect")
		upgrade.Header.Set("Upgrade", "peercache/1")
		w = httptest.NewRecorder()
		p.ServeHTTP(w, upgrade)
		require.Equal(t, 404, w.Code, "no part of a cluster")
		other := request("/_groupcache/g/k")
		other.Header.Set("Upgrade", "h2c") // as curl --http2 does
		w = httptest.NewRecorder()
		p.ServeHTTP(w, other)
		require.Equal(t, 200, w.Code)
	})
}

var originalUsed bool

// The real client of the original, in this very process, asks three new
// processes.
func TestOriginalAsClient(t *testing.T) {
	if originalUsed {
		t.Skip("the original allows one pool in a process")
	}
	originalUsed = true
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		all := make([]*process, 3)
		for i := range all {
			all[i] = startProcess(t, nw, i, urls(3)...)
		}
		agree(t, all...)
		old := original.NewHTTPPoolOpts("http://old:1", nil)
		transport := &http.Transport{DialContext: nw.DialContext, DisableKeepAlives: true}
		old.Transport = func(context.Context) http.RoundTripper { return transport }
		old.Set(urls(3)...)
		group := original.NewGroup(groupName, 0, original.GetterFunc(func(_ context.Context, key string, dest original.Sink) error {
			return fmt.Errorf("the old process had to load %q itself", key)
		}))
		for _, key := range oddKeys {
			var s string
			err := group.Get(t.Context(), key, original.StringSink(&s))
			if key == "." || key == ".." {
				// A ServeMux redirects these, and the original's client does
				// not follow: it cannot ask its own server for them either.
				require.Error(t, err)
				continue
			}
			require.NoError(t, err, "%q", key)
			require.Equal(t, "ECHO:"+key, s)
		}
		require.EqualValues(t, len(oddKeys)-2, loads(all...))
		var served int64
		for _, p := range all {
			served += p.group.Stats.ServerRequests.Get()
			for _, key := range oddKeys[1:] {
				p.mustGet(key)
			}
		}
		require.GreaterOrEqual(t, served, int64(len(oddKeys)-2))
	})
}

// PickPeer is the original's ring, and its getter asks old and new processes.
func TestPickPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		peers := urls(3)
		p := startProcess(t, nw, 0, peers...)
		other := startProcess(t, nw, 1, peers...)
		startProcess(t, nw, 2, peers...)
		p.pool.Transport = func(context.Context) http.RoundTripper {
			return &http.Transport{DialContext: nw.DialContext, DisableKeepAlives: true}
		}
		p.pool.Set(peers...)
		mine := 0
		for i := range 100 {
			key := fmt.Sprint(i)
			peer, ok := p.pool.PickPeer(key)
			if !ok {
				mine++
				continue
			}
			var out pb.GetResponse
			name := groupName
			require.NoError(t, peer.Get(t.Context(), &pb.GetRequest{Group: &name, Key: &key}, &out))
			require.Equal(t, "ECHO:"+key, string(out.Value))
			name = "none"
			require.ErrorContains(t, peer.Get(t.Context(), &pb.GetRequest{Group: &name, Key: &key}, &out), "404 Not Found")
		}
		require.True(t, mine > 5 && mine < 70, mine)
		require.Positive(t, other.group.Stats.ServerRequests.Get())
		p.pool.Set()
		_, ok := p.pool.PickPeer("k")
		require.False(t, ok)
	})
}
