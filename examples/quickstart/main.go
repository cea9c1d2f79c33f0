// Quickstart starts three peers, as processes of their own on this machine,
// that share a cache of pages from a slow origin: what go doc says about
// packages of the standard library. It shows what the cache is for, step by
// step, and checks every figure: a page is loaded once in the whole cluster, a
// peer killed with kill -9 costs no Get and no reload, one that comes back is
// filled by the others, and a deleted page is gone on all peers at once.
//
// It ends by itself, with status 0 if all is as promised, and leaves nothing
// behind.
//
// What a program does to share a cache is in peer.go. The rest is the story
// (main.go), the parent's side of a peer (process.go) and the table it prints.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	wholeTime = 40 * time.Second
	many      = 8                      // readers of a peer that read at the same time
	warmTimes = 50                     // how often every page is read in the warm pass
	calmTime  = time.Second            // reading before the kill
	afterTime = 500 * time.Millisecond // reading after the cluster has recovered
	killTime  = 4 * time.Second        // about how long that pass takes, for the progress bar
)

// packages are the keys: the page of each is what go doc prints.
var packages = strings.Fields(`
	archive/tar archive/zip bufio bytes cmp compress/gzip context crypto crypto/aes crypto/rand crypto/sha256 crypto/tls
	database/sql encoding/binary encoding/csv encoding/json encoding/xml errors flag fmt go/ast html/template image io
	io/fs iter log log/slog maps math math/big net net/http net/netip net/url os os/exec path/filepath reflect regexp
	runtime slices sort strconv strings sync testing time`)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := show
	if name := os.Getenv(asPeer); name != "" {
		signal.Ignore(os.Interrupt) // Ctrl-C is for the parent, which then ends its peers
		run = func(ctx context.Context) error { return bePeer(ctx, name) }
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// show is the whole story, told by the parent of the three peers.
func show(ctx context.Context) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("no go command in PATH: the pages of this example are what go doc prints")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wholeTime, fmt.Errorf("it took longer than %v", wholeTime))
	defer cancel()
	began := time.Now()

	c := &cluster{loads: make(map[string]int)}
	defer c.end()
	for _, step := range []func(context.Context, *cluster) error{start, cold, warm, kill, restart, remove} {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll is as promised, in %.1f s.\n", time.Since(began).Seconds())
	return nil
}

// start starts the peers one after the other, each joining those before it.
func start(ctx context.Context, c *cluster) error {
	fmt.Printf("Three processes share a cache of %d pages; the origin is go doc.\n\n", len(packages))
	for _, name := range []string{"anna", "bert", "cora"} {
		if _, err := c.start(ctx, name); err != nil {
			return err
		}
	}
	if err := c.waitAgree(ctx, c.peers...); err != nil {
		return err
	}
	fmt.Printf("%-6s %-17s %8s %18s %17s\n", "peer", "address", "process", "primary of shards", "copies of shards")
	for _, p := range c.peers {
		s := p.latest()
		fmt.Printf("%-6s %-17s %8d %18d %17d\n", p.name, s.Addr, p.cmd.Process.Pid, s.Primary, s.Owned)
	}
	printHead()
	return nil
}

// cold lets all peers ask for all pages at the same moment. Nobody holds one.
func cold(ctx context.Context, c *cluster) error {
	before, err := c.read(ctx, order{Do: doLookup, Pages: packages}, c.peers...)
	if err != nil {
		return err
	}
	stop := showProgress("cold", func() float64 { return share(c.loaded(), len(packages)) })
	r, err := c.read(ctx, order{Do: doRead, Pages: packages, Readers: many, Times: 1}, c.peers...)
	stop()
	if err != nil {
		return err
	}
	loads := c.takeLoads()
	printRow("cold: all ask for all pages", r, loads)
	return errors.Join(expect("pages found before", before.Found, 0), r.check(3*len(packages)), expectLoads(loads, packages...))
}

// warm reads everything again, many times.
func warm(ctx context.Context, c *cluster) error {
	gets, all := c.gets(), 3*warmTimes*len(packages)
	stop := showProgress("warm", func() float64 { return share(c.gets()-gets, all) })
	r, err := c.read(ctx, order{Do: doRead, Pages: packages, Readers: 1, Times: warmTimes}, c.peers...)
	stop()
	if err != nil {
		return err
	}
	loads := c.takeLoads()
	printRow(fmt.Sprintf("warm: the same %d times", warmTimes), r, loads)
	return errors.Join(r.check(all), expectLoads(loads))
}

