package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache"
)

const (
	asPeer  = "PEERCACHE_QUICKSTART_PEER" // set in the environment of a process that is a peer: its name
	getTime = 20 * time.Second            // a Get that takes longer has failed
	pace    = 2 * time.Millisecond        // between two Gets of a reader that goes on until it is stopped
)

// An order is what the parent wants of a peer, one line of JSON.
type order struct {
	Do      string
	Pages   []string
	Readers int // of doRead: goroutines that read at the same time
	Times   int // of doRead: how often each page is read; 0: on and on, until doStop
}

const (
	doRead   = "read"
	doStop   = "stop"
	doLookup = "lookup"
	doDelete = "delete"
)

// An event is what a peer tells its parent, one line of JSON.
type event struct {
	Status  *status `json:",omitempty"` // something about the peer has changed
	Loading string  `json:",omitempty"` // the page that the peer now asks the origin for
	Report  *report `json:",omitempty"` // an order was carried out
}

type status struct {
	Addr    string
	Members int
	Digest  uint64 // of the table: equal on all who see the same cluster
	Primary int    // shards
	Owned   int    // shards
	Filled  int    // shards
	Entries int    // pages held
	Gets    int    // since the peer was started
}

// bePeer is the life of a peer. It ends when its standard input does, which
// it does when the parent wants it to, or is no more.
func bePeer(ctx context.Context, name string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders := make(chan order)
	go func() {
		defer cancel()
		for in := json.NewDecoder(os.Stdin); ; {
			var o order
			if in.Decode(&o) != nil {
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	tell := teller()

	node, err := peercache.Start(ctx, peercache.Config{
		Name:   name,
		Listen: "127.0.0.1:0",
		Join:   strings.Fields(os.Getenv(asPeer + "_JOIN")),
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		node.Shutdown(ctx) // hands over what it holds, then leaves
	}()

	oneAtATime := make(chan struct{}, 1)
	pages, err := peercache.New(node, "pages", peercache.Options[string]{
		Load: func(ctx context.Context, pkg string) (string, error) {
			oneAtATime <- struct{}{} // spares the origin, here the processor
			defer func() { <-oneAtATime }()
			tell(event{Loading: pkg})
			page, err := exec.CommandContext(ctx, "go", "doc", pkg).Output()
			return string(page), err
		},
	})
	if err != nil {
		return err
	}
	if err := node.WaitReady(ctx); err != nil { // before that no program should serve
		return err
	}

	p := &peer{node: node, pages: pages, tell: tell, orders: orders}
	p.obey(ctx)
	return nil
}

// teller returns a function that writes events to standard output.
func teller() func(event) {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	return func(e event) {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(e)
	}
}

type peer struct {
	node   *peercache.Node
	pages  *peercache.Cache[string]
	tell   func(event)
	orders <-chan order
}

// obey carries out orders, and tells of changes, until ctx ends.
func (p *peer) obey(ctx context.Context) {
	var told status
	stop := func() {}
	for look := time.Tick(20 * time.Millisecond); ; {
		if now := p.status(); now != told {
			told = now
			p.tell(event{Status: &now})
		}
		select {
		case <-ctx.Done():
			stop()
			return
		case <-look:
		case o := <-p.orders:
			switch o.Do {
			case doRead:
				var reading context.Context
				reading, stop = context.WithCancel(ctx)
				go func() { p.tell(event{Report: p.read(reading, o)}) }()
			case doStop:
				stop()
			case doLookup:
				p.tell(event{Report: p.lookup(ctx, o.Pages)})
			case doDelete:
				p.tell(event{Report: newReport(p.pages.Delete(ctx, o.Pages...))})
			}
		}
	}
}

func (p *peer) status() status {
	n, c := p.node.Stats(), p.pages.Stats()
	return status{
		Addr:    p.node.Addr(),
		Members: len(p.node.Members()),
		Digest:  n.TableDigest,
		Primary: n.ShardsPrimary,
		Owned:   n.ShardsOwned,
		Filled:  n.ShardsFilled,
		Entries: int(c.Entries),
		Gets:    int(c.Gets + c.NearHits),
	}
}

// read reads pages, with several readers, until each was read often enough
// or ctx ends.
func (p *peer) read(ctx context.Context, o order) *report {
	var next atomic.Int64
	reports := make([]report, o.Readers)
	var wg sync.WaitGroup
	for i := range o.Readers {
		wg.Go(func() {
			for ctx.Err() == nil {
				k := int(next.Add(1)) - 1
				if o.Times > 0 && k >= o.Times*len(o.Pages) {
					return
				}
				if o.Times == 0 {
					time.Sleep(pace)
				}
				pkg := o.Pages[k%len(o.Pages)]
				began := time.Now()
				err := p.get(pkg)
				reports[i].add(time.Since(began), err)
			}
		})
	}
	wg.Wait()
	var all report
	for _, r := range reports {
		all = all.with(r)
	}
	return &all
}

// get reads one page and looks whether it is the right one.
func (p *peer) get(pkg string) error {
	ctx, cancel := context.WithTimeout(context.Background(), getTime)
	defer cancel()
	page, err := p.pages.Get(ctx, pkg)
	if err == nil && !strings.HasPrefix(page, "package "+path.Base(pkg)+" ") {
		err = fmt.Errorf("the page of %s begins with %.40q", pkg, page)
	}
	return err
}

// lookup counts the pages that the cluster holds.
func (p *peer) lookup(ctx context.Context, pages []string) *report {
	r := newReport(nil)
	for _, pkg := range pages {
		_, found, err := p.pages.Lookup(ctx, pkg)
		if found {
			r.Found++
		}
		if err != nil {
			r = newReport(err)
		}
	}
	return r
}
