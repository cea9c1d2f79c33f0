package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ErrMessage is wrapped by every error of a Reader: the body is not what it
// should be.
var ErrMessage = errors.New("wire: malformed message")

// Reader takes a message body apart. The first fault sticks: from then on all
// methods return zero values, and Err and End tell what it was. It allocates
// nothing but the strings asked for. Not safe for concurrent use.
type Reader struct {
	b   []byte
	err error
}

// NewReader returns a Reader of b, of which Bytes and Rest return parts.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Err returns the first fault, or nil.
func (r *Reader) Err() error { return r.err }

// End returns the first fault; bytes that are left are one.
func (r *Reader) End() error {
	if r.err == nil && len(r.b) > 0 {
		r.Fail(fmt.Sprintf("%d bytes too many", len(r.b)))
	}
	return r.err
}

// Fail records a fault that the caller found, unless there is one.
func (r *Reader) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMessage, what)
	}
	r.b = nil
}

// Len returns the number of bytes left.
func (r *Reader) Len() int { return len(r.b) }

// take returns the next n bytes, or nil when there are fewer.
func (r *Reader) take(n int) []byte {
	if n > len(r.b) {
		r.short()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *Reader) short() { r.Fail("cut short") }

// Uvarint reads what AppendUvarint wrote.
func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.varint(n)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// varint records the fault of a varint that took n bytes.
func (r *Reader) varint(n int) {
	if n == 0 {
		r.short()
		return
	}
	r.Fail("number beyond 64 bits")
}

// Uint64 reads what AppendUint64 wrote.
func (r *Reader) Uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Uint32 reads what AppendUint32 wrote.
func (r *Reader) Uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint16 reads what AppendUint16 wrote.
func (r *Reader) Uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Byte reads a byte.
func (r *Reader) Byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// Bool reads what AppendBool wrote; a byte other than 0 and 1 is a fault.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.Fail("neither true nor false")
	}
	return b == 1
}

// Bytes reads what AppendBytes wrote; more than max bytes are a fault. The
// result is part of the Reader's buffer, without room to append.
func (r *Reader) Bytes(max int) []byte {
	n := r.Uvarint()
	if n > uint64(max) {
		r.Fail(fmt.Sprintf("%d bytes where %d are the most", n, max))
		return nil
	}
	return r.take(int(n))
}

// String reads what AppendString wrote; more than max bytes are a fault.
func (r *Reader) String(max int) string { return string(r.Bytes(max)) }

// Duration reads what AppendDuration wrote.
func (r *Reader) Duration() time.Duration {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.varint(n)
		return 0
	}
	r.b = r.b[n:]
	return time.Duration(v)
}

// Count reads an AppendUvarint that says how many elements follow, each of at
// least size bytes (1 or more). More than max, or than the rest can hold, are
// a fault: so a slice may be made for the result.
func (r *Reader) Count(max, size int) int {
	n := r.Uvarint()
	if n > uint64(max) {
		r.Fail(fmt.Sprintf("%d elements where %d are the most", n, max))
		return 0
	}
	if n > uint64(len(r.b)/size) {
		r.short()
		return 0
	}
	return int(n)
}

// Rest reads all that is left, as part of the Reader's buffer.
func (r *Reader) Rest() []byte { return r.take(len(r.b)) }
