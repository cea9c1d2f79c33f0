package mux

import (
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"
)

// Version1 is the only version of the protocol so far.
const Version1 = 1

// Local is what one side brings to a handshake.
type Local struct {
	Self Identity
	// MinVersion and MaxVersion are the versions of the protocol that this side
	// speaks. Default: Version1. The highest in common is spoken.
	MinVersion, MaxVersion uint16
	// Features are bits for what this side can do beyond its version.
	Features uint64
	// Secret is proven to the other side, and the other side has to prove it or
	// one of AcceptSecrets. Empty: no proofs, and AcceptSecrets do not count.
	// If only one side has a Secret, both refuse.
	Secret        string
	AcceptSecrets []string
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
	// Heard is called on the dialing side when the other one has answered and
	// the handshake goes on. May be nil.
	Heard func()
}

// Session is what a handshake brought about.
type Session struct {
	Peer     Identity
	Purpose  Purpose
	Version  uint16
	Features uint64 // those of both sides
	// ClockOffset is the peer's wall clock minus this side's, from four
	// readings as in NTP; it is off by at most half of RTT.
	ClockOffset time.Duration
	RTT         time.Duration
}

// ClientHandshake opens nc for a purpose, as the side that dialed. expect is
// the incarnation that must be there; 0: whoever answers. All is done by the
// deadline (the zero time: no deadline), which is cleared at the end. It reads
// nothing beyond the handshake. Every error is a *HandshakeError; the caller
// closes nc then.
//
// The client proves its secret first, so that strangers get nothing computed
// from the server's; the server's proof is checked before ClientHandshake
// returns.
func ClientHandshake(nc net.Conn, deadline time.Time, local Local, purpose Purpose, expect uint64) (*Session, error) {
	s, err := newSide(nc, deadline, local)
	if err == nil {
		var session *Session
		if session, err = s.client(purpose, expect); err == nil {
			if err = s.end(); err == nil {
				return session, nil
			}
		}
	}
	return nil, err
}

// ServerHandshake is the other side of ClientHandshake. admit, if not nil, is
// asked once the client has proved itself and before it is told that it is
// welcome; an error of Refuse tells the client why, any other reaches it as
// text.
func ServerHandshake(nc net.Conn, deadline time.Time, local Local, admit func(peer Identity, purpose Purpose) error) (*Session, error) {
	s, err := newSide(nc, deadline, local)
	if err == nil {
		var session *Session
		if session, err = s.server(admit); err == nil {
			if err = s.end(); err == nil {
				return session, nil
			}
		}
	}
	return nil, err
}

// side is one side of a handshake under way.
type side struct {
	nc    net.Conn
	local Local
	peer  Identity // what it says it is
}

func newSide(nc net.Conn, deadline time.Time, local Local) (*side, *HandshakeError) {
	if local.MaxVersion == 0 {
		local.MinVersion, local.MaxVersion = Version1, Version1
	}
	if local.Now == nil {
		local.Now = time.Now
	}
	if id := &local.Self; max(len(id.Cluster), len(id.Name)) > maxIdentity || len(id.Addr) > maxAddr {
		return nil, &HandshakeError{Code: RefusedOther, Text: fmt.Sprintf("cluster and name have at most %d bytes, the address %d", maxIdentity, maxAddr)}
	}
	if err := nc.SetDeadline(deadline); err != nil {
		return nil, &HandshakeError{Code: Broken, Err: err}
	}
	return &side{nc: nc, local: local}, nil
}

// end clears the deadline.
func (s *side) end() *HandshakeError {
	if err := s.nc.SetDeadline(time.Time{}); err != nil {
		return s.failed(&HandshakeError{Code: Broken, Err: err})
	}
	return nil
}

// failed adds to err who the other side is.
func (s *side) failed(err *HandshakeError) *HandshakeError {
	if err != nil && err.Peer == (Identity{}) {
		err.Peer = s.peer
	}
	return err
}

// fail makes the error of a fault found on this side, of which the other side
// is not told.
func (s *side) fail(code HandshakeCode, text string) *HandshakeError {
	return s.failed(&HandshakeError{Code: code, Text: text})
}

// refuse makes the same and tells the other side; here is what this side
// reads, there what the other does.
func (s *side) refuse(code HandshakeCode, here, there string) *HandshakeError {
	_ = sendMessage(s.nc, msgRefusal, appendRefusal(nil, code, there, &s.local.Self))
	return s.fail(code, here)
}

