package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

const leaveTime = 5 * time.Second

// A status is what a peer tells its parent, one line of JSON each time
// something changed.
type status struct {
	Addr    string
	Members int
	Digest  uint64 // of its table
	Owned   int    // shards
	Primary int    // shards
	Shards  int    // of all members
}

// bePeer is the life of a peer: it tells what it sees until its standard
// input ends, which it does when the parent wants it to, or is no more.
func bePeer(ctx context.Context, name string) error {
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	node, err := peercache.Start(ctx, peercache.Config{
		Name:   name,
		Listen: "127.0.0.1:0",
		Join:   strings.Fields(os.Getenv(asPeer + "_JOIN")),
		Events: &peercache.Events{
			MemberJoined:  func(peercache.Member) { wake() },
			MemberChanged: func(_, _ peercache.Member) { wake() },
			MemberLeft:    func(peercache.Member) { wake() },
			TableChanged:  func(peercache.TableChange) { wake() },
		},
	})
	if err != nil {
		return err
	}
	defer node.Shutdown(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	out := json.NewEncoder(os.Stdout)
	for {
		s := node.Stats()
		out.Encode(status{
			Addr: node.Addr(), Members: len(s.Peers) + 1, Digest: s.TableDigest,
			Owned: s.ShardsOwned, Primary: s.ShardsPrimary, Shards: s.Shards,
		})
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// A process is a peer as its parent sees it.
type process struct {
	name  string
	addr  string
	cmd   *exec.Cmd
	stdin io.Closer
	told  chan struct{} // closed when it told something
	ended chan struct{} // closed when it tells no more

	mu   sync.Mutex
	last status // guarded by mu
}

// startPeer starts this program again as a peer, and returns once the peer
// told its address.
func startPeer(ctx context.Context, name string, seeds []string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(self), told: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asPeer+"="+name, asPeer+"_JOIN="+strings.Join(seeds, " "))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("peer %s: %w", name, err)
	}
	go p.read(stdout)
	select {
	case <-p.told:
		p.addr = p.latest().Addr
		return p, nil
	case <-p.ended:
		p.end()
		return nil, fmt.Errorf("peer %s ended at once", name)
	case <-ctx.Done():
		p.end()
		return nil, context.Cause(ctx)
	}
}

func (p *process) read(stdout io.Reader) {
	defer close(p.ended)
	tell := sync.OnceFunc(func() { close(p.told) })
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var s status
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue
		}
		p.mu.Lock()
		p.last = s
		p.mu.Unlock()
		tell()
	}
}

func (p *process) latest() status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// end lets the peer leave and waits until it has. One that does not is killed.
func (p *process) end() {
	p.stdin.Close()
	select {
	case <-p.ended:
	case <-time.After(leaveTime):
		p.cmd.Process.Kill()
		<-p.ended
	}
	p.cmd.Wait()
}