// kill kills a peer while all are reading, and waits until the others have
// made up for the copies that it held.
func kill(ctx context.Context, c *cluster) error {
	began := time.Now()
	stop := showProgress("kill -9", func() float64 { return float64(time.Since(began)) / float64(killTime) })
	defer stop()
	killed, rest := c.peers[1], []*process{c.peers[0], c.peers[2]}
	if err := tellAll(order{Do: doRead, Pages: packages, Readers: many}, c.peers...); err != nil {
		return err
	}
	if err := sleep(ctx, calmTime); err != nil {
		return err
	}
	died := time.Now()
	if err := c.kill(killed); err != nil {
		return err
	}
	if err := c.waitAgree(ctx, rest...); err != nil {
		return err
	}
	took := time.Since(died)
	if err := sleep(ctx, afterTime); err != nil {
		return err
	}
	r, err := c.read(ctx, order{Do: doStop}, rest...)
	stop()
	if err != nil {
		return err
	}
	loads := c.takeLoads()
	printRow("kill -9 of bert meanwhile", r, loads)
	printNote("after %.1f s the others had made up for the copies that it held", took.Seconds())
	return errors.Join(r.check(some), expectLoads(loads))
}

// restart brings the killed peer back while the others are reading. When it is
// ready they have filled it.
func restart(ctx context.Context, c *cluster) error {
	others := slices.Clone(c.peers)
	if err := tellAll(order{Do: doRead, Pages: packages, Readers: many}, others...); err != nil {
		return err
	}
	began := time.Now()
	bert, err := c.start(ctx, "bert")
	if err != nil {
		return err
	}
	took, s := time.Since(began), bert.latest()
	if err := c.waitAgree(ctx, c.peers...); err != nil {
		return err
	}
	own, err := c.read(ctx, order{Do: doRead, Pages: packages, Readers: many, Times: 1}, bert)
	if err != nil {
		return err
	}
	r, err := c.read(ctx, order{Do: doStop}, others...)
	if err != nil {
		return err
	}
	r = r.with(own)
	loads := c.takeLoads()
	printRow("bert is back", r, loads)
	printNote("ready %.1f s after its start: %d of %d shards filled, %d pages", took.Seconds(), s.Filled, s.Owned, s.Entries)
	if s.Entries == 0 {
		return errors.New("bert was not filled: it has no page")
	}
	return errors.Join(r.check(some), expectLoads(loads), expect("shards filled", s.Filled, s.Owned))
}

// remove deletes a page on one peer. It is gone on all of them; then all ask
// for it at the same moment.
func remove(ctx context.Context, c *cluster) error {
	page := packages[0]
	if _, err := c.read(ctx, order{Do: doDelete, Pages: []string{page}}, c.peers[0]); err != nil {
		return err
	}
	gone, err := c.read(ctx, order{Do: doLookup, Pages: []string{page}}, c.peers...)
	if err != nil {
		return err
	}
	r, err := c.read(ctx, order{Do: doRead, Pages: []string{page}, Readers: 1, Times: 1}, c.peers...)
	if err != nil {
		return err
	}
	loads := c.takeLoads()
	printRow("a deleted page, asked again", r, loads)
	printNote("after the Delete on %s %d of %d peers found the page", c.peers[0].name, gone.Found, len(c.peers))
	return errors.Join(r.check(3), expect("peers that found a deleted page", gone.Found, 0), expectLoads(loads, page))
}

// expect is an error unless got is want.
func expect(what string, got, want int) error {
	if got != want {
		return fmt.Errorf("%s: %d, not %d", what, got, want)
	}
	return nil
}

// expectLoads is an error unless each of the pages was loaded once, and no other.
func expectLoads(loads map[string]int, pages ...string) error {
	wrong := maps.Clone(loads)
	for _, page := range pages {
		wrong[page]--
	}
	for page, n := range wrong {
		if n != 0 {
			return fmt.Errorf("the page of %s was loaded %d times, not %d", page, loads[page], loads[page]-n)
		}
	}
	return nil
}

func share(part, whole int) float64 { return float64(part) / float64(whole) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
