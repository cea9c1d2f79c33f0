package sim

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearTime bounds the search for an order of a key's calls.
const linearTime = 5 * time.Second

// checkLinear checks the calls of a key against a register, when all of them
// that may have changed it are of one domain.
func (c *checker) checkLinear() {
	if c.evicts() {
		return
	}
	domain := 0
	var history, repeats []porcupine.Operation
	for _, op := range c.ops {
		if op.Kind == Load || op.last() {
			continue
		}
		if op.Call.Slow || op.Return.Slow {
			return // what is being written for seconds is read here and not there
		}
		if op.reads() {
			if op.Outcome != Done || op.Call.Weak || op.Return.Weak || op.domain() == 0 {
				continue
			}
		} else if !op.writes() {
			continue
		}
		if domain == 0 {
			domain = op.Call.Domain
		}
		if op.Call.Domain != domain {
			if op.reads() {
				continue
			}
			return
		}
		if c.decidedAfterLoss(op) {
			continue
		}
		end := op.Return.Seq
		if op.writes() && (op.Outcome == Unknown || op.domain() == 0) {
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: len(history), Input: op, Call: op.Call.Seq, Output: op, Return: end})
		if op.Kind == Clear {
			// It may ask owners anew: what was written while it ran may be removed.
			more := porcupine.Operation{Input: repeat{op}, Call: op.Call.Seq, Return: op.Return.Seq}
			if op.Outcome == Unknown {
				more.Return = end
			}
			repeats = append(repeats, more)
		}
	}
	all := slices.Clone(history)
	history = slices.DeleteFunc(history, func(r porcupine.Operation) bool { return readsBesideWrite(all, r) })
	if domain == 0 {
		return
	}
	for _, r := range repeats {
		r.ClientId = len(history)
		history = append(history, r)
	}
	if porcupine.CheckOperationsTimeout(register, history, linearTime) != porcupine.Illegal {
		return
	}
	kind := "not linearizable"
	if porcupine.CheckOperationsTimeout(register, again(history), linearTime) != porcupine.Illegal {
		kind = "written twice"
	}
	c.violate(kind, "%d calls of domain %d", len(history), domain)
}

// decidedAfterLoss reports whether a conditional write was decided by what was
// there after a loss that happened meanwhile.
func (c *checker) decidedAfterLoss(op *Op) bool {
	if !op.conditional() || op.Outcome != Done || op.Return.Losses == op.Call.Losses {
		return false
	}
	return op.Old == "" || slices.ContainsFunc(c.ops, func(made *Op) bool {
		return (made.Kind == Load || made.writes()) && made.Value == op.Old && made.Call.Losses == op.Return.Losses
	})
}

// readsBesideWrite reports whether an operation is a read of something else than
// what is being written meanwhile. While a write is under way one owner has it
// and another has not yet, and each answers for itself: such a read may come
// after one that saw the write.
func readsBesideWrite(history []porcupine.Operation, r porcupine.Operation) bool {
	read := r.Input.(*Op)
	return read.reads() && slices.ContainsFunc(history, func(w porcupine.Operation) bool {
		write := w.Input.(*Op)
		return write.writes() && w.Call < r.Return && r.Call < write.Return.Seq && write.Value != read.Value
	})
}

// A repeat is a Set, Delete or Clear that may have taken effect once more, or
// not.
type repeat struct{ op *Op }

// again adds to a history that each Set and Delete may have taken effect a second time
// before it returned. It tells one fault from others.
func again(history []porcupine.Operation) []porcupine.Operation {
	more := slices.Clone(history)
	for _, o := range history {
		if op, ok := o.Input.(*Op); ok && !op.conditional() && op.writes() {
			o.Input, o.ClientId = repeat{op}, len(more)
			more = append(more, o)
		}
	}
	return more
}

// register is a key as its callers see it: its value, "" for none. A value
// that was loaded may vanish, and another load take its place.
var register = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{""} },
	Step: func(state, input, _ any) []any {
		held := state.(string)
		if r, ok := input.(repeat); ok {
			return []any{held, r.op.Value}
		}
		op := input.(*Op)
		free := held == "" || isLoad(held)
		matches := func(value string) bool { return value == held || free && (value == "" || isLoad(value)) }
		switch {
		case op.reads() && matches(op.Value):
			return []any{op.Value}
		case op.reads():
			return nil
		case op.deletes():
			return []any{""}
		case op.conditional() && op.Outcome == Unknown && !matches(op.Old):
			return []any{held} // it failed, or will
		case op.conditional() && !matches(op.Old):
			return nil
		default:
			return []any{op.Value}
		}
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

func isLoad(value string) bool { return strings.HasPrefix(value, "L") }
