package peercache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/lru"
)

// loadsAtOnce bounds the loads that one call for many keys runs at a time.
const loadsAtOnce = 64

// findMany returns what the cluster holds of keys, in their order, with one
// request to each owner. Keys that no owner was asked for in vain are asked for
// one by one.
func (n *Node) findMany(ctx context.Context, sp *space, keys []string, load bool) []result {
	results := make([]result, len(keys))
	if n.life.Err() != nil {
		for i := range results {
			results[i].err = ErrClosed
		}
		return results
	}
	n.pauses.look()
	v := n.view.Load()
	var own, primaries, anywhere, single []int
	for i, key := range keys {
		shard := shardOf(sp.keyspace, key)
		place := v.place(n.incarnation, shard)
		if place >= 0 && !n.handoff.filled(shard) {
			single = append(single, i) // it has to be compared with the other owners
			continue
		}
		if place >= 0 {
			if e, ok := n.store.get(sp, key); ok && e.flags&flagTombstone == 0 {
				sp.count.hits.Add(1)
				results[i] = ownResult(e)
				continue
			}
		}
		switch owners := v.current.owners(shard); {
		case v.metLately(shard, n.pauses.glance()):
			single = append(single, i) // more than the owners have to be asked
		case place == 0:
			own = append(own, i)
		case len(owners) == 0:
			single = append(single, i)
		case place < 0 && len(owners) > 1 && sp.readsReplicas():
			anywhere = append(anywhere, i)
		default:
			primaries = append(primaries, i)
		}
	}
	var wait sync.WaitGroup
	if len(own) > 0 {
		wait.Go(func() { n.findOwn(ctx, sp, keys, own, load, results) })
	}
	if len(anywhere) > 0 { // what a replica has not, the primary may have loaded just now
		rest := n.askGroups(ctx, sp, v, keys, anywhere, load, results, func(owners []uint16) uint16 { return owners[n.pick(v, owners)] })
		primaries = append(primaries, rest...)
	}
	rest := n.askGroups(ctx, sp, v, keys, primaries, load, results, func(owners []uint16) uint16 { return owners[0] })
	wait.Wait()
	n.findEach(ctx, sp, keys, append(single, rest...), load, results)
	return results
}

// askGroups asks owners for keys, given by their places, with one request to
// each owner that whom picks. rest are those that have to be asked for otherwise.
func (n *Node) askGroups(ctx context.Context, sp *space, v *view, keys []string, places []int, load bool, results []result, whom func(owners []uint16) uint16) (rest []int) {
	var groups []*keyGroup
	for _, i := range places {
		groups = addToGroup(groups, whom(v.current.owners(shardOf(sp.keyspace, keys[i]))), i)
	}
	groups = slices.DeleteFunc(groups, func(g *keyGroup) bool {
		owner, ok := v.find(v.current.member(int(g.number)).Incarnation)
		if ok && n.peers.healthy(owner.Member) {
			g.owner = owner.Member
			return false
		}
		rest = append(rest, g.places...)
		return true
	})
	var mu sync.Mutex
	var wait sync.WaitGroup
	ask := func(g *keyGroup) {
		left := n.askMany(ctx, sp, g, keys, load, results)
		mu.Lock()
		defer mu.Unlock()
		rest = append(rest, left...)
	}
	for i, g := range groups {
		if i == len(groups)-1 {
			ask(g) // on this goroutine
		} else {
			wait.Go(func() { ask(g) })
		}
	}
	wait.Wait()
	return rest
}

// A keyGroup is keys of one owner, by their place among those asked for.
type keyGroup struct {
	number uint16 // in the table
	owner  Member
	places []int
}

func addToGroup(groups []*keyGroup, number uint16, place int) []*keyGroup {
	for _, g := range groups {
		if g.number == number {
			g.places = append(g.places, place)
			return groups
		}
	}
	return append(groups, &keyGroup{number: number, places: []int{place}})
}

// findEach asks for keys one by one, many at a time.
func (n *Node) findEach(ctx context.Context, sp *space, keys []string, places []int, load bool, results []result) {
	var wait sync.WaitGroup
	limit := make(chan struct{}, loadsAtOnce)
	for _, i := range places {
		limit <- struct{}{}
		wait.Go(func() {
			defer func() { <-limit }()
			results[i] = n.find(ctx, sp, keys[i], load)
		})
	}
	wait.Wait()
}

// findOwn answers for keys whose first owner this node is and of which it
// holds nothing.
func (n *Node) findOwn(ctx context.Context, sp *space, keys []string, places []int, load bool, results []result) {
	if f := sp.face.Load(); !load || f == nil || f.loadMany == nil {
		n.findEach(ctx, sp, keys, places, load, results)
		return
	}
	missing := make([]string, len(places))
	for k, i := range places {
		missing[k] = keys[i]
	}
	loaded := n.loadTogether(ctx, sp, missing)
	for _, i := range places {
		results[i] = loaded[keys[i]]
	}
}

