package groupcache

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	pb "github.com/golang/groupcache/groupcachepb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// ServeHTTP serves everything below the pool's base path: connections of
// peers, which are upgraded, and the requests of processes that still use the
// original, GET {BasePath}{group}/{key}. It panics when the path is another one:
// the pool is mounted in the wrong place.
func (p *HTTPPool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.URL.Path, p.opts.BasePath) {
		panic("HTTPPool serving unexpected path: " + r.URL.Path)
	}
	if strings.HasPrefix(r.Header.Get("Upgrade"), "peercache/") {
		p.serveUpgrade(w, r)
		return
	}
	name, key, ok := splitPath(r.URL, p.opts.BasePath)
	if !ok {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	group := p.r.group(name)
	if group == nil {
		http.Error(w, "no such group: "+name, http.StatusNotFound)
		return
	}
	group.Stats.ServerRequests.Add(1)
	ctx := r.Context()
	if p.Context != nil {
		ctx = p.Context(r)
	}
	var value []byte
	if err := group.Get(ctx, key, AllocatingByteSliceSink(&value)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body, err := proto.Marshal(protoadapt.MessageV2Of(&pb.GetResponse{Value: value}))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(body)
}

// splitPath takes group and key out of a request's URL. The original's client
// escapes both as in a query, so that a space comes as a plus sign and a plus
// sign as %2B; its server does not know, and takes every space for a plus.
func splitPath(u *url.URL, base string) (group, key string, ok bool) {
	escaped := u.EscapedPath()
	rest, found := strings.CutPrefix(escaped, base)
	if !found {
		// The base path itself came escaped in another way.
		rest = (&url.URL{Path: u.Path[len(base):]}).EscapedPath()
	}
	group, key, ok = strings.Cut(rest, "/")
	if !ok {
		return "", "", false
	}
	group, err := url.QueryUnescape(group)
	if err != nil {
		return "", "", false
	}
	key, err = url.QueryUnescape(key)
	return group, key, err == nil
}

// serveUpgrade hands a peer's connection to the node.
func (p *HTTPPool) serveUpgrade(w http.ResponseWriter, r *http.Request) {
	node := p.inbound.Load()
	if node == nil {
		http.Error(w, "groupcache: this process is no part of a cluster", http.StatusNotFound)
		return
	}
	rest := r.URL.Path[len(p.opts.BasePath):]
	own := *r.URL
	own.Path, own.RawPath = p.nodePath()+rest, "" // what was stripped of the path on the way is there again
	mine := *r
	mine.URL = &own
	node.ServeHTTP(w, &mine)
}

// contextFor is the context of a load that another process asked for over an
// upgraded connection: what [HTTPPool.Context] makes of the request that the
// original would have got. It ends with the load.
func (p *HTTPPool) contextFor(load context.Context, group, key string) context.Context {
	u := &url.URL{
		Path:    p.opts.BasePath + group + "/" + key,
		RawPath: p.opts.BasePath + url.QueryEscape(group) + "/" + url.QueryEscape(key),
	}
	r := (&http.Request{
		Method: http.MethodGet, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, RequestURI: u.RequestURI(),
	}).WithContext(load)
	return &valuesContext{Context: load, values: p.Context(r)}
}

// A valuesContext has the values of another context as well.
type valuesContext struct {
	context.Context
	values context.Context
}

// Value implements [context.Context].
func (c *valuesContext) Value(key any) any {
	if v := c.values.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}
