package mux

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/peercache/peercache/internal/wire"
)

// The messages of the handshake: a length (2 bytes), a type, a body. Bytes at
// the end of a body that are not known here are ignored, but proven as well.
const (
	helloMagic   = "peercach"
	maxHandshake = 4 << 10
	maxIdentity  = 255 // bytes of the cluster and the name in an Identity
	maxAddr      = 259 // of the address: a host name of 253 bytes and a port
	maxRefusal   = 512 // bytes of a refusal's text

	msgClientHello = 1
	msgServerHello = 2
	msgProof       = 3
	msgAccept      = 4
	msgRefusal     = 5
)

// Purpose is what a connection is for.
type Purpose uint8

// The purposes. Their numbers are fixed for ever.
const (
	PurposeCalls  Purpose = 1 // requests and replies
	PurposeGossip Purpose = 2 // packets
	PurposeStream Purpose = 3 // bytes without frames, for gossip's state exchange
	PurposeBulk   Purpose = 4 // sync and large values
	PurposeProbe  Purpose = 5 // only to see who is there: may be oneself
	purposeEnd    Purpose = 6
)

// String returns p's name, for people.
func (p Purpose) String() string {
	names := [...]string{"", "calls", "gossip", "stream", "bulk", "probe"}
	if p > 0 && p < purposeEnd {
		return names[p]
	}
	return fmt.Sprintf("purpose %d", uint8(p))
}

// Identity is who an end of a connection is.
type Identity struct {
	Cluster     string // what tells clusters apart; at most 255 bytes
	Name        string // for people; at most 255 bytes
	Incarnation uint64
	Addr        string // where peers dial it, at most 259 bytes; may be empty
	Shards      uint32
}

// hello is the first message of either side.
type hello struct {
	min, max uint16 // versions; of a server both are the one chosen
	features uint64
	purpose  Purpose // a server repeats the client's
	secret   bool    // a proof is wanted and will be given
	id       Identity
	expect   uint64 // incarnation of the other side, if known
	nonce    [32]byte
	clock    uint64 // Unix time, microseconds
}

func (h *hello) append(b []byte) []byte {
	b = append(b, helloMagic...)
	b = wire.AppendUint16(b, h.min)
	b = wire.AppendUint16(b, h.max)
	b = wire.AppendUint64(b, h.features)
	b = wire.AppendByte(b, byte(h.purpose))
	b = wire.AppendBool(b, h.secret)
	b = wire.AppendString(b, h.id.Cluster)
	b = wire.AppendString(b, h.id.Name)
	b = wire.AppendUint64(b, h.id.Incarnation)
	b = wire.AppendString(b, h.id.Addr)
	b = wire.AppendUint32(b, h.id.Shards)
	b = wire.AppendUint64(b, h.expect)
	b = append(b, h.nonce[:]...)
	return wire.AppendUint64(b, h.clock)
}

// parse reads a hello. common tells from the range of versions whether the
// rest can be read; if not, parse stops there and returns false.
func (h *hello) parse(b []byte, common func(min, max uint16) bool) (bool, error) {
	if len(b) < len(helloMagic) || string(b[:len(helloMagic)]) != helloMagic {
		return false, errors.New("not a peer of ours")
	}
	r := wire.NewReader(b[len(helloMagic):])
	h.min, h.max = r.Uint16(), r.Uint16()
	if r.Err() == nil && !common(h.min, h.max) {
		return false, nil
	}
	h.features = r.Uint64()
	h.purpose = Purpose(r.Byte())
	h.secret = r.Bool()
	h.id.Cluster = r.String(maxIdentity)
	h.id.Name = r.String(maxIdentity)
	h.id.Incarnation = r.Uint64()
	h.id.Addr = r.String(maxAddr)
	h.id.Shards = r.Uint32()
	h.expect = r.Uint64()
	for i := range h.nonce {
		h.nonce[i] = r.Byte()
	}
	h.clock = r.Uint64()
	return true, r.Err()
}

// proof shows that its sender knows the secret. The sum covers both hellos,
// byte for byte, and with them nonces, names, incarnations, purpose, versions
// and cluster; the role keeps one side's sum from serving as the other's.
type proof struct {
	sum   []byte // empty: no secret
	clock uint64 // of a client: when the server's hello came
}

func (p *proof) append(b []byte) []byte {
	return wire.AppendUint64(wire.AppendBytes(b, p.sum), p.clock)
}

func (p *proof) parse(b []byte) error {
	r := wire.NewReader(b)
	p.sum = r.Bytes(sha256.Size)
	p.clock = r.Uint64()
	return r.Err()
}

const (
	proofDomain = "peercache handshake v1"
	roleClient  = "client"
	roleServer  = "server"
)

// prove returns the sum that shows knowledge of the secret, or nil without
// one.
func prove(secret, role string, version uint16, clientHello, serverHello []byte, clock uint64) []byte {
	if secret == "" {
		return nil
	}
	mac := hmac.New(sha256.New, []byte(secret))
	part := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		mac.Write(n[:])
		mac.Write(b)
	}
	part([]byte(proofDomain))
	part([]byte(role))
	part(wire.AppendUint16(nil, version))
	part(clientHello)
	part(serverHello)
	part(wire.AppendUint64(nil, clock))
	return mac.Sum(nil)
}

// appendRefusal appends a refusal: why, and who refuses.
func appendRefusal(b []byte, code HandshakeCode, text string, id *Identity) []byte {
	b = wire.AppendByte(b, byte(code))
	b = wire.AppendString(b, text[:min(len(text), maxRefusal)])
	b = wire.AppendString(b, id.Name)
	b = wire.AppendUint64(b, id.Incarnation)
	return wire.AppendString(b, id.Addr)
}

// parseRefusal makes the error of a refusal that came.
func parseRefusal(b []byte) *HandshakeError {
	r := wire.NewReader(b)
	e := &HandshakeError{Remote: true, Code: HandshakeCode(r.Byte())}
	e.Text = printable(r.String(maxRefusal))
	e.Peer.Name = r.String(maxIdentity)
	e.Peer.Incarnation = r.Uint64()
	e.Peer.Addr = r.String(maxAddr)
	if r.Err() != nil || e.Code == Broken {
		return &HandshakeError{Code: RefusedMalformed, Text: "unreadable refusal"}
	}
	return e
}

// sendMessage writes one message.
func sendMessage(nc net.Conn, kind byte, body []byte) *HandshakeError {
	b := make([]byte, 0, 3+len(body))
	b = wire.AppendUint16(b, uint16(1+len(body)))
	b = append(append(b, kind), body...)
	if _, err := nc.Write(b); err != nil {
		return &HandshakeError{Code: Broken, Err: err}
	}
	return nil
}

// readMessage reads one message, of the kind wanted, and nothing behind it. A
// refusal is returned as the error that it is.
func readMessage(nc net.Conn, want byte) ([]byte, *HandshakeError) {
	var head [2]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return nil, &HandshakeError{Code: Broken, Err: err}
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < 1 || n > maxHandshake {
		return nil, &HandshakeError{Code: RefusedMalformed, Text: fmt.Sprintf("message of %d bytes", n)}
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(nc, b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, &HandshakeError{Code: Broken, Err: err}
	}
	switch b[0] {
	case want:
		return b[1:], nil
	case msgRefusal:
		return nil, parseRefusal(b[1:])
	}
	return nil, &HandshakeError{Code: RefusedMalformed, Text: fmt.Sprintf("message %d where %d was due", b[0], want)}
}
