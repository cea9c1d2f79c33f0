package mux

import (
	"encoding/binary"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// TestSocketTakesAPart: what a full socket does not take of an answer is
// written by the writer, and nothing overtakes it.
func TestSocketTakesAPart(t *testing.T) {
	cn, sn := tcpPair(t)
	defer sn.Close()
	require.NoError(t, cn.(*net.TCPConn).SetWriteBuffer(32<<10))
	require.NoError(t, sn.(*net.TCPConn).SetReadBuffer(64<<10))
	const answers, size = 600, 1000
	c := New(cn, Options{WriteTimeout: time.Hour, Fast: func(req *Request) (Reply, bool) {
		body := append(req.Scratch, req.Body...)
		return Reply{Body: append(body, pattern(size)...)}, true
	}})
	defer c.Close()
	for i := range answers {
		number := binary.BigEndian.AppendUint64(nil, uint64(i))
		_, err := sn.Write(wire.AppendFrame(nil, &wire.Header{Kind: wire.KindRequest, Call: uint64(i)}, number, nil))
		require.NoError(t, err)
		if i%3 == 0 { // so that they come one by one
			for c.framesIn.Load() <= int64(i) {
				runtime.Gosched()
			}
		}
	}
	frames := wire.NewFrameReader(sn, MaxWhole+wire.MaxOverhead)
	for i := range answers {
		var f wire.Frame
		require.NoError(t, frames.Read(&f))
		require.Equal(t, uint64(i), f.Call)
		require.Equal(t, uint64(i), binary.BigEndian.Uint64(f.Body))
		requireBytes(t, pattern(size), f.Body[8:])
	}
	require.NoError(t, c.Err())
}
