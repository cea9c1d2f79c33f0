// Against a program that was written for golang/groupcache one line has changed:
//
//	import "github.com/peercache/peercache/groupcache" // was "github.com/golang/groupcache"
//
// Three processes of this machine serve colours by their names, as so many first
// groupcache programs do. The parent starts them, asks each for each colour,
// kills one with kill -9, and asks again: every colour is looked up once, and
// none again after the kill. It ends by itself, with status 0 if that is so, and
// leaves nothing behind.
//
// What a peer does is in bePeer; the rest is the parent.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/groupcache"
)

// asPeer, set in the environment, makes this program a peer: the base URLs of
// all, its own first.
const asPeer = "GROUPCACHE_EXAMPLE_PEER"

// colours are the origin.
var colours = map[string]string{
	"red": "#FF0000", "green": "#00FF00", "blue": "#0000FF", "white": "#FFFFFF", "black": "#000000", "cyan": "#00FFFF",
	"magenta": "#FF00FF", "yellow": "#FFFF00", "orange": "#FFA500", "navy": "#000080", "teal": "#008080", "olive": "#808000",
	"pink": "#FFC0CB", "gold": "#FFD700", "indigo": "#4B0082", "violet": "#EE82EE", "silver": "#C0C0C0", "maroon": "#800000",
}

func main() {
	if urls := os.Getenv(asPeer); urls != "" {
		bePeer(strings.Fields(urls))
		return
	}
	if err := show(); err != nil {
		fmt.Fprintln(os.Stderr, "groupcache:", err)
		os.Exit(1)
	}
}

// bePeer is the program as it was written for groupcache.
func bePeer(urls []string) {
	self := urls[0]
	pool := groupcache.NewHTTPPool(self) // mounts itself in http.DefaultServeMux
	pool.Set(urls[1:]...)

	group := groupcache.NewGroup("colours", 64<<20, groupcache.GetterFunc(
		func(_ context.Context, name string, dest groupcache.Sink) error {
			fmt.Println("looking up", name)
			colour, ok := colours[name]
			if !ok {
				return errors.New("no such colour")
			}
			return dest.SetString(colour)
		}))

	http.HandleFunc("/colour", func(w http.ResponseWriter, r *http.Request) {
		var colour string
		if err := group.Get(r.Context(), r.FormValue("name"), groupcache.StringSink(&colour)); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		io.WriteString(w, colour)
	})
	// The one thing here that groupcache does not have: who is there?
	http.HandleFunc("/members", func(w http.ResponseWriter, _ *http.Request) {
		node := group.Node()
		now, cancel := context.WithCancel(context.Background())
		cancel()
		fmt.Fprintf(w, "%d %v %x", len(node.Members()), node.WaitReady(now) == nil, node.Stats().TableDigest)
	})
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the parent
		os.Exit(0)
	}()
	log.Fatal(http.ListenAndServe(strings.TrimPrefix(self, "http://"), nil))
}

// show starts the peers and asks them.
func show() error {
	urls, err := freeURLs(3)
	if err != nil {
		return err
	}
	var peers []*peer
	defer func() {
		for _, p := range peers {
			p.kill()
		}
	}()
	var lookups atomic.Int64
	for _, url := range urls {
		p, err := start(url, urls, &lookups)
		if err != nil {
			return err
		}
		peers = append(peers, p)
	}
	if err := awaitAgreed(peers); err != nil {
		return err
	}
	fmt.Println("Three processes share a cache of", len(colours), "colours.")
	if err := askAll(peers); err != nil {
		return err
	}
	time.Sleep(time.Second) // each colour is on its way to a second process for 100 ms at most
	before := lookups.Load()
	fmt.Println("Each was asked for each:", before, "lookups.")

	peers[1].kill()
	peers = slices.Delete(peers, 1, 2)
	if err := askAll(peers); err != nil {
		return err
	}
	if err := awaitAgreed(peers); err != nil {
		return err
	}
	again := lookups.Load() - before
	fmt.Println("One was killed, the others were asked again:", again, "more lookups.")
	if before != int64(len(colours)) || again != 0 {
		return fmt.Errorf("expected %d lookups and then none", len(colours))
	}
	return nil
}

// freeURLs returns base URLs at free ports of this machine.
func freeURLs(n int) (urls []string, err error) {
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close() // all are open until all are known
		urls = append(urls, "http://"+listener.Addr().String())
	}
	return urls, nil
}

// A peer is a process as its parent sees it.
type peer struct {
	url   string
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{}
}

func start(url string, all []string, lookups *atomic.Int64) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &peer{url: url, cmd: exec.Command(self), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asPeer+"="+url+" "+strings.Join(all, " "))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			lookups.Add(1)
		}
	}()
	return p, nil
}

func (p *peer) kill() {
	p.stdin.Close()
	p.cmd.Process.Kill()
	<-p.ended
	p.cmd.Wait()
}

func (p *peer) get(path string) (string, error) {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(p.url + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return string(body), err
}

// awaitAgreed waits until all peers see each other and nobody else.
func awaitAgreed(peers []*peer) error {
	var seen []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		seen = seen[:0]
		for _, p := range peers {
			members, err := p.get("/members")
			if err != nil {
				members = err.Error()
			}
			seen = append(seen, members)
		}
		if strings.HasPrefix(seen[0], fmt.Sprint(len(peers), " true ")) && len(slices.Compact(slices.Clone(seen))) == 1 {
			return nil
		}
	}
	return fmt.Errorf("the peers do not agree: %q", seen)
}

func askAll(peers []*peer) error {
	for name, want := range colours {
		for _, p := range peers {
			if got, err := p.get("/colour?name=" + name); err != nil || got != want {
				return fmt.Errorf("%s on %s: %q, %w", name, p.url, got, err)
			}
		}
	}
	return nil
}
