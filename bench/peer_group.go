package main

import (
	"context"
	"net"
	"net/http"
	"os"

	"github.com/golang/groupcache"
)

// groupFetches are groupcache as it comes, and with a transport that keeps as many connections as there are callers.
func groupFetches() []Fetch {
	return []Fetch{
		{Name: "groupcache", Serve: serveGroup, Dial: func(_ Data, addr string) (Getter, error) { return dialGroup(addr, nil) }},
		{Name: "groupcache, tuned", Serve: serveGroup, Dial: func(_ Data, addr string) (Getter, error) { return dialGroup(addr, wideTransport()) }},
	}
}

// wideTransport keeps a connection for every caller.
func wideTransport() *http.Transport {
	return &http.Transport{MaxIdleConns: 2 * peerManyCall, MaxIdleConnsPerHost: 2 * peerManyCall, DisableCompression: true}
}

func serveGroup(d Data, ready func(string, int)) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	url := "http://" + ln.Addr().String()
	pool := groupcache.NewHTTPPoolOpts(url, nil)
	pool.Set(url)
	value := d.value()
	groupcache.NewGroup("bench", 256<<20, groupcache.GetterFunc(func(_ context.Context, _ string, dest groupcache.Sink) error {
		return dest.SetBytes(value)
	}))
	go func() { _ = http.Serve(ln, pool) }()
	ready(url, os.Getpid())
	untilTold()
	return ln.Close()
}

type groupGetter struct{ g *groupcache.Group }

func dialGroup(url string, transport *http.Transport) (Getter, error) {
	pool := groupcache.NewHTTPPoolOpts("http://client", nil)
	if transport != nil {
		pool.Transport = func(context.Context) http.RoundTripper { return transport }
	}
	pool.Set(url)
	// Without room for a cache of its own every Get crosses.
	g := groupcache.NewGroup("bench", 0, groupcache.GetterFunc(func(context.Context, string, groupcache.Sink) error { return errMiss }))
	return &groupGetter{g}, nil
}

func (g *groupGetter) Get(ctx context.Context, key string) (int, error) {
	var v []byte
	err := g.g.Get(ctx, key, groupcache.AllocatingByteSliceSink(&v))
	return len(v), err
}

func (g *groupGetter) Close() {}
