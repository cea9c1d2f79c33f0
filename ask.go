package peercache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// silence is how long an owner may say nothing at all to a request before the
// next one is asked instead. One that said that it loads may take its time.
const silence = 250 * time.Millisecond

// askOwners asks the owners of a key in the table of this node.
func (n *Node) askOwners(ctx context.Context, sp *space, key string, load bool) result {
	mode := getStored
	if load {
		mode = getLoad
	}
	owners := n.view.Load().ownersOf(shardOf(sp.keyspace, key))
	self := slices.IndexFunc(owners, func(m Member) bool { return m.Incarnation == n.incarnation })
	if self < 0 {
		return n.askThese(ctx, sp, key, mode, false, owners)
	}
	// This node is an owner, and has nothing: those before it are asked.
	r := n.askThese(ctx, sp, key, mode, false, owners[:self])
	if !errors.Is(r.err, errNoOwner) {
		return r
	}
	if !load {
		return result{}
	}
	if sp.canLoad() {
		return n.loadHere(ctx, sp, key, nil)
	}
	return r
}

// An answer is what came of asking one member.
type answer struct {
	got   got
	err   error
	mode  uint8
	place int
}

// A question is one key asked of several members, one after the other. It
// belongs to one goroutine.
type question struct {
	n        *Node
	sp       *space
	key      string
	mode     uint8
	asked    bool        // somebody else asked those before the members
	members  []candidate // in the order in which they are asked
	answers  chan answer
	told     chan interim
	open     int  // members that have not answered
	next     int  // the next member to ask
	peeked   int  // the next member to ask for what it holds only
	followed bool // another member's owners have been added
}

// A candidate is a member that may be asked.
type candidate struct {
	Member
	before int // owners that come before it
}

// An interim is an interim reply of a member.
type interim struct {
	place int
	reply mux.Reply
}

// askThese asks members for a key, the first that can be reached. One that is
// silent for longer than usual makes the next one be asked for what it holds
// (a hedge), and one that stays silent makes the next one be asked in its
// place. The error is errNoOwner when nobody answered.
func (n *Node) askThese(ctx context.Context, sp *space, key string, mode uint8, asked bool, members []Member) result {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := &question{n: n, sp: sp, key: key, mode: mode, asked: asked,
		answers: make(chan answer, 4*maxCopies), told: make(chan interim, 4)}
	q.add(members)
	q.askNext(ctx)
	hedge := time.NewTimer(q.patience())
	defer hedge.Stop()
	quiet := time.NewTimer(silence)
	defer quiet.Stop()
	for q.open > 0 {
		select {
		case a := <-q.answers:
			q.open--
			before := q.next
			if r, final := q.judge(ctx, a); final {
				return r
			}
			// 1. A hedge is sent. 2. The member says that it loads. 3. The
			// hedge's answer comes: it must not end the patience with the load.
			if q.next > before {
				quiet.Reset(silence)
			}
		case t := <-q.told:
			hedge.Stop() // somebody is at it
			quiet.Stop()
			if t.reply.Code == progressLend {
				owner := q.members[t.place].Member
				n.spawn(func(life context.Context) { n.loadLent(life, ctx, sp, key, t.reply.Body, owner) })
			}
		case <-hedge.C:
			q.peekNext(ctx)
		case <-quiet.C:
			n.peers.suspect(q.members[q.next-1].Member)
			if q.next == len(q.members) {
				return result{err: errNoOwner}
			}
			q.askNext(ctx)
			quiet.Reset(silence)
		case <-ctx.Done():
			return result{err: ctx.Err()}
		}
	}
	return result{err: errNoOwner}
}

// patience is how long the member that was asked may take before it is
// slower than usual.
func (q *question) patience() time.Duration {
	if q.next == 0 {
		return silence
	}
	return q.n.peers.patience(q.members[q.next-1].Member)
}

// add appends members to ask, those that seem to be out of reach last.
func (q *question) add(members []Member) {
	first := len(q.members)
	for i, m := range members {
		q.members = append(q.members, candidate{m, i})
	}
	slices.SortStableFunc(q.members[first:], func(a, b candidate) int {
		return cmp.Compare(q.n.peers.rank(a.Member), q.n.peers.rank(b.Member))
	})
}

