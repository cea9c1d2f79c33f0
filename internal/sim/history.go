package sim

import (
	"fmt"
	"sync"
	"time"
)

// A Kind is what a client asked for.
type Kind string

// The kinds of calls. A GetMany, SetMany or Clear is one Op for each key.
const (
	Get      Kind = "Get"
	Lookup   Kind = "Lookup"
	GetMany  Kind = "GetMany"
	Set      Kind = "Set"
	SetMany  Kind = "SetMany"
	Delete   Kind = "Delete"
	Clear    Kind = "Clear"
	Update   Kind = "Update"
	IfAbsent Kind = "IfAbsent"
	IfSame   Kind = "IfVersion"
	Load     Kind = "load" // the loader ran
)

// An Outcome is what is known of a call after it returned.
type Outcome int

// The outcomes.
const (
	Done    Outcome = iota // a read's answer counts, a write was acknowledged
	Unknown                // a write may take effect at any time
	Nothing                // neither
)

func (o Outcome) String() string { return [...]string{"done", "unknown", "nothing"}[o] }

// A Mark is one moment of the history.
type Mark struct {
	Seq    int64         // moments in the order in which they were
	At     time.Duration // since the world began
	Domain int           // of the node that the call was made on; 0: none
	Flux   int           // how often that changed
	Back   int           // the domain to which a node comes back after a pause, while it has none again yet
	Losses int           // how often acknowledged writes may have been lost
	Weak   bool          // replicas may answer older
	Slow   bool          // a link is so slow that its other end seems silent
	Still  bool          // a node is paused
}

// An Op is one call for one key.
type Op struct {
	Client, Node int
	Kind         Kind
	Cache, Key   string
	Value        string // written or read; "" stands for nothing
	Old          string // what the key had for a conditional write
	TTL          time.Duration
	Outcome      Outcome
	Err          error
	Call, Return Mark
}

// reads reports whether the call tells what was there.
func (op *Op) reads() bool { return op.Kind.reads() }

func (k Kind) reads() bool { return k == Get || k == Lookup || k == GetMany }

// conditional reports whether the call wrote only if Old was there.
func (op *Op) conditional() bool {
	return op.Kind == Update || op.Kind == IfAbsent || op.Kind == IfSame
}

// domain is the domain that a call was made in from its beginning to its end,
// or 0.
func (op *Op) domain() int {
	if op.Call.Domain == op.Return.Domain && op.Call.Flux == op.Return.Flux {
		return op.Call.Domain
	}
	return 0
}

// back returns the domain to which a node came back after a pause, for a call
// that it made when it went on and nobody knew yet what it sees.
func (op *Op) back() int {
	if op.Call.Back == op.Return.Back {
		return op.Call.Back
	}
	return 0
}

// String returns a line for people.
func (op *Op) String() string {
	s := fmt.Sprintf("%5d-%-5d %10v client %d node %d domain %d %s %s/%s", op.Call.Seq, op.Return.Seq,
		op.Call.At.Round(time.Microsecond), op.Client, op.Node, op.domain(), op.Kind, op.Cache, op.Key)
	switch {
	case op.conditional():
		s += fmt.Sprintf(" %q -> %q", op.Old, op.Value)
	case op.Kind != Delete && op.Kind != Clear:
		s += fmt.Sprintf(" %q", op.Value)
	}
	s += fmt.Sprintf(" %v in %v", op.Outcome, (op.Return.At - op.Call.At).Round(time.Microsecond))
	if op.Err != nil {
		s += ": " + op.Err.Error()
	}
	return s
}

// A History has all calls. It may be used concurrently while the world runs.
type History struct {
	mu  sync.Mutex
	ops []*Op
}

func (h *History) add(ops ...*Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, ops...)
}

// byKey sorts the calls by cache and key.
func (h *History) byKey() map[[2]string][]*Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make(map[[2]string][]*Op)
	for _, op := range h.ops {
		k := [2]string{op.Cache, op.Key}
		keys[k] = append(keys[k], op)
	}
	return keys
}
