package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang/groupcache"
	"github.com/peercache/peercache"
)

// A Trio is a way in which three processes cache for each other. The process that measures is one of them.
type Trio struct {
	Name string
	// Join makes this process one of the members, which are named by the addresses that they listen on.
	Join func(own string, all []string, load loader) (Getter, error)
	// Whole waits until a getter that Join returned sees all members.
	Whole func(ctx context.Context, g Getter, members int) error
}

type loader func(ctx context.Context, key string) ([]byte, error)

func trios() []Trio {
	return []Trio{
		{"peercache", joinOwn, wholeOwn},
		{"groupcache", joinGroup, func(context.Context, Getter, int) error { return nil }},
	}
}

func trioOf(name string) (Trio, error) {
	for _, t := range trios() {
		if t.Name == name {
			return t, nil
		}
	}
	return Trio{}, fmt.Errorf("no contender %q", name)
}

func joinOwn(own string, all []string, load loader) (Getter, error) {
	node, err := peercache.Start(context.Background(), peercache.Config{Listen: own, Join: all, Secret: peerSecret})
	if err != nil {
		return nil, err
	}
	cache, err := peercache.New(node, "bench", peercache.Options[[]byte]{Load: load})
	if err != nil {
		return nil, errors.Join(err, node.Close())
	}
	return &ownGetter{node, cache}, nil
}

func wholeOwn(ctx context.Context, g Getter, members int) error {
	node := g.(*ownGetter).node
	for len(activeOf(node)) < members || node.WaitReady(ctx) != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// joinGroup is groupcache as it is shipped.
func joinGroup(own string, all []string, load loader) (Getter, error) {
	ln, err := net.Listen("tcp", own)
	if err != nil {
		return nil, err
	}
	pool := groupcache.NewHTTPPoolOpts("http://"+own, nil)
	urls := make([]string, len(all))
	for i, addr := range all {
		urls[i] = "http://" + addr
	}
	pool.Set(urls...)
	g := groupcache.NewGroup("bench", 256<<20, groupcache.GetterFunc(func(ctx context.Context, key string, dest groupcache.Sink) error {
		v, err := load(ctx, key)
		if err != nil {
			return err
		}
		return dest.SetBytes(v)
	}))
	go func() { _ = http.Serve(ln, pool) }()
	return &groupGetter{g}, nil
}

// An origin is where the members load from. It is an HTTP server in the process that measures.
type origin struct {
	addr  string
	takes time.Duration
	ln    net.Listener
	loads atomic.Int64
}

func startOrigin(takes time.Duration) (*origin, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &origin{addr: ln.Addr().String(), takes: takes, ln: ln}
	value := newData(128).value()
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			o.loads.Add(1)
			time.Sleep(o.takes)
			_, _ = w.Write(value)
		}))
	}()
	return o, nil
}

// loaderFrom loads from an origin.
func loaderFrom(addr string) loader {
	client := &http.Client{Transport: wideTransport()}
	return func(ctx context.Context, key string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/"+key, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
}

// A standing is three members: this process and two servers.
type standing struct {
	origin  *origin
	here    Getter
	servers []*server
}

// startTrio starts the members of a section's contender, and waits until they see each other.
func startTrio(section string, t Trio, takes time.Duration) (s *standing, err error) {
	s = new(standing)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.origin, err = startOrigin(takes); err != nil {
		return s, err
	}
	addrs, err := freeAddrs(3)
	if err != nil {
		return s, err
	}
	for _, own := range addrs[1:] {
		srv, err := startServer(section, t.Name, nil, slices.Concat([]string{s.origin.addr, own}, addrs)...)
		if err != nil {
			return s, err
		}
		s.servers = append(s.servers, srv)
	}
	if s.here, err = t.Join(addrs[0], addrs, loaderFrom(s.origin.addr)); err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := t.Whole(ctx, s.here, 3); err != nil {
		return s, err
	}
	time.Sleep(time.Second) // the servers see it a little later
	return s, nil
}

// serveTrio is what a server does: it is a member, and for each line that it is told, a key, it gets that from many
// goroutines at once, and tells how many microseconds that took and how many failed.
func serveTrio(contender string, args []string) error {
	t, err := trioOf(contender)
	if err != nil {
		return err
	}
	g, err := t.Join(args[1], args[2:], loaderFrom(args[0]))
	if err != nil {
		return err
	}
	defer g.Close()
	fmt.Println(os.Getpid())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		took, failed := rush(g, in.Text(), stampedeCallers)
		fmt.Println(took.Microseconds(), failed)
	}
	return nil
}

// rush gets a key from many goroutines at once.
func rush(g Getter, key string, callers int) (took time.Duration, failed int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var bad atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range callers {
		wg.Go(func() {
			if _, err := g.Get(ctx, key); err != nil {
				bad.Add(1)
			}
		})
	}
	wg.Wait()
	return time.Since(start), bad.Load()
}

// freeAddrs returns addresses on loopback that nobody listens on.
func freeAddrs(count int) (addrs []string, err error) {
	for range count {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // only in the end, so that no two are the same
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

func (s *standing) stop() (err error) {
	if s.here != nil {
		s.here.Close()
	}
	for _, srv := range s.servers {
		err = errors.Join(err, srv.stop())
	}
	if s.origin != nil {
		err = errors.Join(err, s.origin.ln.Close())
	}
	return err
}

// told reads what a server says of a rush.
func told(line string) (took time.Duration, failed int64, err error) {
	micros, bad, _ := strings.Cut(line, " ")
	us, err1 := strconv.ParseInt(micros, 10, 64)
	failed, err2 := strconv.ParseInt(bad, 10, 64)
	return time.Duration(us) * time.Microsecond, failed, errors.Join(err1, err2)
}
