package wire

import "strconv"

// Kind says what a frame is for. Zero is not a kind.
type Kind uint8

// The kinds of v1. Their numbers are fixed for ever.
const (
	KindRequest  Kind = 1  // asks for something; Code is the operation
	KindReply    Kind = 2  // ends a call; Code is the application's
	KindError    Kind = 3  // ends a call that was not served; Code is an ErrorCode, the body a text for people
	KindProgress Kind = 4  // an interim answer of a call, such as "loading"
	KindCancel   Kind = 5  // the caller of a call has left
	KindPacket   Kind = 6  // a one-way datagram; no call
	KindChunk    Kind = 7  // the next piece of a body announced by Fields.BodySize
	KindGoaway   Kind = 8  // send no more requests; with FlagAck: seen, none follows
	KindVoid     Kind = 9  // withdrawn before it was written, or a sign of life: skipped; with FlagAsk: asks for one
	KindData     Kind = 10 // a record of a stream or a snapshot; no call
	kindEnd      Kind = 11
)

// Valid reports whether k is a kind of v1.
func (k Kind) Valid() bool { return k > 0 && k < kindEnd }

// String returns k's name, for people.
func (k Kind) String() string {
	names := [...]string{"", "request", "reply", "error", "progress", "cancel", "packet", "chunk", "goaway", "void", "data"}
	if k.Valid() {
		return names[k]
	}
	return "kind " + strconv.Itoa(int(k))
}

// Flags of a frame. Unknown flags are ignored.
type Flags uint8

const (
	// FlagReply on a chunk: the call is the receiver's, the chunk is of its reply.
	FlagReply Flags = 1 << 0
	// FlagAck on a goaway: it answers the receiver's goaway.
	FlagAck Flags = 1 << 1
	// FlagAsk on a void: the receiver is to send one without it.
	FlagAsk Flags = 1 << 2
)

// ErrorCode is the Code of an error frame: why a call was not served. The
// numbers are fixed for ever.
type ErrorCode uint8

const (
	CodeInternal    ErrorCode = 1 // the receiver failed in a way that has no better name
	CodeBusy        ErrorCode = 2 // too much at once; the request was not looked at
	CodePanic       ErrorCode = 3 // the handler panicked
	CodeCanceled    ErrorCode = 4 // the call was cancelled before it was answered
	CodeDeadline    ErrorCode = 5 // the request's deadline had passed before it was served
	CodeTooLarge    ErrorCode = 6 // the request's body, or its reply's, is beyond the bound
	CodeMalformed   ErrorCode = 7 // the request's frame or body cannot be read
	CodeUnsupported ErrorCode = 8 // unknown operation, or a critical field that is not known here
	CodeClosing     ErrorCode = 9 // the receiver takes no more requests; this one was not looked at
)

// String returns c's name, for people.
func (c ErrorCode) String() string {
	names := [...]string{"", "internal", "busy", "panic", "canceled", "deadline", "too large", "malformed", "unsupported", "closing"}
	if c > 0 && int(c) < len(names) {
		return names[c]
	}
	return "code " + strconv.Itoa(int(c))
}
