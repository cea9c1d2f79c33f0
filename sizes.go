package peercache

import (
	"errors"
	"fmt"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// What may be as large as Config says is bounded here, and nowhere else:
//
//   - valueLimit is what this node keeps of one value. It is announced. What is
//     larger comes without its value, and is as good as evicted here.
//   - writeLimit is what may be written: what all members keep. So a write is
//     refused at once, wherever it is asked for, or comes to all owners.
//   - maxBody is what may travel in one body: the largest value that a member
//     keeps, or a batch, and room for what goes with either.
//
// A batch is cut at maxBatchBytes, and has more only where one entry has.

// bodySlack is the room in a body beside a value or a batch: heads, keys, floors,
// and the fingerprints of a request or page of a sync.
const bodySlack = 8 << 20

// valueLimit is the greatest size of a value that this node keeps.
func (n *Node) valueLimit() int {
	return int(min(int64(n.cfg.MaxValueBytes), n.maxSize.Load()/4))
}

// maxBody bounds a body that this node sends or takes. A node reads values that
// it would not keep itself.
func (n *Node) maxBody() int {
	most := max(n.cfg.MaxValueBytes, defaultMaxValueBytes)
	if v := n.view.Load(); v != nil {
		most = max(most, v.mostValue)
	}
	return max(most, maxBatchBytes) + bodySlack
}

// checkValue reports whether a value may be kept on this node.
func (n *Node) checkValue(key string, value []byte) error {
	if most := n.valueLimit(); len(value) > most {
		return fmt.Errorf("%w: key %q: a value of %d bytes, at most %d are possible", ErrTooLarge, clipKey(key), len(value), most)
	}
	return nil
}

// checkWrite reports whether a value may be written: whether all members keep it.
func (n *Node) checkWrite(key string, value []byte) error {
	if err := n.checkValue(key, value); err != nil {
		return err
	}
	v := n.view.Load()
	if len(value) <= v.leastValue {
		return nil
	}
	for i := range v.members {
		if most := v.members[i].keeps(); len(value) > most {
			return fmt.Errorf("%w: key %q: a value of %d bytes, at most %d are possible on %s", ErrTooLarge, clipKey(key), len(value), most, v.members[i].Member)
		}
	}
	return nil
}

// keeps is the greatest size of a value that a member keeps. One that does not
// say so has the default.
func (a *announcement) keeps() int {
	if a.maxValue == 0 {
		return defaultMaxValueBytes
	}
	return a.maxValue
}

// takes is the size of a value beyond which a member gets it without its bytes.
func (v *view) takes(incarnation uint64) int {
	if m, ok := v.find(incarnation); ok && m.maxValue != 0 {
		return m.maxValue
	}
	return maxValueLimit
}

// omitted returns an entry as it travels to a member that keeps values of so many
// bytes.
func omitted(e entry, most int) entry {
	if len(e.value) > most {
		e.flags, e.value = e.flags|flagOmitted, nil
	}
	return e
}

// isFinal reports whether err is a member's, or this node's, word on a request
// that will be the same when it is asked again.
func isFinal(err error) bool {
	var remote *mux.RemoteError
	if !errors.As(err, &remote) {
		return errors.Is(err, mux.ErrTooLarge)
	}
	switch remote.Code {
	case wire.CodeBusy, wire.CodeClosing, wire.CodeDeadline, wire.CodeCanceled:
		return false
	default:
		return true
	}
}

// finalError makes an error for callers of one that is final.
func finalError(m Member, err error) error {
	if isTooLarge(err) {
		return fmt.Errorf("%w: %s: %w", ErrTooLarge, m, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, m, err)
}
