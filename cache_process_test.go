//go:build unix

package peercache_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
)

// echoKey is the loader of peers in processes of their own.
func echoKey(_ context.Context, key string) (string, error) { return "value of " + key, nil }

// traffic is what a test's own peer asks of the cluster all the time.
type traffic struct {
	cache  *peercache.Cache[string]
	keys   int
	failed atomic.Int64
	gets   atomic.Int64
	worst  atomic.Int64 // of one Get, nanoseconds

	mu      sync.Mutex
	written map[string]string // acknowledged, guarded by mu
}

// run reads loaded and written keys and writes new ones until stop is closed.
func (tr *traffic) run(t *testing.T, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		key := fmt.Sprint("loaded-", i*7919%tr.keys)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		v, err := tr.cache.Get(ctx, key)
		cancel()
		tr.gets.Add(1)
		tr.worst.Store(max(tr.worst.Load(), int64(time.Since(began))))
		if err != nil || v != "value of "+key {
			tr.failed.Add(1)
			t.Errorf("Get %s: %q, %v", key, v, err)
		}
		if i%20 == 0 {
			tr.write(t, fmt.Sprint("written-", i/20%500), fmt.Sprint(i))
		}
	}
}

func (tr *traffic) write(t *testing.T, key, value string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := tr.cache.Set(ctx, key, value); err != nil {
		t.Errorf("Set %s: %v", key, err)
		return
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.written[key] = value
}

// check reads every acknowledged write back.
func (tr *traffic) check(t *testing.T) {
	t.Helper()
	for key, value := range tr.written {
		v, ok, err := tr.cache.Lookup(t.Context(), key)
		require.NoError(t, err)
		require.True(t, ok, "%s is lost", key)
		require.Equal(t, value, v, key)
	}
}

// TestProcessesShareACache kills, restarts, stops and continues the peers of
// one that goes on reading and writing.
func TestProcessesShareACache(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and waits for deaths in real time")
	}
	ctx := t.Context()
	n, err := peercache.Start(ctx, peercache.Config{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	defer n.Close()
	things := newCache(t, n, peercache.Options[string]{Load: echoKey})
	peers := make([]*process, 3)
	for i := range peers {
		peers[i] = startProcess(t, "127.0.0.1:0", n.Addr())
	}
	together := func(members int, peers ...*process) {
		t.Helper()
		eventually(t, "all agree", func() bool {
			for _, p := range peers {
				if r := p.latest(); !r.Ready || len(r.Members) != members || r.Digest != n.Stats().TableDigest {
					return false
				}
			}
			ended, cancel := context.WithCancel(ctx)
			cancel()
			return n.WaitReady(ended) == nil && len(n.Members()) == members
		})
	}
	loads := func() (all int64) {
		for _, p := range peers {
			all += p.latest().Loads
		}
		return all + things.Stats().Loads
	}
	together(4, peers...)

	tr := &traffic{cache: things, keys: 2000, written: make(map[string]string)}
	for i := range tr.keys {
		_, err := things.Get(ctx, fmt.Sprint("loaded-", i))
		require.NoError(t, err)
	}
	eventually(t, "every key was loaded once", func() bool { return loads() == int64(tr.keys) })
	time.Sleep(200 * time.Millisecond) // copies of loads are under way for 100 ms at most

	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() { tr.run(t, stop) })
	}
	time.Sleep(300 * time.Millisecond)

	old := peers[1].latest()
	before := loads() - old.Loads
	peers[1].kill()
	together(3, peers[0], peers[2])
	t.Logf("killed: %d Gets, slowest %v", tr.gets.Load(), time.Duration(tr.worst.Swap(0)))
	peers[1] = startProcess(t, old.Addr, n.Addr())
	together(4, peers...)
	t.Logf("started again: %d Gets, slowest %v", tr.gets.Load(), time.Duration(tr.worst.Swap(0)))

	peers[2].signal(syscall.SIGSTOP)
	together(3, peers[0], peers[1])
	t.Logf("stopped: %d Gets, slowest %v", tr.gets.Load(), time.Duration(tr.worst.Swap(0)))
	peers[2].signal(syscall.SIGCONT)
	together(4, peers...)
	t.Logf("continued: %d Gets, slowest %v", tr.gets.Load(), time.Duration(tr.worst.Swap(0)))

	close(stop)
	wait.Wait()
	tr.check(t)
	require.Zero(t, tr.failed.Load())
	require.Equal(t, before, loads(), "something was loaded again")
}

// TestOwnersThatWereStopped stops owners of many keys, which then go on with
// the tables that they had: what was written meanwhile is with members that do
// not hold it any more.
func TestOwnersThatWereStopped(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and waits for deaths in real time")
	}
	for _, c := range []struct {
		name    string
		copies  int
		stopped int
		killed  int // of the others, when the stopped ones go on
	}{
		{name: "both at once", copies: 2, stopped: 2},
		{name: "the only one", copies: 1, stopped: 1},
		{name: "one, and another one dies", copies: 2, stopped: 1, killed: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(peerCopies, strconv.Itoa(c.copies))
			ctx := t.Context()
			n, err := peercache.Start(ctx, peercache.Config{Listen: "127.0.0.1:0", Copies: c.copies})
			require.NoError(t, err)
			defer n.Close()
			peers := make([]*process, 3)
			for i := range peers {
				peers[i] = startProcess(t, "127.0.0.1:0", n.Addr())
			}
			members := func(count int) func() bool {
				return func() bool { return len(n.Members()) == count && n.WaitReady(ctx) == nil }
			}
			eventually(t, "all are there", members(4))
			things := newCache(t, n, peercache.Options[string]{})
			const keys = 500
			write := func(value string) {
				for i := range keys {
					require.NoError(t, things.Set(ctx, fmt.Sprint("key-", i), value))
				}
			}
			write("before")
			for _, p := range peers[:c.stopped] {
				p.signal(syscall.SIGSTOP)
			}
			eventually(t, "the stopped ones are out", members(4-c.stopped))
			write("after")
			for _, p := range peers[len(peers)-c.killed:] {
				p.kill()
			}
			for _, p := range peers[:c.stopped] {
				p.signal(syscall.SIGCONT)
			}
			older := 0
			for began := time.Now(); time.Since(began) < 3*time.Second; {
				for i := range keys {
					v, _, err := things.Lookup(ctx, fmt.Sprint("key-", i))
					require.NoError(t, err)
					if v != "after" {
						older++
					}
				}
			}
			eventually(t, "those who live are there", members(4-c.killed))
			require.Zero(t, older, "reads returned something older")
		})
	}
}
