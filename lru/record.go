package lru

import (
	"encoding/binary"
	"time"
)

// A record is an entry in a block:
//
//	 0 link  uint32  position of the record before it in its chain, or noLink
//	 4 space uint32
//	 8 hash  uint64
//	16 shard uint16
//	18 size  uint16  of the whole record, in units
//	20 klen  uint16
//	22 vlen  uint16
//	24 kind  uint8
//	25 flags uint8
//	26 tag   uint16
//	28 expiry, if kindExpiry: milliseconds, 6 bytes
//	   W, if kindW: 16 bytes; V, if kindV: 16 bytes, else V is W
//	   key and value; if kindExternal the number of an extent that holds both, 4 bytes
//
// all little-endian. What is left of size is slack for updates in place.
const (
	recLink   = 0
	recSpace  = 4
	recHash   = 8
	recShard  = 16
	recSize   = 18
	recKeyLen = 20
	recValLen = 22
	recKind   = 24
	recFlags  = 25
	recTag    = 26
	recHeader = 28

	expiryBytes = 6
	stampBytes  = 16
	// recExtra is the most that lies between header and key.
	recExtra = expiryBytes + 2*stampBytes

	noLink = ^uint32(0)
)

// kind: two bits count reads, the others say what the record holds.
const (
	kindFreq     = 3
	kindDead     = 1 << 2
	kindExternal = 1 << 3
	kindExpiry   = 1 << 4
	kindW        = 1 << 5
	kindV        = 1 << 6
	kindSecond   = 1 << 7 // the index has it by its second tag

	kindOptions = kindExpiry | kindW | kindV
	maxFreq     = 3
)

var le = binary.LittleEndian

// record is a view of a block that begins with a record and may run beyond it.
type record []byte

func (r record) link() uint32     { return le.Uint32(r[recLink:]) }
func (r record) space() uint32    { return le.Uint32(r[recSpace:]) }
func (r record) hash() uint64     { return le.Uint64(r[recHash:]) }
func (r record) shard() uint16    { return le.Uint16(r[recShard:]) }
func (r record) units() uint64    { return uint64(le.Uint16(r[recSize:])) }
func (r record) kind() byte       { return r[recKind] }
func (r record) dead() bool       { return r[recKind]&kindDead != 0 }
func (r record) external() bool   { return r[recKind]&kindExternal != 0 }
func (r record) second() bool     { return r[recKind]&kindSecond != 0 }
func (r record) freq() byte       { return r[recKind] & kindFreq }
func (r record) setFreq(f byte)   { r[recKind] = r[recKind]&^kindFreq | f }
func (r record) setLink(l uint32) { le.PutUint32(r[recLink:], l) }

// body is the offset of the key, or of the extent's number.
func (r record) body() int {
	k := r[recKind]
	n := recHeader
	if k&kindOptions != 0 {
		if k&kindExpiry != 0 {
			n += expiryBytes
		}
		if k&kindW != 0 {
			n += stampBytes
		}
		if k&kindV != 0 {
			n += stampBytes
		}
	}
	return n
}

func (r record) extent() uint32 { return le.Uint32(r[r.body():]) }

// inline returns key and value of a record that is not external.
func (r record) inline() (key, value []byte) {
	b := r.body()
	k := b + int(le.Uint16(r[recKeyLen:]))
	v := k + int(le.Uint16(r[recValLen:]))
	return r[b:k:k], r[k:v:v]
}

// expires returns the moment of expiry in milliseconds; the record has kindExpiry.
func (r record) expires() uint64 {
	return uint64(le.Uint32(r[recHeader:])) | uint64(le.Uint16(r[recHeader+4:]))<<32
}

// expired says whether the record is past its time on the given clock.
func (r record) expired(now func() time.Duration) bool {
	return r[recKind]&kindExpiry != 0 && uint64(max(now(), 0)) >= r.expires()*uint64(time.Millisecond)
}

const maxExpiry = uint64(maxDuration / time.Millisecond)

// millis turns a moment into what a record keeps of it.
func millis(d time.Duration) uint64 {
	if d < 0 {
		return 0
	}
	return min((uint64(d)+uint64(time.Millisecond)-1)/uint64(time.Millisecond), maxExpiry)
}

func (r record) version() (v Version) {
	k := r[recKind]
	if k&kindW == 0 {
		return v
	}
	n := recHeader
	if k&kindExpiry != 0 {
		n += expiryBytes
	}
	v.W = Stamp(r[n : n+stampBytes])
	v.V = v.W
	if k&kindV != 0 {
		v.V = Stamp(r[n+stampBytes : n+2*stampBytes])
	}
	return v
}

// meta returns what the record says of its entry, but for the part of Heat that its ring makes.
func (r record) meta() Meta {
	m := Meta{
		Tag:   le.Uint16(r[recTag:]),
		Flags: r[recFlags],
		Heat:  r.freq(),
	}
	if k := r[recKind]; k&kindOptions != 0 {
		if k&kindExpiry != 0 {
			m.Expires = time.Duration(r.expires()) * time.Millisecond
			if m.Expires == 0 {
				m.Expires = -1
			}
		}
		m.Version = r.version()
	}
	return m
}

// optionsOf returns the kind bits that m asks for and the bytes they take.
func optionsOf(m *Meta) (kind byte, n int) {
	if m.Expires != 0 {
		kind |= kindExpiry
		n += expiryBytes
	}
	if !m.Version.IsZero() {
		kind |= kindW
		n += stampBytes
		if m.Version.W != m.Version.V {
			kind |= kindV
			n += stampBytes
		}
	}
	return kind, n
}

// write fills in the whole record but for link. An external record gets the number of its extent, any other key and
// value.
func (r record) write(k *Key, m *Meta, kind byte, units uint64, value []byte, extent uint32) {
	le.PutUint32(r[recSpace:], k.Space)
	le.PutUint64(r[recHash:], k.Hash)
	le.PutUint16(r[recShard:], k.Shard)
	le.PutUint16(r[recSize:], uint16(units))
	r[recKind] = kind
	r[recFlags] = m.Flags
	le.PutUint16(r[recTag:], m.Tag)
	n := recHeader
	if kind&kindExpiry != 0 {
		ms := millis(m.Expires)
		le.PutUint32(r[n:], uint32(ms))
		le.PutUint16(r[n+4:], uint16(ms>>32))
		n += expiryBytes
	}
	if kind&kindW != 0 {
		n += copy(r[n:], m.Version.W[:])
	}
	if kind&kindV != 0 {
		n += copy(r[n:], m.Version.V[:])
	}
	if kind&kindExternal != 0 {
		le.PutUint32(r[recKeyLen:], 0)
		le.PutUint32(r[n:], extent)
		return
	}
	le.PutUint16(r[recKeyLen:], uint16(k.len()))
	le.PutUint16(r[recValLen:], uint16(len(value)))
	n += k.copyTo(r[n:])
	copy(r[n:], value)
}
