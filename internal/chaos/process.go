//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// endTime is how long a peer may take to leave.
const endTime = 30 * time.Second

// A process is one peer as its parent sees it.
type process struct {
	number int
	addr   string
	board  *peerBoard

	cmd     *exec.Cmd // nil: it does not run
	stdin   io.Closer
	stopped bool
}

// newProcesses finds an address for each peer.
func newProcesses(b *board) ([]*process, error) {
	var all []*process
	for i := range maxPeers {
		// All are held until all are found, so that no two are equal.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		all = append(all, &process{number: i, addr: l.Addr().String(), board: &b.peers[i]})
	}
	return all, nil
}

// start starts the peer's process.
func (r *run) start(p *process) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	words := []string{fmt.Sprint(p.number), r.path, p.addr}
	for _, other := range r.processes {
		words = append(words, other.addr)
	}
	p.board.ready.Store(0)
	p.board.incarnation.Store(0)
	cmd := exec.Command(self, r.options.Args...)
	cmd.Env = append(os.Environ(), peerEnv+"="+strings.Join(words, " "))
	cmd.Stderr = r.options.Errors
	// Ctrl-C is for the parent, which then ends its peers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd = cmd
	return nil
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd, p.stopped = nil, false
	p.board.members.Store(0)
}

// leave lets the peer hand its shards over and end.
func (p *process) leave() error {
	if p.cmd == nil {
		return nil
	}
	cmd := p.cmd
	p.stdin.Close()
	late := time.AfterFunc(endTime, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	p.cmd = nil
	p.board.members.Store(0)
	if !late.Stop() {
		err = errors.New("killed because it took too long")
	}
	if err != nil {
		return fmt.Errorf("peer %d did not leave in good order: %w", p.number, err)
	}
	return nil
}

func (p *process) stop() error {
	p.board.stops.Add(1)
	p.stopped = true
	return p.cmd.Process.Signal(syscall.SIGSTOP)
}

func (p *process) goOn() error {
	p.board.continued.Store(time.Now().UnixNano())
	p.board.stops.Add(1)
	p.stopped = false
	return p.cmd.Process.Signal(syscall.SIGCONT)
}

// agree reports whether the peers that run and are not stopped are ready and
// see just each other.
func (r *run) agree() bool {
	var digest uint64
	running := uint64(0)
	for _, p := range r.processes {
		if p.cmd != nil && !p.stopped {
			running++
		}
	}
	for _, p := range r.processes {
		if p.cmd == nil || p.stopped {
			continue
		}
		b := p.board
		if b.ready.Load() == 0 || b.members.Load() != running || digest != 0 && b.digest.Load() != digest {
			return false
		}
		digest = b.digest.Load()
	}
	return true
}

// waitAgree waits until the peers agree.
func (r *run) waitAgree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Patience)
	defer cancel()
	for !r.agree() {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: the peers do not agree within %v", r.phase, r.options.Patience)
		}
		sleep(ctx, 5*time.Millisecond)
	}
	return nil
}
