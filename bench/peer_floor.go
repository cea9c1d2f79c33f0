package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
)

// floorFetches are what can be had with less than a cache does: frames on one connection, and net/http.
func floorFetches() []Fetch {
	return []Fetch{
		{Name: "bare frames", Serve: serveBare, Dial: dialBare},
		{Name: "HTTP/1.1", Serve: serveWeb, Dial: dialWeb},
	}
}

// A bareConn is length-prefixed frames with a call's number, many calls at once on one connection, written by one
// goroutine that takes what has gathered. It knows no context, no bound and no error.
type bareConn struct {
	nc   net.Conn
	wake chan struct{}

	mu    sync.Mutex
	buf   []byte // guarded by mu, like all below; frames to be written
	idle  bool
	over  bool
	calls map[uint32]chan []byte
	next  uint32
}

// newBare starts a connection; values, if not nil, makes it the side that answers.
func newBare(nc net.Conn, values map[string][]byte) *bareConn {
	b := &bareConn{nc: nc, wake: make(chan struct{}, 1), calls: make(map[uint32]chan []byte)}
	go b.write()
	go b.read(values)
	return b
}

func (b *bareConn) appendLocked(id uint32, body []byte) {
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(4+len(body)))
	b.buf = binary.BigEndian.AppendUint32(b.buf, id)
	b.buf = append(b.buf, body...)
	if b.idle {
		b.idle = false
		b.wake <- struct{}{}
	}
}

func (b *bareConn) write() {
	var spare []byte
	for {
		b.mu.Lock()
		for len(b.buf) == 0 {
			if b.over {
				b.mu.Unlock()
				return
			}
			b.idle = true
			b.mu.Unlock()
			<-b.wake
			b.mu.Lock()
		}
		buf := b.buf
		b.buf = spare[:0]
		b.mu.Unlock()
		if _, err := b.nc.Write(buf); err != nil {
			return
		}
		spare = buf
	}
}

func (b *bareConn) read(values map[string][]byte) {
	defer func() {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
		select {
		case b.wake <- struct{}{}:
		default:
		}
	}()
	r := bufio.NewReaderSize(b.nc, 64<<10)
	for {
		head, err := r.Peek(8)
		if err != nil {
			return
		}
		n, id := binary.BigEndian.Uint32(head)-4, binary.BigEndian.Uint32(head[4:])
		_, _ = r.Discard(8)
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		b.mu.Lock()
		if values != nil {
			b.appendLocked(id, values[string(body)])
			b.mu.Unlock()
			continue
		}
		ch := b.calls[id]
		delete(b.calls, id)
		b.mu.Unlock()
		ch <- body
	}
}

var bareAnswers = sync.Pool{New: func() any { return make(chan []byte, 1) }}

// Get implements [Getter].
func (b *bareConn) Get(_ context.Context, key string) (int, error) {
	ch := bareAnswers.Get().(chan []byte)
	b.mu.Lock()
	b.next++
	b.calls[b.next] = ch
	b.appendLocked(b.next, []byte(key))
	b.mu.Unlock()
	v := <-ch
	bareAnswers.Put(ch)
	return len(v), nil
}

// Close implements [Getter].
func (b *bareConn) Close() { b.nc.Close() }

func serveBare(d Data, ready func(string, int)) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	values := make(map[string][]byte)
	for _, key := range d.Keys {
		values[key] = d.value()
	}
	ready(ln.Addr().String(), os.Getpid())
	nc, err := ln.Accept()
	if err != nil {
		return err
	}
	newBare(nc, values)
	untilTold()
	return nc.Close()
}

func dialBare(_ Data, addr string) (Getter, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return newBare(nc, nil), nil
}

func serveWeb(d Data, ready func(string, int)) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	value := d.value()
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(value) }))
	}()
	ready("http://"+ln.Addr().String()+"/", os.Getpid())
	untilTold()
	return ln.Close()
}

type webGetter struct {
	c   *http.Client
	url string
}

func dialWeb(_ Data, url string) (Getter, error) {
	return webGetter{&http.Client{Transport: wideTransport()}, url}, nil
}

func (g webGetter) Get(ctx context.Context, key string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, g.url+key, nil)
	if err != nil {
		return 0, err
	}
	res, err := g.c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	v, err := io.ReadAll(res.Body)
	return len(v), err
}

func (g webGetter) Close() { g.c.CloseIdleConnections() }
