package peercache

import (
	"errors"
	"strings"
)

// Errors that callers branch on. All of them are matched with [errors.Is];
// what a call returns usually wraps one of them with the detail.
var (
	// ErrClosed is returned by every call on a node, or on a cache of a node,
	// that was shut down or closed.
	ErrClosed = errors.New("peercache: node is closed")

	// ErrUnavailable is returned when no member that could answer was
	// reached within the caller's context. The text says which was tried.
	ErrUnavailable = errors.New("peercache: unavailable")
)

// A ConfigError lists everything that is wrong with a [Config], so that one
// start tells all there is to mend.
type ConfigError struct {
	// Faults has a line for each fault. Each begins with the field's name.
	Faults []string
}

// Error returns all faults in one line.
func (e *ConfigError) Error() string {
	return "peercache: bad Config: " + strings.Join(e.Faults, "; ")
}
