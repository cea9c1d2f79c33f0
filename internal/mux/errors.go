package mux

import (
	"context"
	"errors"
	"fmt"

	"github.com/peercache/peercache/internal/wire"
)

var (
	// ErrNotSent is matched by the error of a call of which provably no byte
	// was written to the socket: the peer cannot have acted on it.
	ErrNotSent = errors.New("mux: request not sent")
	// ErrClosed is the reason of a Conn that was closed on this side.
	ErrClosed = errors.New("mux: connection closed")
	// ErrGoingAway: the peer takes no more requests on this connection.
	ErrGoingAway = errors.New("mux: peer is going away")
	// ErrTooLarge: a body is beyond MaxBody.
	ErrTooLarge = errors.New("mux: body too large")
	// ErrProtocol: the peer sent what the protocol does not allow.
	ErrProtocol = errors.New("mux: protocol violated")
	// ErrSlow: the peer does not read what it asked for.
	ErrSlow = errors.New("mux: peer does not read")
	// ErrSilent: nothing came from the peer for Options.Silence.
	ErrSilent = errors.New("mux: peer is silent")

	errCalls = errors.New("mux: too many calls")
	errRoom  = errors.New("mux: too many large replies at once")
	errTwice = fmt.Errorf("%w: call id used twice", ErrProtocol)
	errChunk = fmt.Errorf("%w: chunk beyond the body announced", ErrProtocol)
	errKind  = fmt.Errorf("%w: unexpected kind of frame", ErrProtocol)
)

// CallError is the error of a call that got no answer: the connection broke,
// the context ended (Err is then the context's error), the body is too large.
// It matches Err and, unless Sent, ErrNotSent.
type CallError struct {
	Sent bool // a byte of the request may have reached the socket
	Err  error
}

func (e *CallError) Error() string {
	if e.Sent {
		return fmt.Sprintf("mux: call failed: %v", e.Err)
	}
	return fmt.Sprintf("%v: %v", ErrNotSent, e.Err)
}

// Unwrap returns Err, and ErrNotSent unless e.Sent.
func (e *CallError) Unwrap() []error {
	if e.Sent {
		return []error{e.Err}
	}
	return []error{e.Err, ErrNotSent}
}

// RemoteError is the peer's refusal or failure to serve a request.
type RemoteError struct {
	Code wire.ErrorCode
	Text string
}

func (e *RemoteError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("mux: peer answers: %v", e.Code)
	}
	return fmt.Sprintf("mux: peer answers: %v: %s", e.Code, e.Text)
}

// Is makes the codes for an ended context match the context's errors.
func (e *RemoteError) Is(target error) bool {
	return e.Code == wire.CodeDeadline && target == context.DeadlineExceeded ||
		e.Code == wire.CodeCanceled && target == context.Canceled
}

// Refused reports whether the peer did not look at the request: it has had no
// effect and may be made again.
func (e *RemoteError) Refused() bool {
	return e.Code == wire.CodeBusy || e.Code == wire.CodeClosing || e.Code == wire.CodeUnsupported
}

// maxText bounds the text of an error frame that is kept.
const maxText = 1 << 10

// clip shortens a text to maxText.
func clip(s string) string { return s[:min(len(s), maxText)] }
