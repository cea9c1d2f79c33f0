package peercache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// loadsAtOnce bounds the loads that one call for many keys runs at a time.
const loadsAtOnce = 64

// findMany returns what the cluster holds of keys, with one request to each
// owner. Keys that no owner was asked for in vain are asked for one by one.
func (n *Node) findMany(ctx context.Context, sp *space, keys []string, load bool) map[string]result {
	results := make(map[string]result, len(keys))
	if n.life.Err() != nil {
		for _, key := range keys {
			results[key] = result{err: ErrClosed}
		}
		return results
	}
	n.pauses.look()
	v := n.view.Load()
	var own, single []string
	var groups []*keyGroup
	for _, key := range keys {
		owners := v.ownersOf(shardOf(sp.keyspace, key))
		i := slices.IndexFunc(owners, func(m Member) bool { return m.Incarnation == n.incarnation })
		if i >= 0 && !n.handoff.filled(shardOf(sp.keyspace, key)) {
			single = append(single, key) // it has to be compared with the other owners
			continue
		}
		if i >= 0 {
			if e, ok := n.store.get(sp, key); ok && e.flags&flagTombstone == 0 {
				sp.count.hits.Add(1)
				results[key] = resultOf(e)
				continue
			}
		}
		switch {
		case i == 0:
			own = append(own, key)
		case len(owners) == 0 || !n.peers.healthy(owners[0]):
			single = append(single, key)
		default:
			j := slices.IndexFunc(groups, func(g *keyGroup) bool { return g.owner.Incarnation == owners[0].Incarnation })
			if j < 0 {
				j = len(groups)
				groups = append(groups, &keyGroup{owner: owners[0]})
			}
			groups[j].keys = append(groups[j].keys, key)
		}
	}

	var mu sync.Mutex
	var wait sync.WaitGroup
	take := func(found map[string]result) {
		mu.Lock()
		defer mu.Unlock()
		for key, r := range found {
			results[key] = r
		}
	}
	if len(own) > 0 {
		wait.Go(func() { take(n.findOwn(ctx, sp, own, load)) })
	}
	for _, g := range groups {
		wait.Go(func() {
			found, rest := n.askMany(ctx, sp, g, load)
			take(found)
			mu.Lock()
			single = append(single, rest...)
			mu.Unlock()
		})
	}
	wait.Wait()
	take(n.findEach(ctx, sp, single, load))
	return results
}

type keyGroup struct {
	owner Member
	keys  []string
}

// findEach asks for keys one by one, many at a time.
func (n *Node) findEach(ctx context.Context, sp *space, keys []string, load bool) map[string]result {
	results := make(map[string]result, len(keys))
	var mu sync.Mutex
	var wait sync.WaitGroup
	limit := make(chan struct{}, loadsAtOnce)
	for _, key := range keys {
		limit <- struct{}{}
		wait.Go(func() {
			defer func() { <-limit }()
			r := n.find(ctx, sp, key, load)
			mu.Lock()
			defer mu.Unlock()
			results[key] = r
		})
	}
	wait.Wait()
	return results
}

// findOwn answers for keys whose first owner this node is and of which it
// holds nothing.
func (n *Node) findOwn(ctx context.Context, sp *space, keys []string, load bool) map[string]result {
	if f := sp.face.Load(); load && f != nil && f.loadMany != nil {
		return n.loadTogether(ctx, sp, keys)
	}
	return n.findEach(ctx, sp, keys, load)
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

// askMany asks one owner for keys. rest are those that have to be asked for
// one by one: the owner did not answer, does not own them, or cannot load
// them.
func (n *Node) askMany(ctx context.Context, sp *space, g *keyGroup, load bool) (found map[string]result, rest []string) {
	found = make(map[string]result, len(g.keys))
	keys := g.keys
	for len(keys) > 0 {
		size, count := 0, 0
		for ; count < len(keys) && count < maxBatchItems && size < maxBatchBytes; count++ {
			size += len(keys[count]) + 5
		}
		answered, left := n.askManyOnce(ctx, sp, g.owner, keys[:count], load, found)
		rest = append(rest, left...)
		keys = keys[count:]
		if !answered {
			return found, append(rest, keys...)
		}
	}
	return found, rest
}

func (n *Node) askManyOnce(ctx context.Context, sp *space, owner Member, keys []string, load bool, found map[string]result) (answered bool, rest []string) {
	b := wire.AppendBool(nil, load)
	b = wire.AppendString(b, sp.name)
	b = wire.AppendUvarint(b, uint64(len(keys)))
	for _, key := range keys {
		b = wire.AppendString(b, key)
	}
	sp.count.peerLoads.Add(int64(len(keys)))
	// The owner says at once that it is at it; only silence ends the wait.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := newSilence(cancel)
	defer quiet.stop()
	reply, err := n.peers.call(ctx, owner, mux.Request{Op: opGetMany, Body: b}, func(mux.Reply) { quiet.stop() })
	if err != nil || reply.Code != replyOK {
		sp.count.peerErrors.Add(int64(len(keys)))
		if quiet.struck() {
			n.peers.suspect(owner)
		}
		return false, keys
	}
	r := wire.NewReader(reply.Body)
	t := n.timer(owner.Incarnation)
	for _, key := range keys {
		switch r.Byte() {
		case replyAbsent:
			found[key] = result{}
		case replyEntry:
			found[key] = resultOf(t.readEntry(&r))
		case replyError:
			found[key] = result{err: readError(&r)}
		default:
			rest = append(rest, key)
		}
	}
	if r.End() != nil {
		return false, keys
	}
	return true, rest
}

// serveGetMany answers a peer that asks for several keys.
func (n *Node) serveGetMany(ctx context.Context, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	r := wire.NewReader(req.Body)
	load, cache := r.Bool(), r.String(maxCacheName)
	keys := make([]string, r.Count(maxBatchItems, 1))
	for i := range keys {
		keys[i] = r.String(maxKeyBytes)
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	sp, err := n.store.space(cache)
	if err != nil {
		return errorReply(err)
	}
	sp.count.serverRequests.Add(1)
	progress(mux.Reply{Code: progressLoading})

	v := n.view.Load()
	results := make(map[string]result, len(keys))
	skipped := make(map[string]bool)
	var missing []string
	for _, key := range keys {
		shard := shardOf(sp.keyspace, key)
		if !n.handoff.filled(shard) {
			skipped[key] = true // it has to be compared with the other owners
		} else if e, ok := n.store.get(sp, key); ok && e.flags&flagTombstone == 0 {
			results[key] = resultOf(e)
		} else if v.place(n.incarnation, shard) == 0 && (!load || sp.canLoad()) {
			missing = append(missing, key)
		} else {
			skipped[key] = true
		}
	}
	for key, r := range n.findOwn(ctx, sp, missing, load) {
		results[key] = r
	}
	var body []byte
	t := n.timer(0)
	for _, key := range keys {
		r := results[key]
		switch {
		case skipped[key] || len(body) > maxBatchBytes:
			body = wire.AppendByte(body, replyNotOwner) // to be asked for by itself
		case r.err != nil:
			body = appendError(wire.AppendByte(body, replyError), r.err)
		case r.found || r.entry.flags != 0:
			body = t.appendEntry(wire.AppendByte(body, replyEntry), &r.entry)
		default:
			body = wire.AppendByte(body, replyAbsent)
		}
	}
	return mux.Reply{Body: body}
}
