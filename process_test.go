//go:build unix

package peercache_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
)

// peerProcess, set in the environment, makes the test's own program a peer. It
// has the address to listen on, and behind it those to join.
const peerProcess = "PEERCACHE_TEST_PEER"

// peerCopies names the variable that has Config.Copies for such a process, if
// it is not to be the default.
const peerCopies = "PEERCACHE_TEST_COPIES"

// A report is what a peer tells its parent, a line of JSON when it changed.
type report struct {
	Self    uint64
	Addr    string
	Members []uint64
	Digest  uint64
	Ready   bool
	Pauses  uint64
	Loads   int64 // of the cache that every peer makes
}

// TestPeerProcess is no test but the life of a peer, which ends when its
// standard input does: when the parent wants it to or is no more.
func TestPeerProcess(t *testing.T) {
	addrs := strings.Fields(os.Getenv(peerProcess))
	if len(addrs) == 0 {
		t.Skip("a peer that other tests start")
	}
	copies, _ := strconv.Atoi(os.Getenv(peerCopies))
	n, err := peercache.Start(context.Background(), peercache.Config{Listen: addrs[0], Join: addrs[1:], Copies: copies})
	require.NoError(t, err)
	things := newCache(t, n, peercache.Options[string]{Load: echoKey})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, os.Stdin)
	}()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	var last string
	for tick := time.Tick(20 * time.Millisecond); ; {
		s := n.Stats()
		r := report{Self: n.Self().Incarnation, Addr: n.Addr(), Digest: s.TableDigest, Ready: n.WaitReady(now) == nil, Pauses: s.Pauses, Loads: things.Stats().Loads}
		for _, m := range n.Members() {
			r.Members = append(r.Members, m.Incarnation)
		}
		b, err := json.Marshal(r)
		require.NoError(t, err)
		if string(b) != last {
			last = string(b)
			os.Stdout.WriteString(last + "\n")
		}
		select {
		case <-tick:
		case <-ended:
			require.NoError(t, n.Shutdown(context.Background()))
			return
		}
	}
}

// A process is a peer as its parent sees it.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{} // closed when all it said was read, so that Wait may be called

	mu   sync.Mutex
	last report
}

// startProcess starts a peer, waits until it tells its address, and kills it
// with the test.
func startProcess(t *testing.T, listen string, join ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, cmd: exec.Command(self, "-test.run=^TestPeerProcess$"), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), peerProcess+"="+strings.Join(append([]string{listen}, join...), " "))
	p.cmd.Stderr = os.Stderr
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.kill)
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			var r report
			if json.Unmarshal(lines.Bytes(), &r) == nil {
				p.mu.Lock()
				p.last = r
				p.mu.Unlock()
			}
		}
	}()
	eventually(t, "the process tells its address", func() bool { return p.latest().Addr != "" })
	return p
}

func (p *process) latest() report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s))
}

// kill ends the process as kill -9 does and waits until it is gone.
func (p *process) kill() {
	p.cmd.Process.Kill() // stopped or not
	<-p.ended
	p.cmd.Wait()
}

// waitProcesses waits until the processes agree that they are the members.
func waitProcesses(t *testing.T, processes ...*process) {
	t.Helper()
	var want []uint64
	for _, p := range processes {
		want = append(want, p.latest().Self)
	}
	slices.Sort(want)
	eventually(t, "the processes agree", func() bool {
		for _, p := range processes {
			r := p.latest()
			if !r.Ready || !slices.Equal(r.Members, want) || r.Digest != processes[0].latest().Digest {
				return false
			}
		}
		return true
	})
}

func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes and waits for deaths in real time")
	}
	const anywhere = "127.0.0.1:0"
	a := startProcess(t, anywhere)
	b := startProcess(t, anywhere, a.latest().Addr)
	c := startProcess(t, anywhere, a.latest().Addr, b.latest().Addr)
	waitProcesses(t, a, b, c)

	began := time.Now()
	b.kill()
	waitProcesses(t, a, c)
	t.Logf("killed: in nobody's table after %v", time.Since(began).Round(time.Millisecond))

	old := b.latest()
	began = time.Now()
	b = startProcess(t, old.Addr, a.latest().Addr)
	waitProcesses(t, a, b, c)
	t.Logf("started again: in all tables after %v", time.Since(began).Round(time.Millisecond))
	require.Equal(t, old.Addr, b.latest().Addr)
	require.Greater(t, b.latest().Self, old.Self)

	began = time.Now()
	c.signal(syscall.SIGSTOP)
	waitProcesses(t, a, b)
	t.Logf("stopped: in nobody's table after %v", time.Since(began).Round(time.Millisecond))
	time.Sleep(time.Until(began.Add(5 * time.Second)))
	waitProcesses(t, a, b)
	began = time.Now()
	c.signal(syscall.SIGCONT)
	waitProcesses(t, a, b, c)
	t.Logf("continued: in all tables after %v", time.Since(began).Round(time.Millisecond))
	eventually(t, "it knows that it was stopped", func() bool { return c.latest().Pauses >= 1 })

	began = time.Now()
	require.NoError(t, a.stdin.Close())
	<-a.ended
	require.NoError(t, a.cmd.Wait(), "it leaves in good order")
	waitProcesses(t, b, c)
	t.Logf("left: in nobody's table after %v", time.Since(began).Round(time.Millisecond))
}
