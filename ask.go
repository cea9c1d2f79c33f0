package peercache

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// silence is how long an owner may say nothing at all to a request before the
// next one is asked instead. One that said that it loads may take its time.
const silence = 250 * time.Millisecond

// lateAnswer is how much longer a request may take whose asker has got the
// answer from somebody else: how long it took tells how patient to be.
const lateAnswer = time.Second

// askOwners asks the owners of a key in the table of this node.
func (n *Node) askOwners(ctx context.Context, s search) result {
	v := n.view.Load()
	if v != s.looked && v.owns(n.incarnation, s.shard) {
		// 1. This node is a joiner, or the others leave, and it is no owner. 2. A
		// caller looks for a key. 3. This node becomes an owner, and all who were
		// are gone. The key is here.
		return result{err: errBecameOwner}
	}
	places := v.current.owners(s.shard)
	if len(places) > 1 && s.sp.readsReplicas() && v.place(n.incarnation, s.shard) < 0 {
		if place := n.pick(v, places); place > 0 {
			first := n.ask(ctx, &s, v, places[place], getStored)
			if r, final := first.result(); final && (r.found || r.err != nil) {
				return r
			} else if !first.pending.IsZero() {
				first.beside = true
				return n.askOn(ctx, &s, v.ownersOf(s.shard), first)
			}
			// It may not have what the primary has loaded just now.
		}
	}
	var first opening
	if len(places) > 0 {
		first = n.ask(ctx, &s, v, places[0], s.mode())
		if r, final := first.result(); final {
			return r
		}
	}
	return n.askOn(ctx, &s, v.ownersOf(s.shard), first)
}

// askHeirs asks those who are about to own a key what they hold of it, where
// nobody answers who does.
//
//  1. All owners but one leave, and others join. 2. What is written comes to
//     these as well, and the last owner dies. 3. Before that is known, somebody
//     looks for a key.
//
// One of them may have missed a write that another has, so all have to answer.
// What none of them has another owner may have had.
func (n *Node) askHeirs(ctx context.Context, s *search, v *view) result {
	heirs := v.heirsOf(s.shard)
	if len(heirs) == 0 {
		return result{err: errNoOwner}
	}
	r, floor, all := n.lookAt(ctx, s, heirs)
	if !all || !r.found || floor.Compare(r.entry.order.w) > 0 {
		return result{err: errNoOwner}
	}
	return r
}

// lookAt asks members what they hold of a key. It returns the latest of that,
// the highest of the floors that stand for what the others forgot, and whether
// all answered.
func (n *Node) lookAt(ctx context.Context, s *search, members []Member) (r result, floor Version, all bool) {
	held, errs := make([]got, len(members)), make([]error, len(members))
	var wait sync.WaitGroup
	for i, m := range members {
		if m.Incarnation != n.incarnation {
			wait.Go(func() {
				ctx, told, end := brief(ctx, coOwnersTime)
				defer end()
				held[i], errs[i] = n.callGet(ctx, m, s.sp, s.key, getLookup, false, told)
			})
		} else if held[i].entry, held[i].held = n.store.peek(s.sp, s.key); !held[i].held {
			held[i].floor = n.store.standing(s.sp, s.key).order.w
		}
	}
	wait.Wait()
	all = true
	for i, g := range held {
		all = all && (errs[i] == nil || isGone(errs[i]))
		if floor = later(floor, g.floor); g.held && g.entry.order.compare(r.entry.order) > 0 {
			r = resultOf(g.entry)
		}
	}
	return r, floor, all
}

// askOn goes on where an opening did not end the matter.
func (n *Node) askOn(ctx context.Context, s *search, owners []Member, opened opening) result {
	self := slices.IndexFunc(owners, func(m Member) bool { return m.Incarnation == n.incarnation })
	if self < 0 {
		return n.askThese(ctx, s.sp, s.key, s.mode(), false, owners, &opened)
	}
	// This node is an owner, and has nothing: those before it are asked.
	r := n.askThese(ctx, s.sp, s.key, s.mode(), false, owners[:self], &opened)
	if !errors.Is(r.err, errNoOwner) {
		return r
	}
	if !s.load {
		return result{}
	}
	if s.sp.canLoad() {
		return n.loadHere(ctx, s.sp, s.key, nil)
	}
	return r
}

// An opening is a request to an owner of a key that the asker makes by itself.
// Most reads end with it; a question goes on where they do not.
type opening struct {
	r       *peer       // who was asked; nil: nobody
	beside  bool        // it was not the first owner, and was asked for what it holds only
	pending mux.Pending // the request, when it takes its time
	get     getRequest  // what it asks
	got     got         // the answer, else
	err     error       // or why there is none
	refused error       // why it was not even sent
}

