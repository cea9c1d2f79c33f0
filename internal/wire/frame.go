package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// HeaderSize is the size of a frame without fields and body.
const HeaderSize = 16

// MaxCall is the greatest call id: 56 bits.
const MaxCall = 1<<56 - 1

// MaxOverhead bounds what a frame has beside its body.
const MaxOverhead = HeaderSize + MaxFields

const (
	lengthSize = 4
	minLength  = HeaderSize - lengthSize
)

// Errors of reading frames. All but ErrCritical mean that the stream is lost.
var (
	// ErrMalformed: the bytes are no frame.
	ErrMalformed = errors.New("wire: malformed frame")
	// ErrTooLarge: the frame says that it is larger than the reader's bound.
	ErrTooLarge = errors.New("wire: frame too large")
	// ErrCritical is matched by *CriticalError: the frame is well formed but
	// has a critical field that is not known here. Frames after it can be read.
	ErrCritical = errors.New("wire: unknown critical field")
)

// CriticalError says which critical field is not known.
type CriticalError struct{ Tag byte }

func (e *CriticalError) Error() string { return fmt.Sprintf("%v %d", ErrCritical, e.Tag) }

// Is reports whether target is ErrCritical.
func (e *CriticalError) Is(target error) bool { return target == ErrCritical }

// Header is all of a frame but its body.
type Header struct {
	Kind   Kind
	Code   uint8
	Flags  Flags
	Call   uint64 // at most MaxCall
	Fields Fields
}

// Frame is one frame as it was read. Body is part of the buffer that it was
// parsed from and as short-lived.
type Frame struct {
	Header
	Body []byte
}

// Size returns the encoded size of a frame with header h and body bytes of
// body.
func Size(h *Header, body int) int { return HeaderSize + h.Fields.size() + body }

// AppendFrame appends a frame to dst; its body is the concatenation of body
// and tail. The caller sees to it that the frame is within the receiver's
// bound and h.Call within MaxCall.
func AppendFrame(dst []byte, h *Header, body, tail []byte) []byte {
	dst = AppendHead(dst, h, len(body)+len(tail))
	dst = append(dst, body...)
	return append(dst, tail...)
}

// AppendHead appends the part of a frame before its body, which is to have
// size bytes and to follow.
func AppendHead(dst []byte, h *Header, size int) []byte {
	fields := h.Fields.size()
	var b [HeaderSize]byte
	binary.BigEndian.PutUint64(b[0:], uint64(minLength+fields+size)<<32|uint64(h.Kind)<<24|uint64(h.Code)<<16|uint64(fields))
	binary.BigEndian.PutUint64(b[8:], uint64(h.Flags)<<56|h.Call&MaxCall)
	dst = append(dst, b[:]...)
	if fields > 0 {
		dst = h.Fields.append(dst)
	}
	return dst
}

// Void turns the encoded frame that frame begins with into one that receivers
// skip. It is for frames that are withdrawn before they are written.
func Void(frame []byte) { frame[4] = byte(KindVoid) }

// Parse reads the frame that b begins with into f and returns its size, or 0
// and no error when b does not hold all of it. No frame is larger than max.
// After ErrCritical size and f, but for its fields, are good.
func Parse(b []byte, max int, f *Frame) (size int, err error) {
	size, err = frameSize(b, max)
	if err != nil || size == 0 || len(b) < size {
		return 0, err
	}
	return parse(b, size, f)
}

// parse reads the frame of size bytes that b begins with. Of its body there may
// be a part only.
func parse(b []byte, size int, f *Frame) (int, error) {
	w0, w1 := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	f.Kind, f.Code = Kind(w0>>24), uint8(w0>>16)
	f.Flags, f.Call = Flags(w1>>56), w1&MaxCall
	f.Fields = Fields{}
	fields := int(w0 & 0xffff)
	if !f.Kind.Valid() {
		return 0, fmt.Errorf("%w: %v is unknown", ErrMalformed, f.Kind)
	}
	if fields > MaxFields || fields > size-HeaderSize {
		return 0, fmt.Errorf("%w: %d bytes of fields in %d", ErrMalformed, fields, size)
	}
	if len(b) < HeaderSize+fields {
		return 0, nil
	}
	end := min(size, len(b))
	f.Body = b[HeaderSize+fields : end : end]
	if fields > 0 {
		err := f.Fields.parse(b[HeaderSize : HeaderSize+fields])
		if err != nil && !errors.Is(err, ErrCritical) {
			return 0, err
		}
		return size, err
	}
	return size, nil
}

// frameSize returns the size of the frame that b begins with, or 0 when b is
// too short to tell.
func frameSize(b []byte, max int) (int, error) {
	if len(b) < lengthSize {
		return 0, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n < minLength {
		return 0, fmt.Errorf("%w: length %d", ErrMalformed, n)
	}
	if uint64(n)+lengthSize > uint64(max) {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, uint64(n)+lengthSize, max)
	}
	return int(n) + lengthSize, nil
}
