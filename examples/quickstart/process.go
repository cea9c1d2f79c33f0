package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// A cluster is the peers as their parent sees them.
type cluster struct {
	peers []*process // those that run

	mu    sync.Mutex
	loads map[string]int // guarded by mu; how often each page was asked of the origin
}

// A process is one peer as its parent sees it.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	reports chan report   // of orders that were carried out
	changed chan struct{} // holds a token after the status changed
	ended   chan struct{}

	mu   sync.Mutex
	last status // guarded by mu
}

// start starts this program again as a peer that joins those which run, and
// returns once it is ready.
func (c *cluster) start(ctx context.Context, name string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var join []string
	for _, p := range c.peers {
		join = append(join, p.latest().Addr)
	}
	p := &process{
		name: name, cmd: exec.Command(self),
		reports: make(chan report, 1), changed: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	p.cmd.Env = append(os.Environ(), asPeer+"="+name, asPeer+"_JOIN="+strings.Join(join, " "))
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
	go p.listen(stdout, c)
	c.peers = append(c.peers, p)
	return p, p.wait(ctx, "start", func(s status) bool { return s.Addr != "" })
}

// listen takes what the peer tells until it ends.
func (p *process) listen(stdout io.Reader, c *cluster) {
	defer close(p.ended)
	for in := json.NewDecoder(stdout); ; {
		var e event
		switch err := in.Decode(&e); {
		case err != nil:
			return
		case e.Loading != "":
			c.mu.Lock()
			c.loads[e.Loading]++
			c.mu.Unlock()
		case e.Report != nil:
			p.reports <- *e.Report
		case e.Status != nil:
			p.mu.Lock()
			p.last = *e.Status
			p.mu.Unlock()
			select {
			case p.changed <- struct{}{}:
			default:
			}
		}
	}
}

// latest returns what the peer told of itself last.
func (p *process) latest() status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// wait waits until the peer's status is as wanted.
func (p *process) wait(ctx context.Context, what string, ok func(status) bool) error {
	for !ok(p.latest()) {
		select {
		case <-p.changed:
		case <-p.ended:
			return fmt.Errorf("%s: peer %s ended too early", what, p.name)
		case <-ctx.Done():
			return fmt.Errorf("%s: peer %s: %w; it last told %+v", what, p.name, context.Cause(ctx), p.latest())
		}
	}
	return nil
}

// waitAgree waits until the peers see each other and nobody else, and hold
// all that they should.
func (c *cluster) waitAgree(ctx context.Context, peers ...*process) error {
	for {
		for _, p := range peers {
			if err := p.wait(ctx, "wait for the others", func(s status) bool { return s.Members == len(peers) && s.Filled == s.Owned }); err != nil {
				return err
			}
		}
		first := peers[0].latest().Digest
		if !slices.ContainsFunc(peers, func(p *process) bool { return p.latest().Digest != first }) {
			return nil
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("the peers' tables differ: %w", err)
		}
	}
}

// tellAll gives an order to several peers.
func tellAll(o order, peers ...*process) error {
	for _, p := range peers {
		if err := json.NewEncoder(p.stdin).Encode(o); err != nil {
			return fmt.Errorf("peer %s: %w", p.name, err)
		}
	}
	return nil
}

// read gives an order to several peers and returns their reports as one.
func (c *cluster) read(ctx context.Context, o order, peers ...*process) (report, error) {
	if err := tellAll(o, peers...); err != nil {
		return report{}, err
	}
	var all report
	for _, p := range peers {
		select {
		case r := <-p.reports:
			all = all.with(r)
		case <-p.ended:
			return all, fmt.Errorf("%s: peer %s ended too early", o.Do, p.name)
		case <-ctx.Done():
			return all, fmt.Errorf("%s: peer %s: %w", o.Do, p.name, context.Cause(ctx))
		}
	}
	return all, nil
}

// takeLoads returns how often each page was asked of the origin since the last
// call.
func (c *cluster) takeLoads() (byPage map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byPage, c.loads = c.loads, make(map[string]int)
	return byPage
}

// loaded returns how many loads there were since the last takeLoads.
func (c *cluster) loaded() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sum(c.loads)
}

// gets returns how many Gets the peers made.
func (c *cluster) gets() (all int) {
	for _, p := range c.peers {
		all += p.latest().Gets
	}
	return all
}

// kill is kill -9 of a peer.
func (c *cluster) kill(p *process) error {
	c.peers = slices.DeleteFunc(c.peers, func(q *process) bool { return q == p })
	err := p.cmd.Process.Kill()
	<-p.ended
	p.cmd.Wait()
	return err
}

// end lets all peers leave and waits until they have.
func (c *cluster) end() {
	for _, p := range c.peers {
		p.stdin.Close()
	}
	for _, p := range c.peers {
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
			p.cmd.Process.Kill()
			<-p.ended
		}
		p.cmd.Wait()
	}
}