// loadTogether loads keys with one call of LoadMany, but for those that are
// being loaded already.
func (n *Node) loadTogether(ctx context.Context, sp *space, keys []string) map[string]result {
	all := make(map[string]*flight, len(keys))
	mine := make(map[string]*flight)
	for _, key := range keys {
		f := n.flights.join(flightKey{sp.id, key}, func(f *flight) {
			f.base, f.v, f.keep = n.store.base(sp, key), n.hlc.next(), true
		})
		defer n.flights.leave(f)
		all[key] = f
		select {
		case <-f.turn:
			mine[key] = f
		default:
		}
	}
	if len(mine) > 0 && !n.spawn(func(life context.Context) { n.runFlights(life, ctx, sp, mine) }) {
		for _, f := range mine {
			n.flights.end(f, result{err: ErrClosed})
		}
	}
	results := make(map[string]result, len(keys))
	for key, f := range all {
		select {
		case <-f.done:
			results[key] = f.result
		case <-ctx.Done():
			results[key] = result{err: ctx.Err()}
		}
	}
	return results
}

// runFlights runs the loads of several flights with one call.
func (n *Node) runFlights(life, caller context.Context, sp *space, fs map[string]*flight) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	defer cancel()
	stop := context.AfterFunc(life, cancel)
	defer stop()
	var keys []string
	var waiting atomic.Int64 // flights that somebody waits for
	waiting.Store(int64(len(fs)))
	left := func() {
		if waiting.Add(-1) == 0 {
			cancel()
		}
	}
	for _, f := range fs {
		if !f.runs(left) {
			left()
		}
	}
	for key, f := range fs {
		if e, ok := n.store.peek(sp, key); ok && e.flags&flagTombstone == 0 {
			n.flights.end(f, resultOf(e))
		} else if r, ok := n.askCoOwners(ctx, sp, key); ok {
			n.flights.end(f, r)
		} else {
			f.base = later(f.base, n.store.base(sp, key))
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return
	}
	outcomes := n.callLoaderMany(ctx, sp, keys)
	for _, key := range keys {
		r := n.finishLoad(sp, key, fs[key], outcomes[key])
		if r.err != nil && life.Err() != nil {
			r.err = ErrClosed // which is why the load failed
		}
		n.flights.end(fs[key], r)
	}
}

// askMany asks one owner for keys. rest are the places of those that have to
// be asked for one by one: the owner did not answer, does not own them, or
// cannot load them.
func (n *Node) askMany(ctx context.Context, sp *space, g *keyGroup, keys []string, load bool, results []result) (rest []int) {
	places := g.places
	for len(places) > 0 {
		size, count := 0, 0
		for ; count < len(places) && count < maxBatchItems && size < maxBatchBytes; count++ {
			size += len(keys[places[count]]) + 5
		}
		answered, left, later := n.askManyOnce(ctx, sp, g.owner, keys, places[:count], size, load, results)
		rest = append(rest, left...)
		places = places[count:]
		if !answered {
			return append(rest, places...)
		}
		if len(later) == count { // which does not get on like that
			rest = append(rest, later...)
		} else if len(later) > 0 {
			places = slices.Concat(later, places)
		}
	}
	return rest
}

// askManyOnce is askMany with one request. later are the places of keys for which
// there was no room in the reply.
func (n *Node) askManyOnce(ctx context.Context, sp *space, owner Member, keys []string, places []int, size int, load bool, results []result) (answered bool, rest, later []int) {
	b := make([]byte, 0, size+len(sp.name)+16)
	b = wire.AppendBool(b, load)
	b = wire.AppendString(b, sp.name)
	b = wire.AppendUvarint(b, uint64(len(places)))
	for _, i := range places {
		b = wire.AppendString(b, keys[i])
	}
	sp.count.peerLoads.Add(int64(len(places)))
	// The owner says at once if it has to load; only silence ends the wait.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := n.peers.newSilence(owner, travelsAsBulk(len(b)), cancel)
	defer quiet.stop()
	reply, err := n.peers.call(ctx, owner, mux.Request{Op: opGetMany, Body: b}, func(mux.Reply) { quiet.stop() })
	quiet.stop()
	if err != nil || reply.Code != replyOK {
		sp.count.peerErrors.Add(int64(len(places)))
		if quiet.struck() {
			n.peers.suspect(owner)
		}
		return false, places, nil
	}
	r := wire.NewReader(reply.Body)
	t := n.timer(owner.Incarnation)
	for _, i := range places {
		switch r.Byte() {
		case replyAbsent:
			results[i] = result{}
		case replyEntry:
			results[i] = resultOf(t.readEntry(&r))
		case replyError:
			results[i] = result{err: readError(&r)}
		case replyLater:
			later = append(later, i)
		default:
			rest = append(rest, i)
		}
	}
	if r.End() != nil {
		return false, places, nil
	}
	return true, rest, later
}

