package groupcache_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	original "github.com/golang/groupcache"
	pb "github.com/golang/groupcache/groupcachepb"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/peercache/peercache/groupcache"
)

// The environment of a child: what it is, and the addresses of all, its own
// first.
const (
	childKind  = "GROUPCACHE_TEST_CHILD"
	childAddrs = "GROUPCACHE_TEST_ADDRS"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childKind) {
	case "old":
		beOld()
	case "new":
		beNew()
	default:
		goleak.VerifyTestMain(released{m})
	}
}

// released ends what examples have left behind in the package.
type released struct{ *testing.M }

// Run implements [goleak.TestingM].
func (r released) Run() int {
	defer groupcache.ReleaseStd()
	return r.M.Run()
}

// mishaps is how many loads too many are forgiven in a test with processes: an
// owner that a busy machine does not let run for 250 ms is taken for silent.
// In virtual time nothing is forgiven.
const mishaps = 3

// failing is the key whose load always fails.
const failing = "nosuchthing"

var errFailing = errors.New("the origin has no such thing")

// origin is what a child's getter returns; the parent counts the lines.
func origin(key string) (string, error) {
	fmt.Printf("load %q\n", key)
	if key == failing {
		return "", errFailing
	}
	return "ECHO:" + key, nil
}

func childURLs() (self string, all []string) {
	addrs := strings.Fields(os.Getenv(childAddrs))
	for _, addr := range addrs[1:] {
		all = append(all, "http://"+addr)
	}
	return "http://" + addrs[0], all
}

// serveChild serves what the program has mounted, and /get, which asks the
// group, until standard input ends.
func serveChild(self string, get func(ctx context.Context, key string) (string, error)) {
	http.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		value, err := get(r.Context(), r.URL.Query().Get("key"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusTeapot)
			return
		}
		io.WriteString(w, value)
	})
	go func() {
		fmt.Println("ended:", http.ListenAndServe(strings.TrimPrefix(self, "http://"), nil))
		os.Exit(1)
	}()
	io.Copy(io.Discard, os.Stdin)
}

// beOld and beNew are one program but for the package that they import.
func beOld() {
	self, all := childURLs()
	pool := original.NewHTTPPool(self)
	pool.Set(all...)
	group := original.NewGroup("things", 8<<20, original.GetterFunc(func(_ context.Context, key string, dest original.Sink) error {
		value, err := origin(key)
		if err != nil {
			return err
		}
		return dest.SetString(value)
	}))
	serveChild(self, func(ctx context.Context, key string) (value string, err error) {
		err = group.Get(ctx, key, original.StringSink(&value))
		return value, err
	})
}

func beNew() {
	self, all := childURLs()
	pool := groupcache.NewHTTPPool(self)
	pool.Set(all...)
	group := groupcache.NewGroup("things", 8<<20, groupcache.GetterFunc(func(_ context.Context, key string, dest groupcache.Sink) error {
		value, err := origin(key)
		if err != nil {
			return err
		}
		return dest.SetString(value)
	}))
	http.HandleFunc("/members", func(w http.ResponseWriter, _ *http.Request) {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		n := group.Node()
		fmt.Fprintf(w, "%d %v %x", len(n.Members()), n.WaitReady(ended) == nil, n.Stats().TableDigest)
	})
	serveChild(self, func(ctx context.Context, key string) (value string, err error) {
		err = group.Get(ctx, key, groupcache.StringSink(&value))
		return value, err
	})
}

// A child is a process as its parent sees it.
type child struct {
	t     *testing.T
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer
	loads chan string
	ended chan struct{}
}

