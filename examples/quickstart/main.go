// Quickstart starts three peers as processes of their own on this machine,
// shows who they are and what share of the ring each owns, kills one, and
// shows how the others notice. It ends by itself and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	asPeer    = "PEERCACHE_QUICKSTART_PEER" // set in the environment of a process that is a peer
	wholeTime = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := show
	if name := os.Getenv(asPeer); name != "" {
		run = func(ctx context.Context) error { return bePeer(ctx, name) }
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// show is the whole story, told by the parent of the three peers.
func show(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wholeTime, errors.New("it took longer than "+wholeTime.String()))
	defer cancel()

	fmt.Println("Starting three peers on loopback ...")
	var peers []*process
	defer func() {
		for _, p := range peers {
			p.end()
		}
	}()
	var seeds []string
	for _, name := range []string{"anna", "bert", "cora"} {
		p, err := startPeer(ctx, name, seeds)
		if err != nil {
			return err
		}
		peers = append(peers, p)
		seeds = append(seeds, p.addr)
	}
	if err := waitUntil(ctx, peers, "all agree on the table", func() bool { return agree(peers) }); err != nil {
		return err
	}

	fmt.Printf("\n%-6s %-17s %8s %20s %16s\n", "peer", "address", "process", "primary of shards", "copies of shards")
	for _, p := range peers {
		v := p.latest()
		fmt.Printf("%-6s %-17s %8d %11d (%4.1f%%) %16d\n", p.name, p.addr, p.cmd.Process.Pid, v.Primary, 100*float64(v.Primary)/float64(v.Shards), v.Owned)
	}

	killed, rest := peers[1], []*process{peers[0], peers[2]}
	fmt.Printf("\nkill -9 %s ...\n", killed.name)
	began := time.Now()
	if err := killed.cmd.Process.Kill(); err != nil {
		return err
	}
	for _, p := range rest {
		noticed := func() bool { return p.latest().Members == len(rest) }
		if err := waitUntil(ctx, rest, p.name+" notices", noticed); err != nil {
			return err
		}
		fmt.Printf("%s noticed after %.1f s\n", p.name, time.Since(began).Seconds())
	}
	if err := waitUntil(ctx, rest, "the others agree on the table", func() bool { return agree(rest) }); err != nil {
		return err
	}
	for _, p := range rest {
		v := p.latest()
		fmt.Printf("%s is now primary of %d shards (%.1f%%)\n", p.name, v.Primary, 100*float64(v.Primary)/float64(v.Shards))
	}
	fmt.Println("\nThe table of every peer has the same owners again. Done.")
	return nil
}

// agree reports whether the peers see each other, nobody else, and have the
// same table.
func agree(peers []*process) bool {
	for _, p := range peers {
		if s := p.latest(); s.Members != len(peers) || s.Digest != peers[0].latest().Digest {
			return false
		}
	}
	return true
}

// waitUntil waits until something is so that the peers' statuses show.
func waitUntil(ctx context.Context, peers []*process, what string, so func() bool) error {
	for tick := time.Tick(10 * time.Millisecond); !so(); {
		for _, p := range peers {
			select {
			case <-p.ended:
				return fmt.Errorf("peer %s ended too early", p.name)
			default:
			}
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}