// An inquiry is one request for several keys as its receiver answers it. What
// it holds is written to body in one go; the rest leaves gaps.
type inquiry struct {
	keys []string
	body []byte // the answers for what is held
	ends []int  // where the answer for each key ends in body
	kind []uint8
	gaps []int // the keys that have to be looked for
}

// What becomes of a key of an inquiry.
const (
	inquiryHeld    uint8 = iota // its answer is in body
	inquiryMissing              // it has to be loaded, or is absent
	inquirySkipped              // it is to be asked for by itself
	inquiryLater                // there is no room for it in one reply with the others
)

// serveGetMany answers a peer that asks for several keys.
func (n *Node) serveGetMany(ctx context.Context, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	r := wire.NewReader(req.Body)
	load, cache := r.Bool(), r.String(maxCacheName)
	q := inquiry{keys: make([]string, r.Count(maxBatchItems, 1))}
	for i := range q.keys {
		q.keys[i] = r.String(maxKeyBytes)
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(cache)
	if err != nil {
		return errorReply(err)
	}
	sp.count.serverRequests.Add(1)
	n.look(sp, &q, !load || sp.canLoad())
	if !q.whole() || len(q.body) > mux.MaxWhole {
		progress(mux.Reply{Code: progressLoading}) // or it takes its time to arrive
	}
	if q.whole() {
		return mux.Reply{Body: q.body}
	}
	results := make([]result, len(q.keys))
	if len(q.gaps) > 0 {
		n.findOwn(ctx, sp, q.keys, q.gaps, load, results)
	}
	return mux.Reply{Body: n.fillIn(&q, results)}
}

// look answers for the keys of an inquiry that this node holds.
func (n *Node) look(sp *space, q *inquiry, able bool) {
	q.ends, q.kind = make([]int, len(q.keys)), make([]uint8, len(q.keys))
	v, t := n.view.Load(), n.timer(0)
	for i, name := range q.keys {
		key := sp.key(name)
		place := v.place(n.incarnation, int(key.Shard))
		good := place >= 0 && n.handoff.filled(int(key.Shard))
		before, large, full := len(q.body), false, false
		if good {
			n.store.lru.View(key, func(value []byte, m lru.Meta) {
				e := entryOf(m, value)
				full = !fits(len(q.body), len(value))
				if large = len(value) > fastValue; !large && !full && e.flags&flagTombstone == 0 {
					q.body = t.appendEntry(wire.AppendByte(q.body, replyEntry), &e)
				}
			})
		}
		if large && !full {
			if e, ok := n.store.get(sp, name); ok && e.flags&flagTombstone == 0 {
				q.body = t.appendEntry(wire.AppendByte(q.body, replyEntry), &e)
			}
		}
		q.ends[i] = len(q.body)
		switch {
		case len(q.body) > before:
			n.store.used(key.Hash)
			if i == 0 { // the others may be as large
				q.body = slices.Grow(q.body, min(len(q.body)*len(q.keys), maxBatchBytes))
			}
		case full:
			q.kind[i] = inquiryLater
		case good && able && place == 0:
			q.kind[i] = inquiryMissing
			q.gaps = append(q.gaps, i)
		default:
			q.kind[i] = inquirySkipped // not owned, or to be compared with other owners
		}
	}
}

// fits reports whether there is room in a reply of so many bytes for a value.
func fits(size, value int) bool { return size == 0 || size+value+64 <= maxBatchBytes }

// whole reports whether body is the answer.
func (q *inquiry) whole() bool {
	return !slices.ContainsFunc(q.kind, func(k uint8) bool { return k != inquiryHeld })
}

// fillIn makes the answer of what is held and what was found for the gaps.
func (n *Node) fillIn(q *inquiry, results []result) []byte {
	var body []byte
	t := n.timer(0)
	from := 0
	for i := range q.keys {
		held := q.body[from:q.ends[i]]
		from = q.ends[i]
		r := &results[i]
		switch {
		case q.kind[i] == inquirySkipped:
			body = wire.AppendByte(body, replyNotOwner)
		case q.kind[i] == inquiryLater || !fits(len(body), max(len(held), len(r.entry.value))):
			body = wire.AppendByte(body, replyLater)
		case q.kind[i] == inquiryHeld:
			body = append(body, held...)
		case r.err != nil:
			body = appendError(wire.AppendByte(body, replyError), r.err)
		case r.found || r.entry.flags != 0:
			body = t.appendEntry(wire.AppendByte(body, replyEntry), &r.entry)
		default:
			body = wire.AppendByte(body, replyAbsent)
		}
	}
	return body
}
