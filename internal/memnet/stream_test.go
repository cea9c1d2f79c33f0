package memnet_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

// stream is one direction of a connection whose byte at position i is a function of seed and i, so that the reader can tell
// a byte that is lost, doubled, changed or out of order.
type stream struct {
	seed           uint64
	sent, received int
	writeErr       error // nil: all was written and the stream ended in order
	readErr        error
}

func (s *stream) at(i int) byte {
	return byte((s.seed + uint64(i)/8) * 0x9e3779b97f4a7c15 >> (i % 8 * 8))
}

// run writes to from and reads from to until both have ended.
func (s *stream) run(wg *sync.WaitGroup, from, to net.Conn, total int) {
	wg.Go(func() {
		random := rand.New(rand.NewPCG(s.seed, 1))
		b := make([]byte, 3000)
		for s.sent < total && s.writeErr == nil {
			n := min(1+random.IntN(len(b)), total-s.sent)
			for i := range n {
				b[i] = s.at(s.sent + i)
			}
			n, s.writeErr = from.Write(b[:n])
			s.sent += n
			time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond)
		}
		from.(interface{ CloseWrite() error }).CloseWrite()
	})
	wg.Go(func() {
		random := rand.New(rand.NewPCG(s.seed, 2))
		b := make([]byte, 5000)
		for {
			n, err := to.Read(b[:1+random.IntN(len(b))])
			for i := range n {
				if b[i] != s.at(s.received+i) {
					s.readErr = fmt.Errorf("the byte at %d is wrong", s.received+i)
					return
				}
			}
			s.received += n
			if err != nil {
				if err != io.EOF {
					s.readErr = err
				}
				return
			}
			if random.IntN(4) == 0 {
				time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond)
			}
		}
	})
}

// FuzzFaults runs streams between three hosts under a script of faults. Whatever happens, what arrives is a prefix of what
// was sent; what no fault broke arrives to the last byte once all is healed; and nothing waits for ever.
func FuzzFaults(f *testing.F) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 3))
		script := make([]byte, 60)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(seed, script)
	}
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		script = script[:min(len(script), 300)]
		synctest.Test(t, func(t *testing.T) { runFaults(t, seed, script) })
	})
}

func runFaults(t *testing.T, seed uint64, script []byte) {
	nw := memnet.New()
	nw.SetBuffer(200 << (seed / 2 % 8))
	hosts := []string{"n0", "n1", "n2"}
	var wg sync.WaitGroup
	var streams []*stream
	var conns []net.Conn
	for _, to := range hosts {
		ln := listen(t, nw, to+":1")
		for _, from := range hosts {
			c, err := nw.Host(from).DialContext(context.Background(), "tcp", to+":1")
			require.NoError(t, err)
			d, err := ln.Accept()
			require.NoError(t, err)
			conns = append(conns, c, d)
			for _, ends := range [][2]net.Conn{{c, d}, {d, c}} {
				s := &stream{seed: seed<<8 + uint64(len(streams))}
				streams = append(streams, s)
				s.run(&wg, ends[0], ends[1], 20_000)
			}
		}
	}
	broken := false // some connection may have been
	faults := uint16(14)
	if seed%2 == 0 {
		faults = 11 // none that breaks connections
	}
	for len(script) >= 2 {
		op := binary.BigEndian.Uint16(script)
		script = script[2:]
		a, b := hosts[op%3], hosts[op/3%3]
		h := nw.Host(a)
		arg := time.Duration(op/9%50) * time.Millisecond
		switch op / 450 % faults {
		case 0, 1:
			nw.Cut(a, b)
		case 2, 3:
			nw.CutOneWay(a, b)
		case 4, 5:
			nw.Heal(a, b)
		case 6:
			nw.Delay(a, b, arg)
		case 7:
			nw.Partition([]string{a}, []string{b})
		case 8, 9:
			h.Pause()
		case 10:
			h.Resume()
		case 11:
			nw.Reset(a, b)
			broken = true
		case 12:
			if arg < 10*time.Millisecond {
				h.Crash()
				broken = true
			}
		case 13:
			if arg < 5*time.Millisecond {
				h.Vanish()
				broken = true
			}
		}
		time.Sleep(arg)
	}
	nw.HealAll()
	for _, name := range hosts {
		nw.Host(name).Resume()
		nw.Host(name).Restart()
	}
	wg.Wait() // a stream that is stuck fails the test as a deadlock
	for i, s := range streams {
		require.LessOrEqual(t, s.received, s.sent)
		if !broken {
			require.NoError(t, s.writeErr)
			require.NoError(t, s.readErr)
			require.Equal(t, s.sent, s.received, "stream %d", i)
		}
		var e *net.OpError
		require.True(t, s.readErr == nil || errors.As(s.readErr, &e), "%v", s.readErr)
		require.True(t, s.writeErr == nil || errors.As(s.writeErr, &e), "%v", s.writeErr)
	}
	for _, c := range conns {
		c.Close()
	}
	require.Zero(t, nw.Open())
}

// Thirty nodes with two connections for each ordered pair, all of them gossiping, are what clusters in tests look like.
func TestManyHosts(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		const nodes, rounds = 30, 5
		nw.DelayAll(time.Millisecond)
		var wg sync.WaitGroup
		name := func(i int) string { return fmt.Sprintf("10.0.1.%d:1", i) }
		for i := range nodes {
			ln := listen(t, nw, name(i))
			wg.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { io.Copy(c, c); c.Close() })
				}
			})
		}
		var dialers sync.WaitGroup
		for i := range nodes {
			for j := range nodes {
				for range 2 {
					if i == j {
						continue
					}
					dialers.Go(func() {
						c, err := nw.Host(name(i)).DialContext(context.Background(), "tcp", name(j))
						if err != nil {
							t.Error(err)
							return
						}
						defer c.Close()
						b := make([]byte, 200)
						for range rounds {
							time.Sleep(200 * time.Millisecond)
							if _, err := c.Write(b); err != nil {
								t.Error(err)
							}
							if _, err := io.ReadFull(c, b); err != nil {
								t.Error(err)
							}
						}
					})
				}
			}
		}
		time.Sleep(time.Second)
		require.Equal(t, 2*nodes*(nodes-1), nw.Open())
		dialers.Wait()
		time.Sleep(time.Second)
		require.Zero(t, nw.Open())
		require.NoError(t, nw.Close())
		wg.Wait()
	})
}

// A network that nobody closes leaves no goroutine behind: the bubble would not end, and nor would the package's test.
func TestNothingLeaksWithoutClose(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		nw.DelayAll(time.Hour)
		write(t, a, "under way")
		require.NoError(t, b.SetDeadline(time.Now().Add(time.Hour)))
		listen(t, nw, addrB)
		nw.Host(hostB).Pause()
	})
}

func BenchmarkEcho(b *testing.B) {
	nw := memnet.New()
	ln, err := nw.Listen(addrB)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
	})
	c, err := nw.DialContext(context.Background(), "tcp", addrB)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	wg.Wait()
}