// hello returns this side's hello.
func (s *side) hello() hello {
	l := &s.local
	h := hello{
		min: l.MinVersion, max: l.MaxVersion, features: l.Features,
		secret: l.Secret != "", id: l.Self,
	}
	_, _ = rand.Read(h.nonce[:]) // never fails
	return h
}

// micros reads the wall clock.
func (s *side) micros() uint64 { return uint64(s.local.Now().UnixMicro()) }

// common returns the highest version that both sides speak, or 0.
func (s *side) common(low, high uint16) uint16 {
	v := min(high, s.local.MaxVersion)
	if v < low || v < s.local.MinVersion {
		return 0
	}
	return v
}

// check compares the peer's hello with what this side is and wants.
func (s *side) check(h *hello, purpose Purpose, expected uint64) *HandshakeError {
	self := &s.local.Self
	both := func(code HandshakeCode, text string) *HandshakeError { return s.refuse(code, text, text) }
	switch {
	case h.id.Cluster != self.Cluster:
		return s.refuse(RefusedCluster,
			fmt.Sprintf("cluster %q there, %q here", printable(h.id.Cluster), self.Cluster),
			fmt.Sprintf("cluster %q there, %q here", self.Cluster, h.id.Cluster))
	case h.id.Shards != self.Shards:
		return s.refuse(RefusedShards,
			fmt.Sprintf("%d shards there, %d here", h.id.Shards, self.Shards),
			fmt.Sprintf("%d shards there, %d here", self.Shards, h.id.Shards))
	case h.id.Incarnation == self.Incarnation && purpose != PurposeProbe:
		return both(RefusedSelf, "both ends are the same process")
	case expected != 0 && h.id.Incarnation != expected:
		return s.refuse(RefusedIncarnation,
			fmt.Sprintf("%016x is there, %016x was expected", h.id.Incarnation, expected),
			fmt.Sprintf("%016x expected %016x here", self.Incarnation, expected))
	case h.expect != 0 && h.expect != self.Incarnation:
		return s.refuse(RefusedIncarnation,
			fmt.Sprintf("%016x was expected, this is %016x", h.expect, self.Incarnation),
			fmt.Sprintf("%016x is there, %016x was expected", self.Incarnation, h.expect))
	case h.secret && s.local.Secret == "":
		return s.refuse(RefusedSecret, "a secret there, none here", "no secret there, one here")
	case !h.secret && s.local.Secret != "":
		return s.refuse(RefusedSecret, "no secret there, one here", "a secret there, none here")
	}
	return nil
}

// proven reports whether p shows a secret that this side accepts.
func (s *side) proven(p *proof, role string, version uint16, clientHello, serverHello []byte) bool {
	if s.local.Secret == "" {
		return len(p.sum) == 0
	}
	ok := false
	for i := -1; i < len(s.local.AcceptSecrets); i++ {
		secret := s.local.Secret
		if i >= 0 {
			secret = s.local.AcceptSecrets[i]
		}
		if secret == "" {
			continue
		}
		if hmac.Equal(p.sum, prove(secret, role, version, clientHello, serverHello, p.clock)) {
			ok = true
		}
	}
	return ok
}

func (s *side) client(purpose Purpose, expect uint64) (*Session, *HandshakeError) {
	mine := s.hello()
	mine.purpose, mine.expect = purpose, expect
	sent := s.local.Now()
	mine.clock = uint64(sent.UnixMicro())
	clientHello := mine.append(nil)
	if err := sendMessage(s.nc, msgClientHello, clientHello); err != nil {
		return nil, err
	}

	serverHello, err := readMessage(s.nc, msgServerHello)
	if err != nil {
		return nil, err
	}
	came := s.local.Now()
	if s.local.Heard != nil {
		s.local.Heard()
	}
	var theirs hello
	known, bad := theirs.parse(serverHello, func(low, high uint16) bool { return low == high && s.common(low, high) != 0 })
	if bad != nil {
		return nil, s.fail(RefusedMalformed, bad.Error())
	}
	if !known {
		return nil, s.fail(RefusedVersion, s.versions(theirs.min, theirs.max))
	}
	s.peer = theirs.id
	version := theirs.max
	if theirs.purpose != purpose {
		return nil, s.fail(RefusedMalformed, "the server answers for another purpose")
	}
	if err := s.check(&theirs, purpose, expect); err != nil {
		return nil, err
	}

	p := proof{clock: uint64(came.UnixMicro())}
	p.sum = prove(s.local.Secret, roleClient, version, clientHello, serverHello, p.clock)
	if err := sendMessage(s.nc, msgProof, p.append(nil)); err != nil {
		return nil, s.failed(err)
	}
	accept, err := readMessage(s.nc, msgAccept)
	if err != nil {
		return nil, s.failed(err)
	}
	var answer proof
	if err := answer.parse(accept); err != nil {
		return nil, s.fail(RefusedMalformed, err.Error())
	}
	if !s.proven(&answer, roleServer, version, clientHello, serverHello) {
		return nil, s.fail(RefusedSecret, "the other side does not prove a secret that is accepted here")
	}
	return s.session(&mine, &theirs, version,
		offset(clockDiff(theirs.clock, mine.clock), clockDiff(theirs.clock, p.clock)), came.Sub(sent)), nil
}

