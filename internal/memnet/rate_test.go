package memnet

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What is sent over a link that has a rate arrives bit by bit, and two
// connections share the link.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := New()
		nw.RateAll(1 << 20)
		ln, err := nw.Listen("b:1")
		require.NoError(t, err)
		began := time.Now()
		dial := func() (from, to io.ReadWriteCloser) {
			c, err := nw.Host("a").DialContext(t.Context(), "tcp", "b:1")
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			return c, s
		}
		a, b := dial()
		c, d := dial()
		for _, w := range []io.ReadWriteCloser{a, c} {
			go func() {
				w.Write(make([]byte, 2<<20))
				w.Close()
			}()
		}
		var rest sync.WaitGroup
		rest.Go(func() { io.Copy(io.Discard, d) })
		some := make([]byte, 4<<10)
		_, err = io.ReadFull(b, some)
		require.NoError(t, err)
		// The other connection may have gone first, with all that its buffer holds.
		require.Less(t, time.Since(began), 300*time.Millisecond, "the first bytes do not wait for the last")
		n, err := io.Copy(io.Discard, b)
		require.NoError(t, err)
		require.Equal(t, int64(2<<20-4<<10), n)
		require.InDelta(t, 4, time.Since(began).Seconds(), 0.3)
		rest.Wait()

		nw.Rate("a", "b", 0)
		a, b = dial()
		began = time.Now()
		go func() {
			a.Write(make([]byte, 2<<20))
			a.Close()
		}()
		_, err = io.Copy(io.Discard, b)
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
	})
}
