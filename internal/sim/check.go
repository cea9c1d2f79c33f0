package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Check judges a result. It may be called outside the bubble.
func (r *Result) Check() []Violation {
	violations := slices.Clone(r.Violations)
	keys := r.History.byKey()
	for k, ops := range keys {
		slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Call.Seq, b.Call.Seq) })
		c := &checker{result: r, key: k, ops: ops}
		c.check()
		violations = append(violations, c.violations...)
	}
	slices.SortStableFunc(violations, func(a, b Violation) int { return strings.Compare(a.Kind, b.Kind) })
	return violations
}

// Report prints violations with the script, and with all that happened to
// their keys.
func (r *Result) Report(violations []Violation, whole bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", r.Script)
	printed := make(map[[2]string]bool)
	lines := slices.Clone(r.Trace)
	keys := r.History.byKey()
	for i, v := range violations {
		if i == 8 {
			fmt.Fprintf(&b, "... and %d more\n", len(violations)-i)
			break
		}
		fmt.Fprintf(&b, "* %s", v.Kind)
		if v.Key[1] != "" {
			fmt.Fprintf(&b, " (%s/%s)", v.Key[0], v.Key[1])
		}
		fmt.Fprintf(&b, ": %s\n", v.Text)
		if !whole && len(printed) == 1 {
			continue
		}
		if v.Key[1] != "" && !printed[v.Key] {
			printed[v.Key] = true
			for _, op := range keys[v.Key] {
				lines = append(lines, op.String())
			}
		}
	}
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(a[:5], b[:5]) })
	for _, line := range lines {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// A checker judges what happened to one key.
type checker struct {
	result     *Result
	key        [2]string
	ops        []*Op
	violations []Violation
}

func (c *checker) violate(kind, format string, args ...any) {
	c.violations = append(c.violations, Violation{Kind: kind, Key: c.key, Text: fmt.Sprintf(format, args...)})
}

// evicts reports whether entries may vanish.
func (c *checker) evicts() bool { return c.result.Script.Pieces > 0 || c.key[0] == cacheBrief }

// expirySlack is what clocks that differ may add to a time to live.
const expirySlack = 500e6

func (c *checker) check() {
	writers := make(map[string]*Op) // by value
	for _, op := range c.ops {
		if !op.reads() && op.Value != "" {
			writers[op.Value] = op
		}
	}
	for _, op := range c.ops {
		if most := c.longest(); op.Client >= 0 && most > 0 && op.Return.At-op.Call.At > most {
			c.violate("slow call", "%v", op)
		}
		switch {
		case op.conditional() && op.Outcome == Done:
			// It was decided by what was there before.
			c.checkRead(&Op{Client: op.Client, Node: op.Node, Kind: op.Kind, Cache: op.Cache, Key: op.Key, Value: op.Old,
				Call: op.Call, Return: op.Return}, writers)
		case op.reads() && op.Outcome == Done:
			c.checkRead(op, writers)
		case op.domain() == 0 || op.Call.Weak || op.Return.Weak || op.Call.Slow:
		case op.reads():
			c.violate("read failed", "%v", op)
		case c.result.Script.Patience > 0: // less than a write may take
		case op.Outcome == Unknown && (op.Kind == Set || op.Kind == Delete || op.Kind == SetMany):
			c.violate("write failed", "%v", op)
		}
	}
	c.checkLoads()
	c.checkLinear()
}

// longest returns how long a call may take that has no deadline; 0: any time.
func (c *checker) longest() time.Duration {
	s := c.result.Script
	if !s.Endless {
		return 0
	}
	return s.timeout() + time.Second + s.Loading
}

// older reports whether one call's domain is that of another, or descends to
// it.
func (c *checker) older(a, b *Op) bool {
	return a.domain() != 0 && c.result.ancestors[b.domain()][a.domain()]
}

// before reports whether a write, or a load, was over before another write
// began, so that the other one's version is greater.
func (c *checker) before(a, b *Op) bool {
	if a.Kind == Load {
		return a.Call.Seq < b.Call.Seq && c.older(a, b)
	}
	return a.Outcome == Done && a.Return.Seq < b.Call.Seq && c.older(a, b)
}

// writes reports whether a call may have changed the key.
func (op *Op) writes() bool { return !op.reads() && op.Kind != Load && op.Outcome != Nothing }

func (op *Op) deletes() bool { return op.Kind == Delete || op.Kind == Clear }

// last reports whether a read is one of those in the end, when all is healed.
func (op *Op) last() bool { return op.Client == -2 }

func (c *checker) checkRead(r *Op, writers map[string]*Op) {
	var writer *Op
	if r.Value != "" {
		if writer = writers[r.Value]; writer == nil {
			if !strings.HasPrefix(r.Value, "L") {
				c.violate("unknown value", "%v", r)
			}
			return // the load has not returned
		}
		if writer.Outcome == Nothing && writer.Kind != Load {
			c.violate("value of a write that failed", "%v\nby %v", r, writer)
			return
		}
	}
	if writer != nil && writer.TTL > 0 && writer.Outcome == Done && r.Call.At > writer.Return.At+writer.TTL+expirySlack {
		c.violate("expired value", "%v\nwritten for %v by %v", r, writer.TTL, writer)
	}
	if r.domain() == 0 && r.back() == 0 || r.Call.Weak || r.Return.Weak {
		return
	}
	for _, w := range c.ops {
		if !w.writes() || w.Outcome != Done || w == writer || w.Return.Seq >= r.Call.Seq {
			continue
		}
		if !c.older(w, r) && (w.domain() == 0 || w.domain() != r.back()) {
			continue
		}
		if writer != nil && c.before(writer, w) {
			c.violate("older value", "%v\nwritten by %v\nbut later there was %v", r, writer, w)
			return
		}
		if r.domain() != 0 && !w.deletes() && (writer == nil || writer.Kind == Load) && c.mustBeThere(w, r) {
			c.violate("lost write", "%v\nbut there was %v", r, w)
			return
		}
	}
}

// mustBeThere reports whether a read has to see a write or a later one.
func (c *checker) mustBeThere(w, r *Op) bool {
	if c.evicts() || w.Return.Losses != r.Return.Losses || w.Call.Losses != r.Call.Losses {
		return false
	}
	if w.domain() != r.domain() && !r.last() {
		return false // the owners may be on another side
	}
	for _, d := range c.ops {
		if d.writes() && d.deletes() && d.Call.Seq < r.Return.Seq && !c.before(d, w) {
			return false
		}
	}
	return true
}

// loadCopied is how long a load takes to be copied to the replicas, with room.
const loadCopied = 300e6

// checkLoads judges the loads of a key that is never written: in one domain
// there is one, unless something happened while it was under way or shortly
// after it.
func (c *checker) checkLoads() {
	if c.key[0] != cacheLoads || c.evicts() {
		return
	}
	var before *Op
	for _, op := range c.ops {
		if op.Kind != Load {
			continue
		}
		if before != nil && op.Call.Domain != 0 && op.Call.Domain == before.Call.Domain && before.Outcome == Done &&
			op.Call.Losses == before.Call.Losses && !op.Call.Weak && !op.Call.Slow && c.quiet(before) && !c.askedSilent(op) && !c.cutBefore(op) {
			c.violate("loaded again", "%v\nbefore %v", op, before)
		}
		before = op
	}
}

// askedSilent reports whether somebody who waits for a load began to ask while a
// link was cut or a node was paused: then the next owner was asked as well, and
// the load follows from that, though all is well by now.
func (c *checker) askedSilent(load *Op) bool {
	for _, op := range c.ops {
		if op.Kind != Load && (op.Call.Weak || op.Call.Still) && op.Call.Seq < load.Call.Seq && op.Return.Seq > load.Call.Seq {
			return true
		}
	}
	return false
}

// cutBefore reports whether a link was cut shortly before a load: who finds no
// owner until it knows through which member it reaches one loads for itself.
func (c *checker) cutBefore(load *Op) bool {
	since := load.Call.At - c.result.Script.timeout() - time.Second
	return slices.ContainsFunc(c.result.cut, func(at time.Duration) bool { return since <= at && at <= load.Call.At })
}

// quiet reports whether nothing happened to the cluster from the beginning of
// a load until its copies have arrived.
func (c *checker) quiet(load *Op) bool {
	for _, at := range c.result.disturbed {
		if at >= load.Call.At && at <= load.Return.At+loadCopied {
			return false
		}
	}
	return load.domain() != 0
}
