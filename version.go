package peercache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/peercache/peercache/lru"
)

// A Version says which state of a key a value is: each write has a greater one
// than the writes before it. Versions are comparable with == and totally
// ordered. The zero Version is that of an absent key.
//
// A version is a reading of a hybrid logical clock (Kulkarni et al., "Logical
// Physical Clocks", 2014) and the incarnation of the member that made it.
type Version struct {
	time        uint64 // 48 bits of milliseconds since 1970, 16 bits of a counter
	incarnation uint64
}

// IsZero reports whether v is the zero Version.
func (v Version) IsZero() bool { return v == Version{} }

// Compare returns -1, 0 or +1 as v is before, equal to or after w.
func (v Version) Compare(w Version) int {
	switch {
	case v == w:
		return 0
	case v.time < w.time || v.time == w.time && v.incarnation < w.incarnation:
		return -1
	default:
		return 1
	}
}

// String returns the version as 32 hexadecimal digits, as MarshalText does.
func (v Version) String() string {
	stamp := v.stamp()
	return hex.EncodeToString(stamp[:])
}

// MarshalText implements [encoding.TextMarshaler]. The text is fit for an
// HTTP ETag.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (v *Version) UnmarshalText(text []byte) error {
	var stamp lru.Stamp
	if len(text) != 2*len(stamp) {
		return errBadVersion
	}
	if _, err := hex.Decode(stamp[:], text); err != nil {
		return errBadVersion
	}
	*v = versionOf(stamp)
	return nil
}

var errBadVersion = errors.New("peercache: a version has 32 hexadecimal digits")

// stamp returns the version as bytes that compare as versions do.
func (v Version) stamp() (s lru.Stamp) {
	binary.BigEndian.PutUint64(s[:8], v.time)
	binary.BigEndian.PutUint64(s[8:], v.incarnation)
	return s
}

func versionOf(s lru.Stamp) Version {
	return Version{binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(s[8:])}
}

// later returns the greater of two versions.
func later(a, b Version) Version {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

// order is what an entry is compared by: first by the write that it is or
// follows, then, among the fills after one write, by when their load began.
// Of a write both are its stamp.
type order struct{ w, v Version }

func (o order) isWrite() bool { return o.w == o.v }

func (o order) compare(p order) int {
	if c := o.w.Compare(p.w); c != 0 {
		return c
	}
	return o.v.Compare(p.v)
}

// latest returns the greater of the two times.
func (o order) latest() uint64 { return max(o.w.time, o.v.time) }

func (o order) lru() lru.Version { return lru.Version{W: o.w.stamp(), V: o.v.stamp()} }

func orderOf(v lru.Version) order { return order{versionOf(v.W), versionOf(v.V)} }
