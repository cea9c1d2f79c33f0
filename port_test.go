package peercache_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// patience is how long tests wait for what must happen. Nothing is measured
// with it.
const patience = time.Minute

// startNode starts a node and closes it with the test.
func startNode(t testing.TB, cfg peercache.Config) *peercache.Node {
	t.Helper()
	n, err := peercache.Start(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

// at makes cfg that of a node which listens at addr of a network in memory.
func at(t testing.TB, nw *peercachetest.Network, addr string, cfg peercache.Config) peercache.Config {
	t.Helper()
	host := nw.Host(addr)
	listener, err := host.Listen(addr)
	require.NoError(t, err)
	cfg.Listener, cfg.DialContext = listener, host.DialContext
	return cfg
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			require.FailNow(t, "it never came to this: "+what)
		}
	}
}

// agreed reports whether each of the nodes is ready and sees all of them and
// nobody else, with the same table.
func agreed(nodes ...*peercache.Node) bool {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, n := range nodes {
		if len(n.Members()) != len(nodes) || n.WaitReady(ended) != nil {
			return false
		}
	}
	digest := nodes[0].Stats().TableDigest
	return !slices.ContainsFunc(nodes[1:], func(n *peercache.Node) bool { return n.Stats().TableDigest != digest })
}

// waitAgreed waits until the nodes agree.
func waitAgreed(t testing.TB, nodes ...*peercache.Node) {
	t.Helper()
	eventually(t, "the nodes agree", func() bool { return agreed(nodes...) })
}

// goroutinesBack returns a function that waits until there are no more
// goroutines than there are now.
func goroutinesBack(t testing.TB) func() {
	before := runtime.NumGoroutine()
	return func() {
		t.Helper()
		eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
	}
}

// A logbook has what a node logged.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements io.Writer.
func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// told returns the lines above the level of debugging that have all the words.
func (l *logbook) told(words ...string) []string {
	var lines []string
	for line := range strings.Lines(l.text()) {
		has := !strings.Contains(line, "level=DEBUG")
		for _, word := range words {
			has = has && strings.Contains(line, word)
		}
		if has {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// freeAddr returns an address on loopback where nobody listens now.
func freeAddr(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}
