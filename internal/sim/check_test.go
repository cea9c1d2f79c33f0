package sim

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A teller writes histories by hand: each call begins and returns at moments
// of its own, in the order in which they are told.
type teller struct {
	history History
	seq     int64
	domain  int
	losses  int
}

func (l *teller) mark() Mark {
	l.seq++
	return Mark{Seq: l.seq, At: time.Duration(l.seq) * time.Second, Domain: l.domain, Losses: l.losses}
}

func (l *teller) call(kind Kind, value string) *Op {
	op := &Op{Kind: kind, Cache: cacheMixed, Key: "k", Value: value, Call: l.mark()}
	op.Return = l.mark()
	l.history.ops = append(l.history.ops, op)
	return op
}

// kinds are the kinds of violations that are found, each once.
func (l *teller) kinds(ancestors map[int]map[int]bool) []string {
	if ancestors == nil {
		ancestors = map[int]map[int]bool{1: {1: true}}
	}
	r := &Result{Script: new(Script), History: &l.history, ancestors: ancestors}
	var kinds []string
	for _, v := range r.Check() {
		if len(kinds) == 0 || kinds[len(kinds)-1] != v.Kind {
			kinds = append(kinds, v.Kind)
		}
	}
	return kinds
}

func TestCheck(t *testing.T) {
	parted := map[int]map[int]bool{1: {1: true}, 2: {1: true, 2: true}, 3: {1: true, 3: true}, 4: {1: true, 2: true, 3: true, 4: true}}
	for name, c := range map[string]struct {
		tell      func(l *teller)
		ancestors map[int]map[int]bool
		want      []string
	}{
		"all well": {tell: func(l *teller) {
			l.call(Set, "a")
			l.call(Get, "a")
			l.call(Update, "b").Old = "a"
			l.call(Get, "b")
			l.call(Delete, "")
			l.call(Get, "")
			l.call(Load, "L1")
			l.call(Get, "L1")
		}},
		"an older value": {tell: func(l *teller) {
			l.call(Set, "a")
			l.call(Set, "b")
			l.call(Get, "a")
		}, want: []string{"not linearizable", "older value"}},
		"a deleted value": {tell: func(l *teller) {
			l.call(Set, "a")
			l.call(Delete, "")
			l.call(Get, "a")
		}, want: []string{"not linearizable", "older value"}},
		"a load that began before a delete": {tell: func(l *teller) {
			l.call(Load, "L1")
			l.call(Delete, "")
			l.call(Get, "L1")
		}, want: []string{"older value"}},
		"a lost write": {tell: func(l *teller) {
			l.call(Set, "a")
			l.call(Get, "")
		}, want: []string{"lost write", "not linearizable"}},
		"a lost update": {tell: func(l *teller) {
			l.call(Set, "a")
			l.call(Update, "b").Old = "a"
			l.call(IfSame, "c").Old = "a"
		}, want: []string{"not linearizable", "older value"}},
		"a value of a write that failed": {tell: func(l *teller) {
			l.call(IfAbsent, "a").Outcome = Nothing
			l.call(Get, "a")
		}, want: []string{"not linearizable", "value of a write that failed"}},
		"a write of unknown outcome takes effect late": {tell: func(l *teller) {
			l.call(Update, "a").Outcome = Unknown
			l.call(Set, "b")
			l.call(Get, "b")
			l.call(Delete, "")
			l.call(Get, "a")
		}},
		"and only once": {tell: func(l *teller) {
			l.call(Update, "a").Outcome = Unknown
			l.call(Get, "a")
			l.call(Set, "b")
			l.call(Get, "a")
		}, want: []string{"not linearizable"}},
		"a write takes effect twice": {tell: func(l *teller) {
			set := l.call(Set, "a")
			l.call(Get, "a")
			l.call(Update, "b").Old = "a"
			l.call(Get, "a")
			set.Return = l.mark()
		}, want: []string{"written twice"}},
		"an older value of the other side": {ancestors: parted, tell: func(l *teller) {
			l.domain = 2
			l.call(Set, "a")
			l.domain = 3
			l.call(Set, "b")
			l.domain = 4
			l.call(Get, "a")
		}},
		"an older value of the own side": {ancestors: parted, tell: func(l *teller) {
			l.domain = 2
			l.call(Set, "a")
			l.call(Delete, "")
			l.domain = 4
			l.call(Get, "a")
		}, want: []string{"older value"}},
		"what may be lost": {tell: func(l *teller) {
			l.call(Set, "a")
			l.losses++
			l.domain = 0
			l.call(Get, "")
		}},
		"an expired value": {tell: func(l *teller) {
			l.call(Set, "a").TTL = time.Second
			l.call(Delete, "").Outcome = Nothing
			l.call(Get, "a")
		}, want: []string{"expired value"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &teller{domain: 1}
			c.tell(l)
			require.Equal(t, c.want, l.kinds(c.ancestors))
		})
	}
}

func TestKeyIsLoadedOnce(t *testing.T) {
	tell := func(at time.Duration) *Result {
		l := &teller{domain: 1}
		l.call(Load, "L1").Cache = cacheLoads
		l.call(Load, "L2").Cache = cacheLoads
		return &Result{Script: new(Script), History: &l.history, ancestors: map[int]map[int]bool{1: {1: true}}, disturbed: []time.Duration{at}}
	}
	require.Len(t, tell(time.Minute).Check(), 1)
	require.Empty(t, tell(1500*time.Millisecond).Check(), "something happened meanwhile")
	require.Empty(t, tell(2100*time.Millisecond).Check(), "or shortly after")
	require.Len(t, tell(2500*time.Millisecond).Check(), 1)
}

func TestOnlyCopiesMissing(t *testing.T) {
	written := holding{Held: true, W: [2]uint64{5, 1}, V: [2]uint64{5, 1}, Value: "a"}
	load := holding{Held: true, W: [2]uint64{5, 1}, V: [2]uint64{6, 1}, Value: "L1"}
	other := load
	other.V[0]++
	deleted := holding{Held: true, Flags: flagTombstone, W: [2]uint64{5, 1}, V: [2]uint64{5, 1}}
	require.True(t, onlyCopiesMissing([]holding{load, deleted}))
	require.True(t, onlyCopiesMissing([]holding{{}, {Held: true, V: [2]uint64{6, 1}}, {}}))
	require.False(t, onlyCopiesMissing([]holding{load, other}))
	require.False(t, onlyCopiesMissing([]holding{load, {}}), "of a delete nothing is left")
	require.False(t, onlyCopiesMissing([]holding{written, {}}))
	require.False(t, onlyCopiesMissing([]holding{written, deleted}))
}

func TestSeedDeterminesTheScript(t *testing.T) {
	for seed := range uint64(200) {
		require.Equal(t, NewScript(seed), NewScript(seed))
		require.Equal(t, NewScript(seed).String(), NewScript(seed).String())
	}
	for _, plan := range planNames() {
		require.Equal(t, plan, NewScriptOf(7, plan).Plan)
	}
}
