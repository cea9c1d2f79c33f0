package wire

import (
	"io"
)

// A FrameReader's buffer starts small, doubles up to readBuffer when reads fill
// it, and grows beyond only for a frame that is larger. It shrinks again after
// spareFills reads that did not need the size.
const (
	firstBuffer = 4 << 10
	readBuffer  = 64 << 10
	spareFills  = 64
)

// FrameReader reads frames from a stream. Many small frames take one Read and
// are not copied. Its buffer is never larger than readBuffer or the greatest
// frame. Not safe for concurrent use.
type FrameReader struct {
	r       io.Reader
	max     int
	buf     []byte // frames are parsed from buf[at:end]
	at, end int
	full    bool // the last read filled the buffer
	spare   int  // reads in a row for which buf was larger than it need be
}

// NewFrameReader returns a FrameReader that refuses frames larger than max
// bytes, header included, before it makes room for them.
func NewFrameReader(r io.Reader, max int) *FrameReader {
	return &FrameReader{r: r, max: max}
}

// Next gives the next frame that has been read from the stream already, and
// false when there is none: then Fill must be called. f.Body is valid until
// Fill. Of the errors only ErrCritical lets the stream go on; f is then good
// but for its fields.
func (r *FrameReader) Next(f *Frame) (bool, error) {
	size, err := Parse(r.buf[r.at:r.end], r.max, f)
	if size == 0 {
		return false, err
	}
	r.at += size
	return true, err
}

// Fill reads from the stream once and returns how much came. It blocks as the
// stream does. The end of the stream within a frame is io.ErrUnexpectedEOF.
func (r *FrameReader) Fill() (int, error) {
	if err := r.makeRoom(); err != nil {
		return 0, err
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			r.full = r.end == len(r.buf)
			return n, nil // an error comes again
		}
		if err == io.EOF && r.end > r.at {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// makeRoom sees to it that the frame under way fits and some room is left.
func (r *FrameReader) makeRoom() error {
	need, err := frameSize(r.buf[r.at:r.end], r.max)
	if err != nil {
		return err
	}
	kept, size := r.end-r.at, len(r.buf)
	if size <= readBuffer || need > readBuffer {
		r.spare = 0
	}
	switch {
	case need > size || size == 0:
		size = max(need, firstBuffer)
	case r.full && size < readBuffer:
		size = min(2*size, readBuffer)
	case size > readBuffer && need <= readBuffer && kept < readBuffer:
		if r.spare++; r.spare > spareFills {
			size = readBuffer
		}
	}
	switch {
	case size != len(r.buf):
		buf := make([]byte, size)
		copy(buf, r.buf[r.at:r.end])
		r.buf, r.at, r.end = buf, 0, kept
	case kept == 0:
		r.at, r.end = 0, 0
	case r.at > 0 && (size-r.at < max(need, HeaderSize) || size-r.end < size/4):
		// Only the part of a frame at the end of the buffer moves.
		copy(r.buf, r.buf[r.at:r.end])
		r.at, r.end = 0, kept
	}
	r.full = false
	return nil
}

// Read gives the next frame and reads from the stream as often as that takes.
// f.Body is valid until the next call. The end of the stream between two
// frames is io.EOF.
func (r *FrameReader) Read(f *Frame) error {
	for {
		if ok, err := r.Next(f); ok || err != nil {
			return err
		}
		if _, err := r.Fill(); err != nil {
			return err
		}
	}
}

// Buffered returns the bytes that were read and not parsed.
func (r *FrameReader) Buffered() int { return r.end - r.at }