// requests are buffers for requests. What is in one was copied when the
// request was handed over.
var requests = sync.Pool{New: func() any { return new([]byte) }}

// ask asks an owner of a key, by its number in the table, if that is within
// reach.
func (n *Node) ask(ctx context.Context, s *search, v *view, owner uint16, mode uint8) (o opening) {
	incarnation := v.current.member(int(owner)).Incarnation
	r := n.peers.find(incarnation)
	if incarnation == n.incarnation || r == nil || r.health.silent.Load() || r.isStuck() {
		return o
	}
	conn := r.calls.live.Load()
	if conn == nil {
		return o
	}
	if err := n.peers.enter(ctx, r, opGet); err != nil {
		if err != errTurnedAway {
			o.refused = err
		}
		return o
	}
	o.r = r
	g := getRequest{mode: mode, canLoad: mode == getLoad && s.sp.canLoad(), cache: s.sp.name, key: s.key}
	buffer := requests.Get().(*[]byte)
	*buffer = g.append((*buffer)[:0])
	req := mux.Request{Op: opGet, Body: *buffer}
	req.Fields.Clock, req.Fields.Digest = n.hlc.read(), v.digest
	s.sp.count.peerLoads.Add(1)
	r.health.asked.Add(1)
	reply, pending, err := conn.Try(ctx, req, r.health.patience())
	requests.Put(buffer)
	if !pending.IsZero() {
		o.pending, o.get = pending, g
		return o
	}
	defer n.peers.leave(r)
	if o.err = err; err == nil {
		n.peers.answered(r, opGet, &reply)
		o.got, o.err = n.takeGot(ctx, r, g, &reply, nil)
	}
	if o.err != nil && ctx.Err() == nil {
		s.sp.count.peerErrors.Add(1)
	}
	return o
}

// takeGot reads an answer to opGet, or gets it where large ones are to be had,
// which told, if not nil, hears.
func (n *Node) takeGot(ctx context.Context, r *peer, g getRequest, reply *mux.Reply, told func(mux.Reply)) (got, error) {
	if reply.Code != replyBulk {
		return n.readGot(r.incarnation, reply)
	}
	req := mux.Request{Op: opGet, Body: g.append(nil)}
	n.peers.stamp(&req)
	large, err := n.peers.callBulk(ctx, r, req, told)
	if err != nil {
		return got{}, err
	}
	return n.readGot(r.incarnation, &large)
}

// result returns what the key's read ends with, if it does.
func (o *opening) result() (r result, final bool) {
	switch {
	case o.refused != nil:
		return result{err: o.refused}, true
	case o.r == nil || !o.pending.IsZero() || o.err != nil || o.got.notOwner != nil:
		return result{}, false
	case o.got.held:
		return resultOf(o.got.entry), true
	default:
		return result{}, true
	}
}

// abandon ends the request if it is still under way.
func (o *opening) abandon(n *Node) {
	if o != nil && !o.pending.IsZero() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		o.pending.Wait(ended, nil)
		n.peers.leave(o.r)
	}
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

	sent   time.Time // when the first member was asked
	asking []asking
}

// asking is a request to one member.
type asking struct {
	place  int
	cancel context.CancelFunc // ends it
	worked bool               // the member said that it is at it
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
// (a hedge, if there is one left; much longer, in any case), and one that
// stays silent makes the next one be asked in its place. first, which may be
// nil, is a request that one of the members got already. The error is
// errNoOwner when nobody answered.
func (n *Node) askThese(ctx context.Context, sp *space, key string, mode uint8, asked bool, members []Member, first *opening) (r result) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	q := &question{n: n, sp: sp, key: key, mode: mode, asked: asked,
		answers: make(chan answer, 4*maxCopies), told: make(chan interim, 4), sent: time.Now()}
	defer func() { q.leave(ctx) }()
	q.add(members)
	q.begin(ctx, first)
	patience, stuckAfter := q.patience()
	elapsed := time.Since(q.sent)
	hedge := time.NewTimer(patience - elapsed)
	defer hedge.Stop()
	stuck := time.NewTimer(stuckAfter - elapsed)
	defer stuck.Stop()
	quiet := time.NewTimer(max(silence, stuckAfter) - elapsed)
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
			q.works(t.place)
			hedge.Stop() // somebody is at it
			stuck.Stop()
			quiet.Stop()
			if t.reply.Code == progressLend {
				owner := q.members[t.place].Member
				n.spawn(func(life context.Context) { n.loadLent(life, ctx, sp, key, t.reply.Body, owner) })
			}
		case <-hedge.C:
			q.hedge(ctx)
		case <-stuck.C:
			q.doubt(ctx)
		case <-quiet.C:
			last := q.members[q.next-1].Member
			if rest := n.peers.silenceLeft(last); rest > 0 {
				quiet.Reset(rest)
				continue
			}
			n.peers.suspect(last)
			if q.next == len(q.members) {
				return result{err: nobody(ctx)}
			}
			q.askNext(ctx)
			quiet.Reset(silence)
		case <-ctx.Done():
			return result{err: q.whyEnded(ctx)}
		}
	}
	return result{err: nobody(ctx)}
}

