package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Memberlist's message types, net.go. Those left out (user messages,
// compression, encryption, labels) are not used here and refused.
const (
	kindPing         = 0
	kindIndirectPing = 1
	kindAck          = 2
	kindSuspect      = 3
	kindAlive        = 4
	kindDead         = 5
	kindPushPull     = 6
	kindCompound     = 7
	kindNack         = 11
	kindCRC          = 12
	kindError        = 13
)

// Memberlist's NodeStateType as it travels.
const (
	stateAlive = 0
	stateLeft  = 3
)

// errRefused is what check and checkStream return, wrapped.
var errRefused = errors.New("gossip: malformed message")

// message is what this package wants to know of one of memberlist's messages.
// The slices point into what was checked.
type message struct {
	kind byte
	raw  []byte // all of it, if it came in a packet
	seq  uint64 // of a ping, ack or nack
	inc  uint64 // memberlist's incarnation of node: how often it objected
	node []byte // whom it is about
	from []byte // who says so, of a suspect or dead message
	live bool   // it says that node is alive
	left bool   // it says that node left on purpose
}

// check takes a packet apart as memberlist will, and reports whether it may be
// handed to it: it is a single message or one compound of them, its checksum
// is right if it has one, sizes add up, and each message is of a kind that
// travels in packets and a flat map. visit, unless nil, is called for each
// message; also for those before the fault, if there is one.
func check(packet []byte, visit func(message)) error {
	if len(packet) > MaxPacket {
		return fmt.Errorf("%w: packet of %d bytes", errRefused, len(packet))
	}
	if len(packet) >= 5 && packet[0] == kindCRC {
		if crc32.ChecksumIEEE(packet[5:]) != binary.BigEndian.Uint32(packet[1:]) {
			return fmt.Errorf("%w: wrong checksum", errRefused)
		}
		packet = packet[5:]
	}
	if len(packet) == 0 || packet[0] != kindCompound {
		return checkMessage(packet, visit)
	}

	// A compound: count, 2 bytes of length for each, the messages.
	if len(packet) < 2 {
		return fmt.Errorf("%w: compound cut short", errRefused)
	}
	count := int(packet[1])
	lengths := packet[2:]
	if len(lengths) < 2*count {
		return fmt.Errorf("%w: compound cut short", errRefused)
	}
	rest := lengths[2*count:]
	for i := range count {
		n := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if n > len(rest) {
			return fmt.Errorf("%w: compound cut short", errRefused)
		}
		if err := checkMessage(rest[:n], visit); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if len(rest) > 0 {
		return fmt.Errorf("%w: %d bytes too many", errRefused, len(rest))
	}
	return nil
}

// checkMessage is check for one message of a packet.
func checkMessage(b []byte, visit func(message)) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty", errRefused)
	}
	switch b[0] {
	case kindPing, kindIndirectPing, kindAck, kindNack, kindSuspect, kindAlive, kindDead:
	default:
		return fmt.Errorf("%w: kind %d in a packet", errRefused, b[0])
	}
	m := message{kind: b[0], raw: b}
	r := flat{b: b[1:]}
	r.fields(func(key []byte, v scalar) {
		switch string(key) {
		case "SeqNo":
			m.seq = v.n
		case "Incarnation":
			m.inc = v.n
		case "Node":
			m.node = v.bytes
		case "From":
			m.from = v.bytes
		}
	})
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: kind %d", errRefused, m.kind)
	}
	m.live = m.kind == kindAlive
	m.left = m.kind == kindDead && string(m.node) == string(m.from)
	if visit != nil {
		visit(m)
	}
	return nil
}