// asked reports whether all owners before the next one were asked.
func (q *question) askedBefore(place int) bool {
	if q.asked || q.followed {
		return q.asked
	}
	count := 0
	for _, c := range q.members[:place] {
		if c.before < q.members[place].before {
			count++
		}
	}
	return count == q.members[place].before
}

func (q *question) askNext(ctx context.Context) {
	if q.next < len(q.members) {
		q.ask(ctx, q.next, q.mode)
		q.next++
		q.peeked = q.next
	}
}

func (q *question) peekNext(ctx context.Context) {
	if q.peeked < len(q.members) {
		q.n.hedges.Add(1)
		q.ask(ctx, q.peeked, getLookup)
		q.peeked++
	}
}

func (q *question) ask(ctx context.Context, place int, mode uint8) {
	m, asked := q.members[place].Member, q.askedBefore(place)
	q.open++
	if !q.n.spawn(func(context.Context) {
		var told func(mux.Reply)
		if mode != getLookup {
			told = func(r mux.Reply) {
				select {
				case q.told <- interim{place, r}:
				default:
				}
			}
		}
		q.sp.count.peerLoads.Add(1)
		asks := max(mode, getStored) // not getLookup: what it answers is served
		got, err := q.n.callGet(ctx, m, q.sp, q.key, asks, asked, told)
		if err != nil && ctx.Err() == nil {
			q.sp.count.peerErrors.Add(1)
		}
		q.answers <- answer{got, err, mode, place}
	}) {
		q.answers <- answer{err: ErrClosed, mode: mode, place: place}
	}
}

// judge decides what an answer means. final is false when others have to be
// heard.
func (q *question) judge(ctx context.Context, a answer) (r result, final bool) {
	var answered *answeredError
	switch {
	case errors.As(a.err, &answered) && a.mode != getLookup && !errors.Is(a.err, ErrUnavailable):
		return result{err: answered.err}, true
	case a.err != nil:
		if a.mode != getLookup && a.place == q.next-1 {
			q.askNext(ctx)
		}
	case a.got.held && a.got.entry.there():
		return resultOf(a.got.entry), true
	case a.mode == getLookup:
		// A hedge that found nothing proves nothing.
	case a.got.notOwner != nil:
		q.follow(ctx, a.got.notOwner)
	default:
		return result{entry: a.got.entry}, true
	}
	return result{}, false
}

// follow asks the owners that another member named, once: views that differ
// cost one more hop.
func (q *question) follow(ctx context.Context, owners []Member) {
	if q.followed {
		q.askNext(ctx)
		return
	}
	q.followed = true
	owners = slices.DeleteFunc(owners, func(m Member) bool {
		return m.Incarnation == q.n.incarnation ||
			slices.ContainsFunc(q.members, func(c candidate) bool { return c.Incarnation == m.Incarnation })
	})
	// They go before those who come after the member that named them.
	rest := slices.Clone(q.members[q.next:])
	q.members = q.members[:q.next]
	q.add(owners)
	q.members = append(q.members, rest...)
	q.askNext(ctx)
}

// loadLent runs the loader for an owner that cannot, and brings it the
// outcome. The owner answers the question with it, as it does others'. The
// load ends with the question: the owner then lends it to somebody else.
func (n *Node) loadLent(life, question context.Context, sp *space, key string, body []byte, owner Member) {
	r := wire.NewReader(body)
	id := r.Uint64()
	if r.End() != nil {
		return
	}
	ctx, cancel := context.WithCancel(question)
	defer cancel()
	stop := context.AfterFunc(life, cancel)
	defer stop()
	l := n.callLoader(ctx, sp, key)
	if ctx.Err() != nil {
		return
	}
	lent := &lentResult{cache: sp.name, key: key, flight: id, loaded: l}
	if err := n.callLent(ctx, owner, lent); err != nil {
		n.log.Debug("a load could not be brought to its owner", "owner", owner.String(), "err", err)
	}
}

// A silenceTimer ends a request to a member that says nothing at all.
type silenceTimer struct {
	timer *time.Timer
	fired atomic.Bool
}

func newSilence(end func()) *silenceTimer {
	s := new(silenceTimer)
	s.timer = time.AfterFunc(silence, func() {
		s.fired.Store(true)
		end()
	})
	return s
}

func (s *silenceTimer) stop()        { s.timer.Stop() }
func (s *silenceTimer) struck() bool { return s.fired.Load() }
