package wire

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReader(t *testing.T) {
	var b []byte
	b = AppendUvarint(b, 1<<63)
	b = AppendUint64(b, 1<<64-2)
	b = AppendUint32(b, 1<<32-3)
	b = AppendUint16(b, 1<<16-4)
	b = AppendByte(b, 5)
	b = AppendBool(b, true)
	b = AppendBool(b, false)
	b = AppendBytes(b, []byte("bytes"))
	b = AppendBytes(b, nil)
	b = AppendString(b, "string")
	b = AppendDuration(b, -time.Hour)
	b = AppendUvarint(b, 2)
	b = append(b, 1, 2, 3)

	r := NewReader(b)
	require.Equal(t, uint64(1<<63), r.Uvarint())
	require.Equal(t, uint64(1<<64-2), r.Uint64())
	require.Equal(t, uint32(1<<32-3), r.Uint32())
	require.Equal(t, uint16(1<<16-4), r.Uint16())
	require.Equal(t, byte(5), r.Byte())
	require.True(t, r.Bool())
	require.False(t, r.Bool())
	require.Equal(t, "bytes", string(r.Bytes(5)))
	require.Empty(t, r.Bytes(0))
	require.Equal(t, "string", r.String(6))
	require.Equal(t, -time.Hour, r.Duration())
	require.Equal(t, 2, r.Count(2, 1))
	require.Equal(t, 3, r.Len())
	require.Equal(t, []byte{1, 2, 3}, r.Rest())
	require.NoError(t, r.Err())
	require.NoError(t, r.End())
}

func TestReaderFaults(t *testing.T) {
	endless := make([]byte, 11)
	for i := range endless {
		endless[i] = 0xff
	}
	for name, c := range map[string]struct {
		b    []byte
		read func(*Reader)
	}{
		"uvarint, nothing there": {nil, func(r *Reader) { r.Uvarint() }},
		"uvarint beyond 64 bits": {endless, func(r *Reader) { r.Uvarint() }},
		"duration, cut short":    {endless[:3], func(r *Reader) { r.Duration() }},
		"duration too long":      {endless, func(r *Reader) { r.Duration() }},
		"uint64, short":          {make([]byte, 7), func(r *Reader) { r.Uint64() }},
		"uint32, short":          {make([]byte, 3), func(r *Reader) { r.Uint32() }},
		"uint16, short":          {make([]byte, 1), func(r *Reader) { r.Uint16() }},
		"byte, nothing there":    {nil, func(r *Reader) { r.Byte() }},
		"bool of two":            {[]byte{2}, func(r *Reader) { r.Bool() }},
		"bytes beyond the most":  {AppendString(nil, "four"), func(r *Reader) { r.Bytes(3) }},
		"bytes beyond the body":  {[]byte{5, 1}, func(r *Reader) { r.Bytes(100) }},
		"bytes, length of 2^63":  {AppendUvarint(nil, 1<<63), func(r *Reader) { r.Bytes(1 << 30) }},
		"string beyond the most": {AppendString(nil, "four"), func(r *Reader) { _ = r.String(3) }},
		"count beyond the most":  {[]byte{4, 0, 0, 0, 0}, func(r *Reader) { r.Count(3, 1) }},
		"count beyond the body":  {[]byte{4, 0, 0, 0, 0}, func(r *Reader) { r.Count(100, 2) }},
		"bytes left over":        {[]byte{1}, func(*Reader) {}},
		"the caller's own":       {nil, func(r *Reader) { r.Fail("odd") }},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewReader(c.b)
			c.read(&r)
			if name != "bytes left over" {
				require.ErrorIs(t, r.Err(), ErrMessage)
			}
			require.ErrorIs(t, r.End(), ErrMessage)
			first := r.Err()
			require.Zero(t, r.Uint64())
			require.Zero(t, r.Uvarint())
			require.Zero(t, r.Duration())
			require.False(t, r.Bool())
			require.Empty(t, r.Bytes(9))
			require.Zero(t, r.Count(9, 1))
			require.Empty(t, r.Rest())
			r.Fail("another")
			require.Equal(t, first, r.Err(), "the first fault sticks")
		})
	}
}

// TestReaderBytesCannotGrow: appending to a part does not overwrite the next.
func TestReaderBytesCannotGrow(t *testing.T) {
	r := NewReader(AppendString(AppendString(nil, "one"), "two"))
	_ = append(r.Bytes(3), 'x', 'y')
	require.Equal(t, "two", r.String(3))
}

func TestReaderAllocatesNothing(t *testing.T) {
	b := AppendBytes(AppendUvarint(AppendUint64(nil, 1), 2), make([]byte, 100))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		r := NewReader(b)
		r.Uint64()
		r.Uvarint()
		r.Bytes(100)
		if r.End() != nil {
			t.Fail()
		}
	}))
}

// FuzzReader reads arbitrary bytes in an arbitrary order.
func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8}, AppendString(AppendUvarint(nil, 7), "text"))
	f.Fuzz(func(t *testing.T, order, b []byte) {
		const most = 64
		r := NewReader(b)
		for _, o := range order {
			before := r.Len()
			switch o % 10 {
			case 0:
				r.Uvarint()
			case 1:
				r.Uint64()
			case 2:
				r.Uint32()
			case 3:
				r.Uint16()
			case 4:
				r.Byte()
			case 5:
				r.Bool()
			case 6:
				require.LessOrEqual(t, len(r.Bytes(most)), most)
			case 7:
				require.LessOrEqual(t, len(r.String(most)), most)
			case 8:
				r.Duration()
			case 9:
				require.LessOrEqual(t, r.Count(most, 2)*2, before)
			}
			require.LessOrEqual(t, r.Len(), before)
		}
		if r.End() == nil {
			require.Zero(t, r.Len())
		}
	})
}

// FuzzAppend reads what was appended.
func FuzzAppend(f *testing.F) {
	f.Add(uint64(1), uint32(2), uint16(3), byte(4), true, []byte("five"), "six", int64(-7))
	f.Fuzz(func(t *testing.T, a uint64, b uint32, c uint16, d byte, e bool, g []byte, h string, i int64) {
		buf := AppendUvarint(nil, a)
		buf = AppendUint64(buf, a)
		buf = AppendUint32(buf, b)
		buf = AppendUint16(buf, c)
		buf = AppendByte(buf, d)
		buf = AppendBool(buf, e)
		buf = AppendBytes(buf, g)
		buf = AppendString(buf, h)
		buf = AppendDuration(buf, time.Duration(i))
		r := NewReader(buf)
		require.Equal(t, a, r.Uvarint())
		require.Equal(t, a, r.Uint64())
		require.Equal(t, b, r.Uint32())
		require.Equal(t, c, r.Uint16())
		require.Equal(t, d, r.Byte())
		require.Equal(t, e, r.Bool())
		require.Equal(t, string(g), string(r.Bytes(len(g))))
		require.Equal(t, h, r.String(len(h)))
		require.Equal(t, time.Duration(i), r.Duration())
		require.NoError(t, r.End())
		// Cut short anywhere it is a fault, never a panic.
		cut := NewReader(buf[:binary.BigEndian.Uint16(append([]byte{d}, byte(c)))%uint16(min(len(buf), 1<<15))])
		for range 9 {
			cut.Uint64()
			cut.Bytes(10)
		}
	})
}