func (s *side) server(admit func(Identity, Purpose) error) (*Session, *HandshakeError) {
	clientHello, err := readMessage(s.nc, msgClientHello)
	if err != nil {
		return nil, err
	}
	came := s.micros()
	var theirs hello
	known, bad := theirs.parse(clientHello, func(low, high uint16) bool { return s.common(low, high) != 0 })
	if bad != nil {
		return nil, s.fail(RefusedMalformed, bad.Error()) // a stranger is not told
	}
	if !known {
		text := s.versions(theirs.min, theirs.max)
		return nil, s.refuse(RefusedVersion, text,
			fmt.Sprintf("versions %d to %d there, %d to %d here", s.local.MinVersion, s.local.MaxVersion, theirs.min, theirs.max))
	}
	s.peer = theirs.id
	version := s.common(theirs.min, theirs.max)
	if theirs.purpose == 0 || theirs.purpose >= purposeEnd {
		text := fmt.Sprintf("%v is unknown", theirs.purpose)
		return nil, s.refuse(RefusedPurpose, text, text)
	}
	if err := s.check(&theirs, theirs.purpose, 0); err != nil {
		return nil, err
	}

	mine := s.hello()
	mine.min, mine.max = version, version
	mine.purpose = theirs.purpose
	mine.clock = s.micros()
	serverHello := mine.append(nil)
	if err := sendMessage(s.nc, msgServerHello, serverHello); err != nil {
		return nil, s.failed(err)
	}
	message, err := readMessage(s.nc, msgProof)
	if err != nil {
		return nil, s.failed(err)
	}
	var p proof
	if err := p.parse(message); err != nil {
		return nil, s.fail(RefusedMalformed, err.Error())
	}
	if !s.proven(&p, roleClient, version, clientHello, serverHello) {
		return nil, s.refuse(RefusedSecret, "the other side does not prove a secret that is accepted here", "the secret is not accepted there")
	}
	if admit != nil {
		if err := admit(theirs.id, theirs.purpose); err != nil {
			code, text := RefusedOther, err.Error()
			var refusal *HandshakeError
			if errors.As(err, &refusal) && refusal.Code != Broken {
				code, text = refusal.Code, refusal.Text
			}
			return nil, s.refuse(code, text, text)
		}
	}

	var answer proof
	answer.sum = prove(s.local.Secret, roleServer, version, clientHello, serverHello, answer.clock)
	if err := sendMessage(s.nc, msgAccept, answer.append(nil)); err != nil {
		return nil, s.failed(err)
	}
	rtt := clockDiff(p.clock, theirs.clock) - clockDiff(mine.clock, came)
	return s.session(&mine, &theirs, version,
		offset(clockDiff(theirs.clock, came), clockDiff(p.clock, mine.clock)), max(rtt, 0)), nil
}

func (s *side) session(mine, theirs *hello, version uint16, clockOffset, rtt time.Duration) *Session {
	return &Session{
		Peer: theirs.id, Purpose: mine.purpose, Version: version, Features: mine.features & theirs.features,
		ClockOffset: clockOffset, RTT: rtt,
	}
}

func (s *side) versions(low, high uint16) string {
	return fmt.Sprintf("versions %d to %d there, %d to %d here", low, high, s.local.MinVersion, s.local.MaxVersion)
}

// maxClockDiff bounds what a clock reading from the network can bring about.
const maxClockDiff = 100 * 365 * 24 * time.Hour

// clockDiff returns a minus b, two Unix times in microseconds, within bounds.
func clockDiff(a, b uint64) time.Duration {
	d := int64(a - b)
	return time.Duration(min(max(d, -maxClockDiff.Microseconds()), maxClockDiff.Microseconds())) * time.Microsecond
}

// offset returns the mean of two readings of how far the peer's clock is
// ahead, one made on the way there and one on the way back.
func offset(there, back time.Duration) time.Duration { return there/2 + back/2 }
