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

// Begun gives the frame of which only a part has been read, when Next has given
// all before: f.Body is what there is of its body, and missing how much is not.
// False: there is none, or not enough of it.
func (r *FrameReader) Begun(f *Frame) (missing int, ok bool) {
	b := r.buf[r.at:r.end]
	size, err := frameSize(b, r.max)
	if err != nil || size <= len(b) || len(b) < HeaderSize {
		return 0, false
	}
	if n, err := parse(b, size, f); n == 0 || err != nil {
		return 0, false
	}
	return size - len(b), true
}

// Skip drops what has been read and not parsed: the caller has taken the frame
// that Begun gave, and reads what is missing of it with ReadInto.
func (r *FrameReader) Skip() { r.at, r.end = 0, 0 }

// ReadInto is Fill for a part of a frame's body, which goes to p. More than p
// is not read.
func (r *FrameReader) ReadInto(p []byte) (int, error) { return r.read(p, true) }

// Fill reads from the stream once, at most so many bytes unless it is 0, and
// returns how much came. It blocks as the stream does. The end of the stream
// within a frame is io.ErrUnexpectedEOF.
func (r *FrameReader) Fill(most int) (int, error) {
	if err := r.makeRoom(); err != nil {
		return 0, err
	}
	p := r.buf[r.end:]
	if most > 0 && most < len(p) {
		p = p[:most]
	}
	n, err := r.read(p, r.end > r.at)
	r.end += n
	r.full = n > 0 && r.end == len(r.buf)
	return n, err
}

// read reads once; within tells that a frame has begun.
func (r *FrameReader) read(p []byte, within bool) (int, error) {
	for range 100 {
		n, err := r.r.Read(p)
		if n > 0 {
			return n, nil // an error comes again
		}
		if err == io.EOF && within {
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
		if _, err := r.Fill(0); err != nil {
			return err
		}
	}
}

// Buffered returns the bytes that were read and not parsed.
func (r *FrameReader) Buffered() int { return r.end - r.at }
