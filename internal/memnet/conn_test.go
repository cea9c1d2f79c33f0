package memnet_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

func TestConnCarriesBytesBothWays(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		write(t, a, "hello ")
		write(t, a, "there")
		wantRead(t, b, "hello there")
		write(t, b, "hi")
		wantRead(t, a, "hi")
		require.Equal(t, a.LocalAddr(), b.RemoteAddr())
		require.Equal(t, b.LocalAddr(), a.RemoteAddr())
		require.IsType(t, &net.TCPAddr{}, a.LocalAddr())
		require.Equal(t, hostA, a.LocalAddr().(*net.TCPAddr).IP.String())
		require.EqualValues(t, 11, nw.Bytes(hostA, hostB))
		require.EqualValues(t, 2, nw.Bytes(hostB, hostA))
		require.Zero(t, nw.Bytes("x", "y"))
	})
}

func TestReadOfNothingReturnsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, _ := connect(t, nw)
		n, err := a.Read(nil)
		require.Zero(t, n)
		require.NoError(t, err)
		n, err = a.Write(nil)
		require.Zero(t, n)
		require.NoError(t, err)
	})
}

func TestManyBytesArriveInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		sent := make([]byte, 3<<20)
		for i := range sent {
			sent[i] = byte(i * 7 >> 3)
		}
		w := start(func() error {
			for rest, n := sent, 1; len(rest) > 0; n = n*3%100_003 + 1 {
				n = min(n, len(rest))
				if _, err := a.Write(rest[:n]); err != nil {
					return err
				}
				rest = rest[n:]
			}
			return a.Close()
		})
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sent, got))
		require.NoError(t, w.wantDone(t))
	})
}

func TestWriteWaitsWhileTheBufferIsFull(t *testing.T) {
	const size = 1000
	filled := func(t *testing.T, nw *memnet.Network) (a, b net.Conn, w *call) {
		nw.SetBuffer(size)
		a, b = connect(t, nw)
		write(t, a, string(make([]byte, size)))
		w = start(func() error {
			_, err := a.Write([]byte("more"))
			return err
		})
		w.wantWaiting(t)
		return a, b, w
	}
	t.Run("read", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			_, b, w := filled(t, nw)
			wantRead(t, b, string(make([]byte, size)))
			require.NoError(t, w.wantDone(t))
			wantRead(t, b, "more")
		})
	})
	t.Run("deadline", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			a, b, w := filled(t, nw)
			require.NoError(t, a.SetWriteDeadline(time.Now().Add(time.Minute)))
			w.wantWaiting(t)
			time.Sleep(time.Minute)
			wantOpError(t, w.wantDone(t), "write", os.ErrDeadlineExceeded)
			wantRead(t, b, string(make([]byte, size)))
			wantSilence(t, b)
		})
	})
	t.Run("close", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			a, _, w := filled(t, nw)
			require.NoError(t, a.Close())
			wantOpError(t, w.wantDone(t), "write", net.ErrClosed)
		})
	})
	t.Run("close by the peer", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			_, b, w := filled(t, nw)
			require.NoError(t, b.Close())
			wantOpError(t, w.wantDone(t), "write", syscall.EPIPE)
		})
	})
	t.Run("close by the peer, nothing having arrived", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			nw.SetBuffer(size)
			a, b := connect(t, nw)
			nw.CutOneWay(hostA, hostB)
			w := start(func() error {
				_, err := a.Write(make([]byte, size+1))
				return err
			})
			w.wantWaiting(t)
			require.NoError(t, b.Close())
			wantOpError(t, w.wantDone(t), "write", syscall.EPIPE)
		})
	})
	t.Run("close by the peer, unseen", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			_, b, w := filled(t, nw)
			nw.CutOneWay(hostB, hostA)
			require.NoError(t, b.Close())
			require.NoError(t, w.wantDone(t))
		})
	})
	t.Run("reset", func(t *testing.T) {
		bubble(t, func(t *testing.T, nw *memnet.Network) {
			_, _, w := filled(t, nw)
			nw.Reset(hostA, hostB)
			wantOpError(t, w.wantDone(t), "write", syscall.ECONNRESET)
		})
	})
}

func TestTwoEndsMayWriteBeforeTheyRead(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		big := string(make([]byte, 256<<10))
		write(t, a, big)
		write(t, b, big)
		wantRead(t, a, big)
		wantRead(t, b, big)
	})
}

func TestWritesAreNotMixed(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetBuffer(100)
		a, b := connect(t, nw)
		var writers sync.WaitGroup
		for i := range 4 {
			writers.Go(func() {
				_, err := a.Write(bytes.Repeat([]byte{'a' + byte(i)}, 1000))
				if err != nil {
					t.Error(err)
				}
			})
		}
		go func() {
			writers.Wait()
			a.Close()
		}()
		got := make([]byte, 4000)
		for i := 0; i < len(got); i += 50 {
			_, err := io.ReadFull(b, got[i:i+50])
			require.NoError(t, err)
			time.Sleep(time.Millisecond) // all writers have seen the room before there is more
		}
		wantEOF(t, b)
		for i := 0; i < len(got); i += 1000 {
			require.Equal(t, bytes.Repeat(got[i:i+1], 1000), got[i:i+1000])
		}
	})
}

func TestReadDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		began := time.Now()
		require.NoError(t, b.SetReadDeadline(began.Add(time.Second)))
		wantReadError(t, b, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		wantReadError(t, b, os.ErrDeadlineExceeded)

		// A deadline that has passed hides data until it is moved.
		write(t, a, "x")
		wantReadError(t, b, os.ErrDeadlineExceeded)
		require.NoError(t, b.SetReadDeadline(time.Time{}))
		wantRead(t, b, "x")

		// One that is moved acts on a call that is waiting, and its former self does not.
		require.NoError(t, b.SetDeadline(time.Now().Add(time.Second)))
		r := start(func() error {
			_, err := b.Read(make([]byte, 1))
			return err
		})
		require.NoError(t, b.SetDeadline(time.Now().Add(time.Hour)))
		time.Sleep(time.Minute)
		r.wantWaiting(t)
		require.NoError(t, b.SetDeadline(time.Now()))
		wantOpError(t, r.wantDone(t), "read", os.ErrDeadlineExceeded)
		wantWriteError(t, b, os.ErrDeadlineExceeded)
		require.NoError(t, b.SetDeadline(time.Time{}))
		write(t, b, "y")
	})
}

func TestDeadlineWithoutMonotonicReading(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, _ := connect(t, nw)
		require.NoError(t, a.SetReadDeadline(time.Now().Add(time.Second).Round(0)))
		wantReadError(t, a, os.ErrDeadlineExceeded)
	})
}

func TestCloseDeliversWhatWasWritten(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		write(t, a, "last words")
		require.NoError(t, a.Close())
		wantRead(t, b, "last words")
		wantEOF(t, b)
		wantEOF(t, b)
		wantWriteError(t, b, syscall.EPIPE)

		wantReadError(t, a, net.ErrClosed)
		wantWriteError(t, a, net.ErrClosed)
		require.ErrorIs(t, a.Close(), net.ErrClosed)
		require.ErrorIs(t, a.SetDeadline(time.Now()), net.ErrClosed)
		require.ErrorIs(t, a.(interface{ CloseWrite() error }).CloseWrite(), net.ErrClosed)
		require.Equal(t, 1, nw.Open())
		require.NoError(t, b.Close())
		require.Zero(t, nw.Open())
	})
}

func TestCloseEndsCallsThatWait(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		read := func(c net.Conn) *call {
			return start(func() error {
				_, err := c.Read(make([]byte, 1))
				return err
			})
		}
		here, there := read(a), read(b)
		here.wantWaiting(t)
		there.wantWaiting(t)
		require.NoError(t, a.Close())
		wantOpError(t, here.wantDone(t), "read", net.ErrClosed)
		require.Equal(t, io.EOF, there.wantDone(t))
	})
}

func TestCloseWriteLeavesTheOtherDirectionOpen(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		write(t, a, "question")
		require.NoError(t, a.(interface{ CloseWrite() error }).CloseWrite())
		wantWriteError(t, a, syscall.EPIPE)
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Equal(t, "question", string(got))
		write(t, b, "answer")
		wantRead(t, a, "answer")
		require.NoError(t, b.Close())
		wantEOF(t, a)
		require.NoError(t, a.Close())
		require.Zero(t, nw.Open())
	})
}

func TestCloseWriteEndsAWriteThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetBuffer(10)
		a, b := connect(t, nw)
		w := start(func() error {
			_, err := a.Write(make([]byte, 11))
			return err
		})
		w.wantWaiting(t)
		require.NoError(t, a.(interface{ CloseWrite() error }).CloseWrite())
		wantOpError(t, w.wantDone(t), "write", syscall.EPIPE)
		got, err := io.ReadAll(b)
		require.NoError(t, err)
		require.Len(t, got, 10)
	})
}

// The peer has closed, but the news is held up: what is written goes to the far end and is dropped there, so that the
// writer does not wait for room that nobody will make.
func TestWriteBeforeTheCloseIsSeen(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.SetBuffer(10)
		a, b := connect(t, nw)
		nw.CutOneWay(hostB, hostA)
		require.NoError(t, b.Close())
		write(t, a, string(make([]byte, 1000)))
		nw.Delay(hostA, hostB, time.Millisecond)
		write(t, a, string(make([]byte, 1000)))
		nw.Heal(hostA, hostB)
		wantEOF(t, a)
		wantWriteError(t, a, syscall.EPIPE)
	})
}

func TestReadersShareTheBytes(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		a, b := connect(t, nw)
		var readers sync.WaitGroup
		var mu sync.Mutex
		total := 0
		for range 3 {
			readers.Go(func() {
				n, err := io.Copy(io.Discard, b)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				total += int(n)
			})
		}
		for range 100 {
			write(t, a, "0123456789")
		}
		require.NoError(t, a.Close())
		synctest.Wait()
		readers.Wait()
		require.Equal(t, 1000, total)
	})
}
