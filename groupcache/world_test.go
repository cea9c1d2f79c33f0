package groupcache

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

const groupName = "things"

// release ends all that a registry has started.
func (r *registry) release() {
	r.stop()
	r.routines.Wait()
	r.homes.Lock()
	defer r.homes.Unlock()
	if r.solo != nil {
		r.solo.node.Close()
	}
	if p := r.poolMade(); p != nil {
		if p.now != nil {
			p.now.node.Close()
		}
		if n := p.inbound.Load(); n != nil {
			n.Close()
		}
	}
}

// newWorld returns a registry that ends with the test.
func newWorld(t testing.TB) *registry {
	r := newRegistry()
	t.Cleanup(func() { r.release() })
	return r
}

// echo is a getter that counts.
type echo struct {
	loads atomic.Int64
	fail  atomic.Pointer[error]
}

func (e *echo) Get(_ context.Context, key string, dest Sink) error {
	e.loads.Add(1)
	if err := e.fail.Load(); err != nil {
		return *err
	}
	return dest.SetString("ECHO:" + key)
}

// A process is a program that was written for the original, on a host of a
// network in memory.
type process struct {
	t      testing.TB
	nw     *peercachetest.Network
	addr   string
	r      *registry
	pool   *HTTPPool
	group  *Group
	origin *echo
	server *http.Server
	once   sync.Once
}

func urlOf(addr string) string { return "http://" + addr }

func addrOf(i int) string { return fmt.Sprintf("10.0.0.%d:8000", i+1) }

func urls(n int) []string {
	var all []string
	for i := range n {
		all = append(all, urlOf(addrOf(i)))
	}
	return all
}

// newProcess is a process before its first Set.
func newProcess(t testing.TB, nw *peercachetest.Network, self string, o *HTTPPoolOptions) *process {
	p := &process{t: t, nw: nw, r: newRegistry(), origin: new(echo)}
	p.pool = p.r.newPool(self, o)
	if u, ok := parsePeer(self); ok {
		p.addr = u.addr
	}
	p.pool.Configure(func(c *peercache.Config) {
		c.Name = p.addr
		c.DialContext = nw.DialContext
		if p.addr != "" {
			c.DialContext = nw.Host(p.addr).DialContext
		}
	})
	p.group = p.r.newGroup(groupName, 8<<20, p.origin, GroupOptions{})
	t.Cleanup(p.kill)
	return p
}

// serve serves the pool, or another handler that has it.
func (p *process) serve(h http.Handler) *process {
	p.t.Helper()
	listener, err := p.nw.Host(p.addr).Listen(p.addr)
	require.NoError(p.t, err)
	p.server = &http.Server{Handler: h}
	go p.server.Serve(listener)
	return p
}

// startProcess starts a process as the README of the original does.
func startProcess(t testing.TB, nw *peercachetest.Network, i int, peers ...string) *process {
	t.Helper()
	p := newProcess(t, nw, urlOf(addrOf(i)), nil)
	p.pool.Set(peers...)
	mux := http.NewServeMux()
	mux.Handle(p.pool.opts.BasePath, p.pool)
	return p.serve(mux)
}

// kill ends a process as kill -9 does.
func (p *process) kill() {
	p.once.Do(func() {
		if p.addr != "" {
			p.nw.Host(p.addr).Crash()
		}
		if p.server != nil {
			p.server.Close()
		}
		p.r.release()
	})
}

func (p *process) get(key string) (string, error) {
	var value string
	err := p.group.Get(context.Background(), key, StringSink(&value))
	return value, err
}

func (p *process) mustGet(key string) {
	p.t.Helper()
	value, err := p.get(key)
	require.NoError(p.t, err)
	require.Equal(p.t, "ECHO:"+key, value)
}

func (p *process) node() *peercache.Node { return p.group.Node() }

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(20 * time.Millisecond) {
		require.Less(t, time.Since(began), time.Minute, "it never came to this: "+what)
	}
}

// agree waits until processes are ready and see each other and nobody else.
func agree(t testing.TB, processes ...*process) {
	t.Helper()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	eventually(t, "all agree", func() bool {
		digest := processes[0].node().Stats().TableDigest
		for _, p := range processes {
			n := p.node()
			if len(n.Members()) != len(processes) || n.WaitReady(ended) != nil || n.Stats().TableDigest != digest {
				return false
			}
		}
		return true
	})
}

func loads(processes ...*process) (all int64) {
	for _, p := range processes {
		all += p.origin.loads.Load()
	}
	return all
}
