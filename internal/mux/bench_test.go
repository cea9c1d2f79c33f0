package mux

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// The floor: length-prefixed frames with a call id, multiplexed over one
// connection, batched by a writing goroutine; no context, deadline, bound or
// error. One side echoes value for every request.

type bareConn struct {
	nc   net.Conn
	wake chan struct{}

	mu    sync.Mutex
	buf   []byte
	idle  bool
	over  bool
	calls map[uint32]chan []byte
	next  uint32
}

func newBare(nc net.Conn, value []byte) *bareConn {
	b := &bareConn{nc: nc, wake: make(chan struct{}, 1), calls: map[uint32]chan []byte{}}
	go b.write()
	go b.read(value)
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

func (b *bareConn) read(value []byte) {
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
		if value != nil {
			b.appendLocked(id, value)
			b.mu.Unlock()
			continue
		}
		ch := b.calls[id]
		delete(b.calls, id)
		b.mu.Unlock()
		ch <- body
	}
}

func (b *bareConn) call(ch chan []byte, body []byte) []byte {
	b.mu.Lock()
	b.next++
	b.calls[b.next] = ch
	b.appendLocked(b.next, body)
	b.mu.Unlock()
	return <-ch
}

func tcpPair(t testing.TB) (client, server net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	ch := make(chan net.Conn)
	go func() {
		nc, _ := ln.Accept()
		ch <- nc
	}()
	client, err = net.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	server = <-ch
	require.NotNil(t, server)
	return client, server
}

// goroutines runs call from n goroutines, b.N times in all.
func goroutines(b *testing.B, n int, call func()) {
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				call()
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

var benchKey, benchValue = make([]byte, 24), make([]byte, 128)

func benchBare(b *testing.B, n int) {
	cn, sn := tcpPair(b)
	defer cn.Close()
	defer sn.Close()
	newBare(sn, benchValue)
	c := newBare(cn, nil)
	pool := sync.Pool{New: func() any { return make(chan []byte, 1) }}
	goroutines(b, n, func() {
		ch := pool.Get().(chan []byte)
		c.call(ch, benchKey)
		pool.Put(ch)
	})
}

func benchCall(b *testing.B, n int, server Options, ctx context.Context) {
	cn, sn := tcpPair(b)
	s := New(sn, server)
	defer s.Close()
	c := New(cn, Options{})
	defer c.Close()
	goroutines(b, n, func() {
		r, err := c.Call(ctx, Request{Op: 1, Body: benchKey}, nil)
		if err != nil || len(r.Body) != len(benchValue) {
			b.Error(err, len(r.Body))
		}
	})
}

func fastServer() Options {
	return Options{Fast: func(*Request) (Reply, bool) { return Reply{Body: benchValue}, true }}
}

func slowServer() Options {
	return Options{Serve: func(context.Context, Request, func(Reply) bool) Reply { return Reply{Body: benchValue} }}
}

func BenchmarkFloor1(b *testing.B)  { benchBare(b, 1) }
func BenchmarkFloor64(b *testing.B) { benchBare(b, 64) }

func BenchmarkCall1(b *testing.B)  { benchCall(b, 1, fastServer(), b.Context()) }
func BenchmarkCall64(b *testing.B) { benchCall(b, 64, fastServer(), b.Context()) }

func BenchmarkDeadline64(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 1e12)
	defer cancel()
	benchCall(b, 64, fastServer(), ctx)
}

func BenchmarkServe1(b *testing.B)  { benchCall(b, 1, slowServer(), b.Context()) }
func BenchmarkServe64(b *testing.B) { benchCall(b, 64, slowServer(), b.Context()) }

// BenchmarkLarge fetches 16 MiB values.
func BenchmarkLarge(b *testing.B) {
	cn, sn := tcpPair(b)
	value := make([]byte, 16<<20)
	s := New(sn, Options{Serve: func(context.Context, Request, func(Reply) bool) Reply { return Reply{Body: value} }})
	defer s.Close()
	c := New(cn, Options{})
	defer c.Close()
	b.SetBytes(int64(len(value)))
	goroutines(b, 2, func() {
		if _, err := c.Call(b.Context(), Request{}, nil); err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkBesideLarge makes small calls, one after the other, while 16 MiB
// values travel on the same connection.
func BenchmarkBesideLarge(b *testing.B) {
	cn, sn := tcpPair(b)
	value := make([]byte, 16<<20)
	s := New(sn, Options{
		Serve: func(context.Context, Request, func(Reply) bool) Reply { return Reply{Body: value} },
		Fast:  func(req *Request) (Reply, bool) { return Reply{Body: benchValue}, req.Op == 1 },
	})
	defer s.Close()
	c := New(cn, Options{})
	defer c.Close()
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Call(ctx, Request{Op: 2}, nil)
			}
		})
	}
	goroutines(b, 1, func() {
		if _, err := c.Call(b.Context(), Request{Op: 1, Body: benchKey}, nil); err != nil {
			b.Error(err)
		}
	})
	cancel()
	wg.Wait()
}
