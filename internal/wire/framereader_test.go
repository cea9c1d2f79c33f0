package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// stream makes a stream of frames with bodies of the given sizes.
func stream(sizes ...int) []byte {
	var b []byte
	for i, n := range sizes {
		b = AppendFrame(b, &Header{Kind: KindReply, Call: uint64(i)}, bytes.Repeat([]byte{byte(i)}, n), nil)
	}
	return b
}

func TestFrameReader(t *testing.T) {
	mixed := []int{0, 1, 5000, 0, 100_000, 3, 300_000, 65_536 - HeaderSize, 65_536, 10}
	for range 500 {
		mixed = append(mixed, 100, 0)
	}
	data := stream(mixed...)
	for name, r := range map[string]io.Reader{
		"all at once":     bytes.NewReader(data),
		"byte by byte":    iotest.OneByteReader(bytes.NewReader(data)),
		"halves":          iotest.HalfReader(bytes.NewReader(data)),
		"data with error": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		t.Run(name, func(t *testing.T) {
			fr := NewFrameReader(r, testMax)
			var f Frame
			for i, n := range mixed {
				require.NoError(t, fr.Read(&f))
				require.Equal(t, uint64(i), f.Call)
				require.Len(t, f.Body, n)
				require.Equal(t, n, bytes.Count(f.Body, []byte{byte(i)}))
			}
			require.Equal(t, io.EOF, fr.Read(&f))
			require.Zero(t, fr.Buffered())
		})
	}
}

// TestFrameReaderPieces: of a frame that is under way the rest can be read to
// where it belongs, and the frames after it follow.
func TestFrameReaderPieces(t *testing.T) {
	sizes := []int{0, 1, 5000, 0, 100_000, 3, 300_000, 65_536 - HeaderSize, 65_536, 10, 0}
	for name, whole := range map[string]func(io.Reader) io.Reader{
		"all at once":     func(r io.Reader) io.Reader { return r },
		"byte by byte":    iotest.OneByteReader,
		"halves":          iotest.HalfReader,
		"data with error": iotest.DataErrReader,
	} {
		t.Run(name, func(t *testing.T) {
			fr := NewFrameReader(whole(bytes.NewReader(stream(sizes...))), testMax)
			var f Frame
			pieces := 0
			for i, n := range sizes {
				for {
					ok, err := fr.Next(&f)
					require.NoError(t, err)
					if ok {
						break
					}
					missing, ok := fr.Begun(&f)
					if !ok {
						_, err := fr.Fill(100)
						require.NoError(t, err)
						continue
					}
					require.Equal(t, n, len(f.Body)+missing)
					body := append(make([]byte, 0, n), f.Body...)
					fr.Skip()
					for len(body) < n {
						got, err := fr.ReadInto(body[len(body):n])
						require.NoError(t, err)
						body = body[:len(body)+got]
					}
					f.Body = body
					pieces++
					break
				}
				require.Equal(t, uint64(i), f.Call)
				require.Equal(t, n, bytes.Count(f.Body, []byte{byte(i)}))
			}
			_, err := fr.Fill(100)
			require.Equal(t, io.EOF, err)
			require.Positive(t, pieces)
		})
	}
}

func TestFrameReaderEnd(t *testing.T) {
	data := stream(10)
	for i := range data {
		err := NewFrameReader(bytes.NewReader(data[:i]), testMax).Read(new(Frame))
		if i == 0 {
			require.Equal(t, io.EOF, err)
		} else {
			require.Equal(t, io.ErrUnexpectedEOF, err)
		}
	}
	fr := NewFrameReader(bytes.NewReader(data[:HeaderSize]), testMax)
	_, err := fr.Fill(0)
	require.NoError(t, err)
	missing, ok := fr.Begun(new(Frame))
	require.True(t, ok)
	fr.Skip()
	_, err = fr.ReadInto(make([]byte, missing))
	require.Equal(t, io.ErrUnexpectedEOF, err)
	broken := errors.New("broken")
	require.Equal(t, broken, NewFrameReader(iotest.ErrReader(broken), testMax).Read(new(Frame)))
	stuck := readerFunc(func([]byte) (int, error) { return 0, nil })
	require.Equal(t, io.ErrNoProgress, NewFrameReader(stuck, testMax).Read(new(Frame)))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestFrameReaderBound: a length beyond the bound is refused before there is
// room for it.
func TestFrameReaderBound(t *testing.T) {
	data := stream(10_000)
	fr := NewFrameReader(bytes.NewReader(data), 8192)
	require.ErrorIs(t, fr.Read(new(Frame)), ErrTooLarge)
	require.LessOrEqual(t, len(fr.buf), readBuffer)

	require.NoError(t, NewFrameReader(bytes.NewReader(data), len(data)).Read(new(Frame)))
	require.ErrorIs(t, NewFrameReader(bytes.NewReader(data), len(data)-1).Read(new(Frame)), ErrTooLarge)
}

// TestFrameReaderBuffer: it starts small, grows for what comes, and gives a
// large frame's room back.
func TestFrameReaderBuffer(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	send := func(b []byte) { _, _ = pw.Write(b) }
	fr := NewFrameReader(pr, testMax)
	var f Frame

	go send(stream(10))
	require.NoError(t, fr.Read(&f))
	require.Len(t, fr.buf, firstBuffer)

	go send(stream(400_000))
	require.NoError(t, fr.Read(&f))
	require.Equal(t, 400_000+HeaderSize, len(fr.buf), "no more than the frame needs")

	small := stream(10)
	for range spareFills + 2 {
		go send(small)
		require.NoError(t, fr.Read(&f))
	}
	require.Len(t, fr.buf, readBuffer)
}

func TestFrameReaderGoesOnAfterCritical(t *testing.T) {
	data := raw(KindRequest, []byte{77 | tagCritical, 0}, []byte("what"))
	data = append(data, stream(1)...)
	fr := NewFrameReader(bytes.NewReader(data), testMax)
	var f Frame
	require.ErrorIs(t, fr.Read(&f), ErrCritical)
	require.Equal(t, KindRequest, f.Kind)
	require.Equal(t, "what", string(f.Body))
	require.NoError(t, fr.Read(&f))
	require.Equal(t, KindReply, f.Kind)
}

func BenchmarkFrameReader(b *testing.B) {
	sizes := make([]int, 100)
	for i := range sizes {
		sizes[i] = 128
	}
	data := stream(sizes...)
	r := bytes.NewReader(data)
	fr := NewFrameReader(r, testMax)
	var f Frame
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%len(sizes) == 0 {
			r.Reset(data)
		}
		if err := fr.Read(&f); err != nil {
			b.Fatal(err)
		}
	}
}