func freeAddrs(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close() // all are open until all are known
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// startChild starts a process and waits until it serves.
func startChild(t *testing.T, kind, addr string, all []string) *child {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := &child{t: t, addr: addr, cmd: exec.Command(self), loads: make(chan string, 10_000), ended: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childKind+"="+kind, childAddrs+"="+addr+" "+strings.Join(all, " "))
	c.cmd.Stderr = os.Stderr
	c.stdin, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	t.Cleanup(c.kill)
	go func() {
		defer close(c.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if key, ok := strings.CutPrefix(lines.Text(), "load "); ok {
				c.loads <- key
			}
		}
	}()
	c.await("it serves", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

// kill ends a process with SIGKILL.
func (c *child) kill() {
	c.stdin.Close()
	c.cmd.Process.Kill()
	<-c.ended
	c.cmd.Wait()
}

func (c *child) await(what string, cond func() bool) {
	c.t.Helper()
	for began := time.Now(); !cond(); time.Sleep(20 * time.Millisecond) {
		require.Less(c.t, time.Since(began), time.Minute, "it never came to this: "+what)
	}
}

func (c *child) fetch(path string) (status int, header http.Header, body string) {
	c.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	request, err := http.NewRequest(http.MethodGet, "http://"+c.addr+path, nil)
	require.NoError(c.t, err)
	response, err := transport.RoundTrip(request)
	require.NoError(c.t, err)
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	return response.StatusCode, response.Header, string(b)
}

func (c *child) mustGet(key string) {
	c.t.Helper()
	status, _, body := c.fetch("/get?key=" + url.QueryEscape(key))
	require.Equal(c.t, http.StatusOK, status, "%q: %s", key, body)
	require.Equal(c.t, "ECHO:"+key, body)
}

// awaitAgreed waits until new processes are ready and see each other and nobody
// else, with the same table.
func awaitAgreed(children ...*child) {
	children[0].t.Helper()
	children[0].await("they agree", func() bool {
		_, _, first := children[0].fetch("/members")
		for _, c := range children[1:] {
			if _, _, other := c.fetch("/members"); other != first {
				return false
			}
		}
		return strings.HasPrefix(first, fmt.Sprint(len(children), " true "))
	})
}

// loadCount is how often a process has run its getter so far.
func loadCount(children ...*child) (n int) {
	for _, c := range children {
		n += len(c.loads)
	}
	return n
}

var mixedKeys = []string{
	"plain", "", "a b", "a+b", "a%20b", "%", "100%", "a/b", "/", "a//b", "?", "a?b=c&d", "#", "\xff", "\xff\xfe/\x80", "ä", "日本語", ";", "~", " ",
}

// Two old and two new processes, all named by all: each gets every key right
// that the original can carry, and new ones load a key once among them.
func TestMixedFleet(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	addrs := freeAddrs(t, 4)
	var all []*child
	for i, kind := range []string{"old", "old", "new", "new"} {
		all = append(all, startChild(t, kind, addrs[i], addrs))
	}
	old, fresh := all[:2], all[2:]
	awaitAgreed(fresh...)
	for round := range 3 {
		for _, key := range mixedKeys {
			for _, c := range fresh {
				c.mustGet(key)
			}
			for _, c := range old {
				status, _, body := c.fetch("/get?key=" + url.QueryEscape(key))
				require.Equal(t, http.StatusOK, status, "%q: %s", key, body)
				// What an old server makes of a space is its own affair: see
				// the package comment.
				if strings.Contains(key, " ") && body == "ECHO:"+strings.ReplaceAll(key, " ", "+") {
					continue
				}
				require.Equal(t, "ECHO:"+key, body, "round %d", round)
			}
		}
	}
	all[0].await("all loads are told", func() bool { return loadCount(fresh...) >= len(mixedKeys) })
	loaded, twice := make(map[string]bool), 0
	for _, c := range fresh {
		for range loadCount(c) {
			key := <-c.loads
			if loaded[key] {
				twice++
			}
			loaded[key] = true
		}
	}
	require.LessOrEqual(t, twice, mishaps)

	// New ones answer an old request as the original does.
	for _, c := range all {
		status, header, body := c.fetch("/_groupcache/things/plain")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "application/x-protobuf", header.Get("Content-Type"))
		var m pb.GetResponse
		require.NoError(t, proto.Unmarshal([]byte(body), protoadapt.MessageV2Of(&m)))
		require.Equal(t, "ECHO:plain", string(m.Value))
		for path, want := range map[string]string{
			"/_groupcache/things":                            "400 bad request\n",
			"/_groupcache/none/k":                            "404 no such group: none\n",
			"/_groupcache/v1/connect":                        "404 no such group: v1\n",
			"/_groupcache/things/" + url.PathEscape(failing): "500 the origin has no such thing\n",
		} {
			status, header, body := c.fetch(path)
			require.Equal(t, want, fmt.Sprint(status, " ", body), path)
			require.Equal(t, "text/plain; charset=utf-8", header.Get("Content-Type"))
		}
		status, _, body = c.fetch("/get?key=" + url.QueryEscape(failing))
		require.Equal(t, http.StatusTeapot, status)
		require.Equal(t, errFailing.Error()+"\n", body, "the getter's own error")
	}

	// The rest of the fleet is deployed.
	for i := range old {
		old[i].kill()
		all[i] = startChild(t, "new", addrs[i], addrs)
		awaitAgreed(append(slices.Clone(fresh), all[:i+1]...)...)
	}
	for _, c := range all {
		for _, key := range mixedKeys {
			c.mustGet(key)
		}
	}
	require.LessOrEqual(t, loadCount(all[:2]...), mishaps, "they were filled by those that were new before")
}

// Three processes that were written for the original: one is killed, and
// nothing is loaded again.
func TestKillOne(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	addrs := freeAddrs(t, 3)
	var all []*child
	for _, addr := range addrs {
		all = append(all, startChild(t, "new", addr, addrs))
	}
	awaitAgreed(all...)
	const keys = 200
	for i := range keys {
		all[i%3].mustGet(fmt.Sprint(i))
	}
	all[0].await("each key was loaded", func() bool { return loadCount(all...) >= keys })
	time.Sleep(300 * time.Millisecond) // copies of loads are under way for 100 ms at most
	all[1].kill()
	for i := range keys {
		all[0].mustGet(fmt.Sprint(i))
		all[2].mustGet(fmt.Sprint(i))
	}
	awaitAgreed(all[0], all[2])
	require.LessOrEqual(t, loadCount(all...), keys+mishaps)
}

// As the original's own test of its pool: a process whose URL is not among the
// peers asks at once, and only they load.
func TestHTTPPool(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	addrs := freeAddrs(t, 4)
	var all []*child
	for _, addr := range addrs {
		all = append(all, startChild(t, "new", addr, addrs))
	}
	client := startChild(t, "new", freeAddrs(t, 1)[0], addrs)
	for i := range 100 {
		client.mustGet(fmt.Sprint(i))
	}
	require.LessOrEqual(t, loadCount(client), mishaps)
	client.await("their loads", func() bool { return loadCount(all...) >= 100 })
}
