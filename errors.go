package peercache

import (
	"errors"
	"fmt"
	"strings"
)

// Errors that callers branch on. All of them are matched with [errors.Is];
// what a call returns usually wraps one of them with the detail.
var (
	// ErrNotFound says that a key has no value. A loader returns it, wrapped or
	// not, to say so.
	ErrNotFound = errors.New("peercache: not found")

	// ErrConflict says that a conditional write's condition was not met.
	// Nothing was changed.
	ErrConflict = errors.New("peercache: conflict")

	// ErrExists says that a node has a cache of that name already.
	ErrExists = errors.New("peercache: exists already")

	// ErrClosed is returned by every call on a node, or on a cache of a node,
	// that was shut down or closed.
	ErrClosed = errors.New("peercache: node is closed")

	// ErrTooLarge says that a key or value is larger than may be kept, here or on
	// another member. Nothing was changed, and to try again is of no use.
	ErrTooLarge = errors.New("peercache: too large")

	// ErrUnavailable is returned when no member that could answer was reached
	// within the caller's context, or within some seconds: by then those who
	// died are known to be dead. The text says which was tried. A write that
	// fails so may have been applied, or be applied soon, unless the text says
	// that no owner took it.
	ErrUnavailable = errors.New("peercache: unavailable")

	// ErrPartialWrite is matched by [*PartialWriteError].
	ErrPartialWrite = errors.New("peercache: partial write")

	// ErrLoad is matched by [*LoadError].
	ErrLoad = errors.New("peercache: load failed")
)

// A PartialWriteError says that a write was applied and can be read, but that
// some owners which may be living have not confirmed it in time. They are told
// further in the background.
type PartialWriteError struct {
	Missing []Member // the owners that did not confirm
	Err     error    // why the wait for them ended
}

// Error names the members that are missing.
func (e *PartialWriteError) Error() string {
	names := make([]string, len(e.Missing))
	for i, m := range e.Missing {
		names[i] = m.String()
	}
	return fmt.Sprintf("%v: not confirmed by %s: %v", ErrPartialWrite, strings.Join(names, ", "), e.Err)
}

// Unwrap returns ErrPartialWrite and Err.
func (e *PartialWriteError) Unwrap() []error { return []error{ErrPartialWrite, e.Err} }

// A LoadError is what a loader returned, on whichever member it ran. Err keeps
// its text, and its identity where that can be kept: [context.DeadlineExceeded],
// [context.Canceled] and the errors in [Options].Errors.
type LoadError struct {
	Member string // the name of the member that ran the loader
	Err    error
}

// Error returns the member and what its loader returned.
func (e *LoadError) Error() string {
	return fmt.Sprintf("%v on %s: %v", ErrLoad, e.Member, e.Err)
}

// Unwrap returns ErrLoad and Err.
func (e *LoadError) Unwrap() []error { return []error{ErrLoad, e.Err} }

// A KeysError says which keys of a call for several failed. The others did
// not.
type KeysError struct {
	Errs map[string]error
}

// Error tells how many keys failed and why the first of them did.
func (e *KeysError) Error() string {
	var first string
	for key := range e.Errs {
		if first == "" || key < first {
			first = key
		}
	}
	return fmt.Sprintf("peercache: %d keys failed: %q: %v", len(e.Errs), clipKey(first), e.Errs[first])
}

// Unwrap returns the errors of all keys.
func (e *KeysError) Unwrap() []error {
	errs := make([]error, 0, len(e.Errs))
	for _, err := range e.Errs {
		errs = append(errs, err)
	}
	return errs
}

// keysError returns a *KeysError, or nil when there is nothing to tell.
func keysError(errs map[string]error) error {
	if len(errs) == 0 {
		return nil
	}
	return &KeysError{Errs: errs}
}

// A ConfigError lists everything that is wrong with a [Config] or with
// [Options], so that one start tells all there is to mend.
type ConfigError struct {
	what string // "Config" if empty

	// Faults has a line for each fault. Each begins with the field's name.
	Faults []string
}

// Error returns all faults in one line.
func (e *ConfigError) Error() string {
	what := e.what
	if what == "" {
		what = "Config"
	}
	return "peercache: bad " + what + ": " + strings.Join(e.Faults, "; ")
}