// nobody returns the error of a question that nobody answered.
func nobody(ctx context.Context) error {
	if isOver(ctx) {
		return context.DeadlineExceeded
	}
	return errNoOwner
}

// isOver reports whether ctx's time is over. Members may see that before it
// does.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ok && time.Until(deadline) <= 0
}

// begin asks the first member, or goes on with the request that it got.
func (q *question) begin(ctx context.Context, first *opening) {
	place := -1
	if first != nil && first.r != nil {
		place = slices.IndexFunc(q.members, func(c candidate) bool { return c.Incarnation == first.r.incarnation })
	}
	if place < 0 {
		first.abandon(q.n)
		q.askNext(ctx)
		if q.next > 0 {
			if r := q.n.peers.find(q.members[0].Incarnation); r != nil && r.isStuck() {
				q.peekNext(ctx)
			}
		}
		return
	}
	if first.beside {
		q.goOnBeside(ctx, place, first)
		return
	}
	c := q.members[place]
	q.members = slices.Insert(slices.Delete(q.members, place, place+1), 0, c)
	q.next, q.peeked = 1, 1
	if first.pending.IsZero() {
		q.open++
		q.answers <- answer{first.got, first.err, q.mode, 0}
		return
	}
	q.sent = first.pending.Began()
	q.goOn(ctx, 0, q.mode, first)
}

// goOn waits for the answer to a request that a member got already.
func (q *question) goOn(ctx context.Context, place int, mode uint8, first *opening) {
	q.spawn(ctx, place, mode, func(ctx context.Context, told func(mux.Reply)) (got, error) {
		defer q.n.peers.leave(first.r)
		reply, err := first.pending.Wait(ctx, told)
		if err != nil {
			return got{}, err
		}
		q.n.peers.answered(first.r, opGet, &reply)
		return q.n.takeGot(ctx, first.r, first.get, &reply, told)
	})
}

// goOnBeside asks the first member while another one, which was asked only for
// what it holds, takes longer than usual. Where there is no hedge left it is
// given some more time.
func (q *question) goOnBeside(ctx context.Context, place int, first *opening) {
	r := first.r
	_, most := r.health.bounds()
	rest := most - time.Since(first.pending.Began())
	q.goOn(ctx, place, getLookup, first)
	if r.health.mayHedge() {
		q.n.hedges.Add(1)
	} else {
		wait := time.NewTimer(rest)
		defer wait.Stop()
		select {
		case a := <-q.answers:
			q.answers <- a // for askThese
			if a.err == nil && a.got.held {
				return
			}
		case <-wait.C:
			r.foundStuck(first.pending.Began())
		case <-ctx.Done():
			return
		}
	}
	q.sent = time.Now()
	q.askNext(ctx)
	q.peeked = len(q.members)
}

// patience is how long the first member may take before it is slower than
// usual, and before it is much slower.
func (q *question) patience() (usual, stuck time.Duration) {
	if q.next == 0 {
		return silence, silence
	}
	if r := q.n.peers.find(q.members[0].Incarnation); r != nil {
		return r.health.bounds()
	}
	return firstPatience, leastSilence
}

// hedge asks another member for what it holds because the first takes longer
// than usual, if that is not so too often.
func (q *question) hedge(ctx context.Context) {
	r := q.n.peers.find(q.members[0].Incarnation)
	if r == nil || q.peeked == len(q.members) {
		return
	}
	if r.health.mayHedge() {
		q.n.hedges.Add(1)
		q.peekNext(ctx)
	}
}

// doubt does so in any case when nothing at all comes from the first member.
func (q *question) doubt(ctx context.Context) {
	r := q.n.peers.find(q.members[0].Incarnation)
	if r != nil && r.foundStuck(q.sent) && q.peeked == q.next {
		q.peekNext(ctx)
	}
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
		q.ask(ctx, q.peeked, getLookup)
		q.peeked++
	}
}

