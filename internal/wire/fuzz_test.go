package wire

import (
	"bytes"
	"errors"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzFrames reads arbitrary bytes as a stream: whatever they are, there is no
// panic and no room made beyond the bound, and what can be read can be written
// and read again.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, g := range goldenFrames {
		b := AppendFrame(nil, &g.Header, g.Body, nil)
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Add(raw(KindRequest, []byte{77 | tagCritical, 0, 78, 1, 1}, []byte("x")))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{0, 0, 255, 255, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	const bound = 100_000
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := NewFrameReader(bytes.NewReader(data), bound)
		pieces := NewFrameReader(iotest.HalfReader(bytes.NewReader(data)), bound)
		for {
			var a, b Frame
			errA, errB := whole.Read(&a), pieces.Read(&b)
			require.LessOrEqual(t, len(whole.buf), bound)
			require.LessOrEqual(t, len(pieces.buf), bound)
			if errA != nil && !errors.Is(errA, ErrCritical) {
				require.Error(t, errB)
				return
			}
			require.Equal(t, errA, errB)
			require.Equal(t, a.Header, b.Header)
			require.True(t, bytes.Equal(a.Body, b.Body))
			if errA == nil {
				requireFrame(t, a, AppendFrame(nil, &a.Header, a.Body, nil))
			}
		}
	})
}

// FuzzRoundTrip writes an arbitrary frame and reads it.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint8(1), uint8(2), uint8(0), uint64(3), int64(4), uint64(5), uint64(6), uint64(7), uint64(8), []byte("body"), []byte("tail"))
	f.Fuzz(func(t *testing.T, kind, code, flags uint8, call uint64, deadline int64, digest, clock, operation, size uint64, body, tail []byte) {
		h := Header{
			Kind: Kind(kind%uint8(kindEnd-1)) + 1, Code: code, Flags: Flags(flags), Call: call & MaxCall,
			Fields: Fields{Deadline: time.Duration(deadline), Digest: digest, Clock: clock, Operation: operation, BodySize: size},
		}
		b := AppendFrame([]byte("before"), &h, body, tail)[len("before"):]
		if h.Fields.Deadline != 0 {
			h.Fields.Deadline = time.Duration(min(micros(h.Fields.Deadline), maxDeadline)) * time.Microsecond
		}
		var got Frame
		n, err := Parse(b, len(b), &got)
		require.NoError(t, err)
		require.Equal(t, len(b), n)
		require.Equal(t, h, got.Header)
		require.Equal(t, string(body)+string(tail), string(got.Body))
	})
}
