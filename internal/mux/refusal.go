package mux

import (
	"fmt"
	"strconv"
	"strings"
)

// HandshakeCode says why a handshake failed. The numbers are fixed for ever.
type HandshakeCode uint8

const (
	Broken             HandshakeCode = 0  // the connection broke, or the time was up; never on the wire
	RefusedSecret      HandshakeCode = 1  // wrong secret, or only one side has one
	RefusedVersion     HandshakeCode = 2  // no version in common
	RefusedCluster     HandshakeCode = 3  // of another cluster
	RefusedShards      HandshakeCode = 4  // of a cluster with another number of shards
	RefusedIncarnation HandshakeCode = 5  // the one that was expected is not here; HandshakeError.Peer says who is
	RefusedSelf        HandshakeCode = 6  // both ends are the same process
	RefusedBusy        HandshakeCode = 7  // too many connections
	RefusedLeaving     HandshakeCode = 8  // shutting down
	RefusedMalformed   HandshakeCode = 9  // not a handshake of ours
	RefusedPurpose     HandshakeCode = 10 // does not serve this purpose
	RefusedOther       HandshakeCode = 11 // the text says why
)

// String returns c's meaning, for people.
func (c HandshakeCode) String() string {
	names := [...]string{
		"connection broke", "secrets differ", "no common version", "another cluster", "another number of shards",
		"another incarnation", "self", "busy", "leaving", "malformed handshake", "purpose not served", "refused",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return "code " + strconv.Itoa(int(c))
}

// HandshakeError is the error of every handshake that failed.
type HandshakeError struct {
	Code   HandshakeCode
	Text   string   // for people
	Remote bool     // the other side refused; else this side did
	Peer   Identity // who the other side says it is, as far as it said; not proven
	Err    error    // beneath, if Code is Broken
}

func (e *HandshakeError) Error() string {
	var b strings.Builder
	b.WriteString("mux: handshake: ")
	if e.Remote {
		b.WriteString("refused by the other side: ")
	}
	b.WriteString(e.Code.String())
	if e.Text != "" {
		b.WriteString(": ")
		b.WriteString(e.Text)
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap returns e.Err.
func (e *HandshakeError) Unwrap() error { return e.Err }

// Refuse returns an error for an admit function: the client gets code and text.
func Refuse(code HandshakeCode, text string) error {
	return &HandshakeError{Code: code, Text: text}
}

// printable returns a text from the network as it may be logged.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