func (q *question) ask(ctx context.Context, place int, mode uint8) {
	m, asked := q.members[place].Member, q.askedBefore(place)
	asks := max(mode, getStored) // not getLookup: what it answers is served
	q.spawn(ctx, place, mode, func(ctx context.Context, told func(mux.Reply)) (got, error) {
		q.sp.count.peerLoads.Add(1)
		return q.n.callGet(ctx, m, q.sp, q.key, asks, asked, told)
	})
}

// spawn runs a request to a member. It ends with the question, or soon after.
func (q *question) spawn(ctx context.Context, place int, mode uint8, run func(ctx context.Context, told func(mux.Reply)) (got, error)) {
	request, cancel := detached(ctx)
	var told func(mux.Reply)
	if mode != getLookup {
		told = func(r mux.Reply) {
			select {
			case q.told <- interim{place, r}:
			default:
			}
		}
	}
	q.open++
	q.asking = append(q.asking, asking{place: place, cancel: cancel})
	if !q.n.spawn(func(context.Context) {
		defer cancel()
		got, err := run(request, told)
		if err != nil && ctx.Err() == nil {
			q.sp.count.peerErrors.Add(1)
		}
		q.answers <- answer{got, err, mode, place}
	}) {
		cancel()
		q.answers <- answer{err: ErrClosed, mode: mode, place: place}
	}
}

// detached returns a context with ctx's values and deadline that does not end
// with it.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if ctx = context.WithoutCancel(ctx); ok {
		return context.WithDeadline(ctx, deadline)
	}
	return context.WithCancel(ctx)
}

// works notes that a member said that it is at it.
func (q *question) works(place int) {
	for i := range q.asking {
		if q.asking[i].place == place {
			q.asking[i].worked = true
		}
	}
}

// leave ends the requests under way: at once where the asker left, somebody
// works on it, or no answer is to be expected; else a little later.
func (q *question) leave(ctx context.Context) {
	for _, a := range q.asking {
		r := q.n.peers.find(q.members[a.place].Incarnation)
		if ctx.Err() != nil || a.worked || r == nil || r.isStuck() && r.gate.inside() > fairCalls {
			a.cancel()
		} else {
			time.AfterFunc(lateAnswer, a.cancel)
		}
	}
}

// whyEnded returns the error of a question whose asker leaves: ctx's, and what
// kept a request from being sent.
func (q *question) whyEnded(ctx context.Context) error {
	q.leave(ctx)
	why := ctx.Err()
	for ; q.open > 0; q.open-- {
		if a := <-q.answers; errors.Is(a.err, mux.ErrNotSent) && errors.Is(a.err, ErrUnavailable) {
			why = a.err
		}
	}
	return why
}

// judge decides what an answer means. final is false when others have to be
// heard.
func (q *question) judge(ctx context.Context, a answer) (r result, final bool) {
	var answered *answeredError
	switch {
	case errors.As(a.err, &answered) && a.mode != getLookup && !errors.Is(a.err, ErrUnavailable):
		if isOver(ctx) {
			return result{err: context.DeadlineExceeded}, true // which is what it says, too
		}
		return result{err: answered.err}, true
	case isTooLarge(a.err):
		return result{err: finalError(q.members[a.place].Member, a.err)}, true // and so it is at every owner
	case a.err != nil:
		if a.mode != getLookup && a.place == q.next-1 {
			q.askNext(ctx)
		}
	case a.got.held && a.got.entry.there():
		return resultOf(a.got.entry), true
	case a.mode == getLookup:
		// A hedge that found nothing proves nothing.
	case contains(a.got.notOwner, q.n.incarnation):
		return q.answerSelf(ctx, a.got.notOwner)
	case a.got.notOwner != nil:
		q.follow(ctx, a.got.notOwner)
	default:
		return result{entry: a.got.entry}, true
	}
	return result{}, false
}

// answerSelf looks here: another member, who left or sees a later view, says
// that this node is an owner already. final is false when it does not hold the
// key, and others have to be heard.
func (q *question) answerSelf(ctx context.Context, owners []Member) (r result, final bool) {
	if shard := shardOf(q.sp.keyspace, q.key); q.n.view.Load().holds(q.n.incarnation, shard) && q.n.handoff.filled(shard) {
		if e, ok := q.n.store.get(q.sp, q.key); ok && e.flags&flagTombstone == 0 {
			return resultOf(e), true
		}
		if owners[0].Incarnation == q.n.incarnation {
			return q.n.findAsPrimary(ctx, q.sp, q.key, q.mode == getLoad && q.sp.canLoad()), true
		}
	}
	q.follow(ctx, owners)
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
