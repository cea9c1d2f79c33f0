package sim

import (
	"math"
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
	var history []porcupine.Operation
	for _, op := range c.ops {
		if op.Kind == Load || op.last() {
			continue
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
		end := op.Return.Seq
		if op.writes() && (op.Outcome == Unknown || op.domain() == 0) {
			end = math.MaxInt64
		}
		history = append(history, porcupine.Operation{ClientId: len(history), Input: op, Call: op.Call.Seq, Output: op, Return: end})
	}
	if domain == 0 {
		return
	}
	if porcupine.CheckOperationsTimeout(register, history, linearTime) == porcupine.Illegal {
		c.violate("not linearizable", "%d calls of domain %d", len(history), domain)
	}
}

// register is a key as its callers see it: its value, "" for none. A value
// that was loaded may vanish, and another load take its place.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, _ any) (bool, any) {
		held, op := state.(string), input.(*Op)
		free := held == "" || isLoad(held)
		switch {
		case op.reads():
			ok := op.Value == held || free && (op.Value == "" || isLoad(op.Value))
			return ok, op.Value
		case op.deletes():
			return true, ""
		case op.conditional():
			ok := op.Old == held || free && (op.Old == "" || isLoad(op.Old))
			if op.Outcome == Unknown && !ok {
				return true, held // it failed, or will
			}
			return ok, op.Value
		default:
			return true, op.Value
		}
	},
}

func isLoad(value string) bool { return strings.HasPrefix(value, "L") }
