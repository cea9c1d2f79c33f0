package wire

import (
	"encoding/binary"
	"fmt"
	"time"
)

// MaxFields bounds the bytes of all fields of one frame.
const MaxFields = 1024

// Tags of the fields. The highest bit says that a receiver must know the tag.
const (
	tagDeadline  = 1 // remaining time, microseconds, uint64
	tagDigest    = 2 // digest of the sender's table, uint64
	tagClock     = 3 // the sender's clock, uint64
	tagOperation = 4 // id shared by all attempts of one operation, uint64
	tagEpoch     = 5 // reserved
	tagTrace     = 6 // reserved: trace context
	tagBodySize  = 7 // bytes of a body that follows in chunks, uint64; critical
	tagLoad      = 8 // requests that the sender is working on, uint64

	tagCritical = 0x80
)

const fieldSize = 2 + 8 // a tag, a size and eight bytes

// Fields are a frame's optional header fields. Zero means absent, for each.
type Fields struct {
	// Deadline is the time that was left when the frame was written. On the
	// wire it is in microseconds, rounded up; a negative one is sent as 1.
	Deadline time.Duration
	// Digest is the digest of the sender's table.
	Digest uint64
	// Clock is the sender's clock.
	Clock uint64
	// Operation is the id that all attempts of one operation share.
	Operation uint64
	// BodySize announces a body of so many bytes that follows in chunks. It
	// is critical: who does not know it must not take the empty body for real.
	BodySize uint64
	// Load is how many requests the sender is working on, and one.
	Load uint64
}

// maxDeadline is the longest deadline that is taken from the wire.
const maxDeadline = uint64(1<<63-1) / uint64(time.Microsecond)

// micros returns d as it goes on the wire: at least 1, so that a deadline that
// has passed is not taken for none.
func micros(d time.Duration) uint64 {
	if d <= 0 {
		return 1
	}
	us := uint64(d / time.Microsecond)
	if d%time.Microsecond != 0 {
		us++
	}
	return us
}

// size returns the bytes that f takes.
func (f *Fields) size() int {
	n := 0
	if f.Deadline != 0 {
		n += fieldSize
	}
	if f.Digest != 0 {
		n += fieldSize
	}
	if f.Clock != 0 {
		n += fieldSize
	}
	if f.Operation != 0 {
		n += fieldSize
	}
	if f.BodySize != 0 {
		n += fieldSize
	}
	if f.Load != 0 {
		n += fieldSize
	}
	return n
}

// append appends f to dst. The deadline comes first: PatchDeadline finds it.
func (f *Fields) append(dst []byte) []byte {
	if f.Deadline != 0 {
		dst = appendField(dst, tagDeadline, micros(f.Deadline))
	}
	if f.Digest != 0 {
		dst = appendField(dst, tagDigest, f.Digest)
	}
	if f.Clock != 0 {
		dst = appendField(dst, tagClock, f.Clock)
	}
	if f.Operation != 0 {
		dst = appendField(dst, tagOperation, f.Operation)
	}
	if f.BodySize != 0 {
		dst = appendField(dst, tagBodySize|tagCritical, f.BodySize)
	}
	if f.Load != 0 {
		dst = appendField(dst, tagLoad, f.Load)
	}
	return dst
}

func appendField(dst []byte, tag byte, v uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, tag, 8), v)
}

// parse reads all of b into f.
func (f *Fields) parse(b []byte) error {
	var seen [4]uint64 // a bit per tag
	for len(b) > 0 {
		tag := b[0]
		if bit := uint64(1) << (tag & 63); seen[tag>>6]&bit != 0 {
			return fmt.Errorf("%w: field %d twice", ErrMalformed, tag)
		} else {
			seen[tag>>6] |= bit
		}
		n, k := binary.Uvarint(b[1:])
		if k <= 0 || n > uint64(len(b)-1-k) {
			return fmt.Errorf("%w: field %d is cut short", ErrMalformed, tag)
		}
		value := b[1+k : 1+k+int(n)]
		b = b[1+k+int(n):]

		var v uint64
		switch tag &^ tagCritical {
		case tagDeadline, tagDigest, tagClock, tagOperation, tagBodySize, tagLoad:
			if len(value) != 8 {
				return fmt.Errorf("%w: field %d has %d bytes, not 8", ErrMalformed, tag, len(value))
			}
			v = binary.BigEndian.Uint64(value)
		}
		switch tag &^ tagCritical {
		case tagDeadline:
			f.Deadline = time.Duration(min(v, maxDeadline)) * time.Microsecond
		case tagDigest:
			f.Digest = v
		case tagClock:
			f.Clock = v
		case tagOperation:
			f.Operation = v
		case tagBodySize:
			f.BodySize = v
		case tagLoad:
			f.Load = v
		default:
			if tag&tagCritical != 0 {
				return &CriticalError{Tag: tag}
			}
		}
	}
	return nil
}

// PatchDeadline rewrites the deadline of the encoded frame that frame begins
// with, which must have been appended with a Deadline. It is for frames that
// wait between being encoded and being written.
func PatchDeadline(frame []byte, left time.Duration) {
	binary.BigEndian.PutUint64(frame[HeaderSize+2:], micros(left))
}
