package wire

import (
	"encoding/binary"
	"time"
)

// The Append functions build message bodies; a Reader takes them apart in the
// same order. They append to dst and return it, as append does.

// AppendUvarint appends v in 1 to 10 bytes.
func AppendUvarint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

// AppendUint64 appends v in 8 bytes.
func AppendUint64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// AppendUint32 appends v in 4 bytes.
func AppendUint32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// AppendUint16 appends v in 2 bytes.
func AppendUint16(dst []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(dst, v) }

// AppendByte appends v.
func AppendByte(dst []byte, v byte) []byte { return append(dst, v) }

// AppendBool appends v in a byte.
func AppendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// AppendBytes appends v's length and v. Nil and empty are the same.
func AppendBytes(dst, v []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(v))), v...)
}

// AppendString appends v's length and v.
func AppendString(dst []byte, v string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(v))), v...)
}

// AppendDuration appends v, which may be negative, in 1 to 10 bytes.
func AppendDuration(dst []byte, v time.Duration) []byte {
	return binary.AppendVarint(dst, int64(v))
}
