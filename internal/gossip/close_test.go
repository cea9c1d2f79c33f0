package gossip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// The bubble of each of these tests panics if a goroutine of ours or of
// memberlist's is left waiting for something; that Close took no time is
// checked for every member of every test, see network.add.

// TestCloseWhileProbing closes members while their probes of a silent one, and
// those that others asked them to relay, are at every stage.
func TestCloseWhileProbing(t *testing.T) {
	for i := range 40 {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(5)
			n.silence(all[0], true)
			time.Sleep(time.Duration(i) * 13 * time.Millisecond)
		})
	}
}

func TestCloseWhileJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(2)
		n.silence(all[0], true)
		failed := make(chan error, 2)
		go func() { failed <- all[1].Join(t.Context(), all[0].addr) }()

		// One who takes the stream, and says nothing.
		deaf := n.add(func(c *Config) { c.Link = deafLink{} })
		go func() { failed <- deaf.Join(t.Context(), "deaf.test:1") }()
		time.Sleep(10 * time.Millisecond)
		all[1].Close()
		deaf.Close()
		require.ErrorIs(t, <-failed, ErrClosed)
		require.ErrorIs(t, <-failed, ErrClosed)
		require.ErrorIs(t, all[1].Join(t.Context(), all[0].addr), ErrClosed)
		require.ErrorIs(t, all[1].Update(), ErrClosed)
	})
}

func TestJoinEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		deaf := n.add(func(c *Config) { c.Link = deafLink{} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		require.ErrorIs(t, deaf.Join(ctx, "deaf.test:1"), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))

		// And without one, in some Timeouts.
		start = time.Now()
		require.Error(t, deaf.Join(t.Context(), "deaf.test:1"))
		require.LessOrEqual(t, time.Since(start), 10*time.Second)

		p := n.add()
		require.ErrorIs(t, p.Join(t.Context(), "nobody.test:1"), errRefusedConn)
		require.ErrorContains(t, p.Join(t.Context(), "nobody.test"), "not a host:port")
		require.ErrorContains(t, p.Join(t.Context(), "x/127.0.0.1:1"), "not a host:port")
	})
}

// deafLink has streams that swallow everything.
type deafLink struct{}

func (deafLink) Send(Peer, []byte) error { return nil }
func (deafLink) Open(ctx context.Context, _ Peer) (net.Conn, error) {
	a, b := net.Pipe()
	go func() {
		buf := make([]byte, 100)
		for {
			if _, err := b.Read(buf); err != nil {
				b.Close()
				return
			}
		}
	}()
	return a, nil
}

// TestCloseWithOpenStreams closes a member that has accepted streams whose
// other ends say nothing, half of something, or wait for nothing.
func TestCloseWithOpenStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(2)
		var ends []net.Conn
		for range 2 * MaxStreams { // more than it takes
			a, b := net.Pipe()
			all[0].Stream(b)
			ends = append(ends, a)
		}
		time.Sleep(10 * time.Millisecond)
		open := 0
		for i, a := range ends {
			a.SetDeadline(time.Now().Add(time.Millisecond))
			if _, err := a.Write([]byte{0, 0, 1}[:i%4]); err == nil {
				open++
			}
		}
		require.Equal(t, MaxStreams, open)
		n.holds(time.Second, all)
		all[0].Close()
		a, b := net.Pipe()
		all[0].Stream(b)
		_, err := a.Write([]byte{1})
		require.Error(t, err)
		for _, a := range ends {
			a.Close()
		}
	})
}

// TestSilentStreamIsGivenUp: a stream that says nothing frees its place.
func TestSilentStreamIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		p := n.add()
		a, b := net.Pipe()
		p.Stream(b)
		_, err := a.Read(make([]byte, 1))
		require.Error(t, err)
		p.transport.streams.wait()
	})
}

func TestCloseIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(all[0].Close)
			wg.Go(func() { _ = all[0].Leave(t.Context()) })
			wg.Go(func() { _ = all[0].Update() })
			wg.Go(func() { _ = all[0].Join(t.Context(), all[1].addr) })
		}
		wg.Wait()
		for range 2 * inboxSize {
			all[0].Packet(Peer{}, []byte{kindPing})
		}
	})
}

// TestCloseAnyTime closes the members of a busy cluster one by one.
func TestCloseAnyTime(t *testing.T) {
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			all := n.cluster(8)
			for _, p := range all {
				switch rand.IntN(3) {
				case 0:
					require.NoError(t, p.Leave(t.Context()))
				case 1:
					n.silence(p, true)
				}
				time.Sleep(rand.N(700 * time.Millisecond))
				n.kill(p)
			}
		})
	}
}

// TestNothingIsCalledAfterClose: what Config holds is the caller's again.
func TestNothingIsCalledAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		var mu sync.Mutex
		closed := false
		check := func() {
			mu.Lock()
			defer mu.Unlock()
			if closed {
				panic("called after Close")
			}
		}
		p := n.add(func(c *Config) {
			c.Changed = check
			c.Link = checkedLink{c.Link, check}
			c.Offset = func(string, time.Duration, time.Duration) { check() }
			c.Now = func() time.Time { check(); return time.Now() }
			c.AddrOf = func(b []byte) (string, bool) { check(); return addrOf(b) }
		})
		all := n.cluster(3)
		require.NoError(t, p.Join(t.Context(), all[0].addr))
		n.agree(time.Second, append(all[:3:3], p))
		n.silence(all[0], true)
		time.Sleep(700 * time.Millisecond) // suspicions are under way
		p.Close()
		mu.Lock()
		closed = true
		mu.Unlock()
		time.Sleep(time.Minute)
	})
}

type checkedLink struct {
	Link
	check func()
}

func (l checkedLink) Send(to Peer, b []byte) error { l.check(); return l.Link.Send(to, b) }
func (l checkedLink) Open(ctx context.Context, to Peer) (net.Conn, error) {
	l.check()
	return l.Link.Open(ctx, to)
}

// TestStorm: whoever delivers packets is never held up.
func TestStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		from := Peer{Name: all[1].name, Addr: all[1].addr}
		// Each asks for an answer, or for a goroutine.
		ping := indirectPing(all[0].name, all[2].name)
		start := time.Now()
		for range 20000 {
			all[0].Packet(from, ping)
		}
		require.Zero(t, time.Since(start))
		require.NotZero(t, all[0].Stats().Dropped)
		time.Sleep(time.Second)
		for i := range 2000 {
			all[0].Packet(from, ping)
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		all[0].transport.mu.Lock()
		require.LessOrEqual(t, len(all[0].transport.pings), maxPings+1)
		all[0].transport.mu.Unlock()
		n.holds(5*time.Second, all)
	})
}

// indirectPing asks to ping somebody on behalf of origin.
func indirectPing(origin, target string) []byte {
	return encode(kindIndirectPing, "SeqNo", 7, "Target", dummyIP, "Port", dummyPort, "Node", target,
		"Nack", true, "SourceAddr", dummyIP, "SourcePort", dummyPort, "SourceNode", origin)
}

// encode writes a message; fields are names and values in turn.
func encode(kind byte, fields ...any) []byte {
	b := []byte{kind, 0x80 | byte(len(fields)/2)}
	for _, f := range fields {
		switch f := f.(type) {
		case int:
			b = append(b, 0xce, byte(f>>24), byte(f>>16), byte(f>>8), byte(f))
		case bool:
			b = append(b, map[bool]byte{false: 0xc2, true: 0xc3}[f])
		case string:
			b = append(append(b, 0xd9, byte(len(f))), f...)
		case net.IP:
			b = append(append(b, 0xc4, byte(len(f))), f...)
		case []byte:
			b = append(append(b, 0xc5, byte(len(f)>>8), byte(len(f))), f...)
		default:
			panic(fmt.Sprintf("%T", f))
		}
	}
	return b
}