// checkStream is check for the one message that a stream carries each way: a
// ping, an ack, an error, or a full exchange of all members' states.
func checkStream(b []byte, visit func(message)) error {
	if len(b) == 0 || len(b) > MaxStream {
		return fmt.Errorf("%w: %d bytes in a stream", errRefused, len(b))
	}
	kind := b[0]
	r := flat{b: b[1:]}
	var states, user uint64
	switch kind {
	case kindPing, kindAck, kindError:
		r.fields(func([]byte, scalar) {})
	case kindPushPull:
		r.fields(func(key []byte, v scalar) {
			switch string(key) {
			case "Nodes":
				states = v.n
			case "UserStateLen":
				user = v.n
			}
		})
		// Memberlist allocates for as many states as the header announces and
		// as many bytes of user state, which we do not have.
		if states > MaxMembers || user != 0 {
			return fmt.Errorf("%w: %d states, %d bytes of user state", errRefused, states, user)
		}
	default:
		return fmt.Errorf("%w: kind %d in a stream", errRefused, kind)
	}
	for range states {
		m := message{kind: kind}
		r.fields(func(key []byte, v scalar) {
			switch string(key) {
			case "Name":
				m.node = v.bytes
			case "Incarnation":
				m.inc = v.n
			case "State":
				m.live = v.n == stateAlive
				m.left = v.n == stateLeft
			}
		})
		if !r.bad && visit != nil {
			visit(m)
		}
	}
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: kind %d in a stream", errRefused, kind)
	}
	return nil
}

// flat reads MessagePack maps of field names and plain values, which is all
// that memberlist's messages are made of. See the MessagePack specification.
type flat struct {
	b   []byte // what is left
	bad bool   // something was wrong; nothing more is read
}

// scalar is a plain value: n of a number or boolean, bytes of a string. A
// negative number has n beyond every bound.
type scalar struct {
	n     uint64
	bytes []byte
}

// maxFields bounds a map; memberlist's messages have at most 8 fields.
const maxFields = 16

// fields reads one map and calls f for each field.
func (r *flat) fields(f func(key []byte, v scalar)) {
	n := 0
	switch c := r.byte(); {
	case c&0xf0 == 0x80:
		n = int(c & 0x0f)
	case c == 0xde:
		n = int(r.uint(2))
	default:
		r.bad = true
	}
	if n > maxFields {
		r.bad = true
	}
	for range n {
		c := r.byte()
		if r.bad || !isString(c) {
			r.bad = true
			return
		}
		key := r.scalar(c).bytes
		v := r.scalar(r.byte())
		if r.bad {
			return
		}
		f(key, v)
	}
}

// isString reports whether a value that begins with c is a string.
func isString(c byte) bool { return c&0xe0 == 0xa0 || c >= 0xd9 && c <= 0xdb }

// scalar reads the rest of a value that begins with c.
func (r *flat) scalar(c byte) scalar {
	switch {
	case c <= 0x7f: // positive fixint
		return scalar{n: uint64(c)}
	case c&0xe0 == 0xa0: // fixstr
		return scalar{bytes: r.take(uint64(c & 0x1f))}
	case c == 0xc0, c == 0xc2: // nil, false
		return scalar{}
	case c == 0xc3: // true
		return scalar{n: 1}
	case c >= 0xc4 && c <= 0xc6: // bin 8, 16, 32
		return scalar{bytes: r.take(r.uint(1 << (c - 0xc4)))}
	case c >= 0xcc && c <= 0xcf: // uint 8, 16, 32, 64
		return scalar{n: r.uint(1 << (c - 0xcc))}
	case c >= 0xd0 && c <= 0xd3: // int 8, 16, 32, 64
		size := 1 << (c - 0xd0)
		n := r.uint(size)
		if n>>(8*size-1) != 0 {
			n = ^uint64(0)
		}
		return scalar{n: n}
	case c >= 0xd9 && c <= 0xdb: // str 8, 16, 32
		return scalar{bytes: r.take(r.uint(1 << (c - 0xd9)))}
	case c >= 0xe0: // negative fixint
		return scalar{n: ^uint64(0)}
	}
	r.bad = true // an array, a map, a float or an extension
	return scalar{}
}

func (r *flat) byte() byte {
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

// uint reads a big-endian integer of 1, 2, 4 or 8 bytes.
func (r *flat) uint(size int) uint64 {
	var n uint64
	for _, c := range r.take(uint64(size)) {
		n = n<<8 | uint64(c)
	}
	return n
}

// take returns the next n bytes.
func (r *flat) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

// ackPacket returns an ack without payload, as memberlist decodes it.
func ackPacket(seq uint32) []byte {
	b := append([]byte{kindAck, 0x82, 0xa5}, "SeqNo"...)
	b = binary.BigEndian.AppendUint32(append(b, 0xce), seq)
	b = append(append(b, 0xa7), "Payload"...)
	return append(b, 0xc0)
}
