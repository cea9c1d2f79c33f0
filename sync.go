package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/lru"
)

// A holder that lacks something of a shard asks another one for it, page by
// page: a joiner, one that takes over from a leaver or from the dead, one that
// was paused or cut off, and one that missed a write. It tells what it has, as
// a list of fingerprints, and gets what differs: so a copy that was broken off
// goes on where it was, and a second source sends what the first did not have.
// Versions decide what wins, never who sent it.

const (
	syncShards  = 256      // in one request at most
	syncHave    = 1 << 15  // fingerprints in one request, unless one shard has more: a small part of what a page brings
	mostHave    = 1 << 20  // of one shard, half of what a request can carry; beyond it what is had travels again
	maxSyncHave = 1 << 22  // of one shard that are read
	syncBytes   = 2 << 20  // of entries in one reply, unless one entry alone is larger
	maxSyncRest = 64 << 20 // in one reply beside two values
)

// A shardHave is one shard in a request, and what the asker has of it.
type shardHave struct {
	shard int
	have  []uint64 // fingerprints
}

// fingerprint names an entry and its version.
func fingerprint(e *lru.Entry) uint64 {
	o := orderOf(e.Version)
	h := e.Hash
	for _, x := range [...]uint64{o.w.time, o.w.incarnation, o.v.time, o.v.incarnation} {
		h = mix64(h ^ x)
	}
	return h
}

// A shardFetch is what came of one shard from one source.
type shardFetch struct {
	marks []mark   // how far the source was before it sent anything
	ahead bool     // the source had applied all that this node has
	gc    Version  // the source's floor, after it sent everything
	had   []uint64 // fingerprints of what this node had when it asked
	lacks []uint64 // of that, what the source did not have
	sent  []uint64 // what the source sent
}

// holds returns the fingerprints of all that the source has.
func (f *shardFetch) holds() map[uint64]bool {
	holds := make(map[uint64]bool, len(f.had)+len(f.sent))
	for _, h := range f.had {
		holds[h] = true
	}
	for _, l := range f.lacks {
		delete(holds, l)
	}
	for _, s := range f.sent {
		holds[s] = true
	}
	return holds
}

// fetchFrom copies shards from one source, the hot entries of all first, and
// calls given for each that the source has given wholly, or has nothing for, or,
// if it is gone, will never give.
func (h *handoff) fetchFrom(ctx context.Context, source Member, shards []int, given func(int, *shardFetch)) {
	shards, err := h.compared(ctx, source, shards, given)
	for _, hot := range []bool{true, false} {
		for rest := shards; len(rest) > 0 && err == nil; {
			var under map[int]*shardFetch
			var done int
			if under, done, err = h.fetchBatch(ctx, source, rest, hot); err != nil || done == 0 {
				break // with no error the source sees another table yet
			}
			if !hot {
				for _, shard := range rest[:done] {
					if f, bad := h.faultOf(source.Incarnation, shard); !bad || f.final {
						given(shard, under[shard])
					}
				}
			}
			rest = rest[done:]
		}
	}
	if isGone(err) {
		for _, shard := range shards {
			given(shard, nil)
		}
	}
}

// compared asks a source which shards it has more of, as far as this node was
// only away, and returns those and the others. A source that does not see yet
// that this node holds a shard says nothing about what comes next.
func (h *handoff) compared(ctx context.Context, source Member, shards []int, given func(int, *shardFetch)) (rest []int, err error) {
	var absent []int
	for _, shard := range shards {
		if f := h.fillingOf(shard); f != nil && f.absent {
			absent = append(absent, shard)
		} else {
			rest = append(rest, shard)
		}
	}
	for len(absent) > 0 {
		part := absent[:min(len(absent), maxCompared)]
		absent = absent[len(part):]
		how := make([]shardMarks, len(part))
		for i, shard := range part {
			how[i] = shardMarks{shard, h.n.vectors.marks(shard)}
		}
		verdicts, err := h.n.callCompare(ctx, source, how)
		if err != nil {
			return slices.Concat(rest, part, absent), err
		}
		for i, verdict := range verdicts {
			if verdict&(iLack|notYours) == 0 {
				given(part[i], nil)
			} else {
				rest = append(rest, part[i])
			}
		}
	}
	return rest, nil
}

// fetchBatch copies the first of some shards, and returns what came of those
// that have begun and how many of them are complete or cannot be had. A page
// that fails for what is on it is asked for again with its first shard alone, so
// that no shard holds up the others.
func (h *handoff) fetchBatch(ctx context.Context, source Member, shards []int, hot bool) (under map[int]*shardFetch, done int, err error) {
	var after uint64
	under = make(map[int]*shardFetch)
	for most := min(len(shards), syncShards); done < most; {
		part := shards[done:most]
		if bad := slices.IndexFunc(part, func(shard int) bool { _, bad := h.faultOf(source.Incarnation, shard); return bad }); bad == 0 {
			delete(under, part[0])
			done++
			continue
		} else if bad > 0 {
			part = part[:bad]
		}
		page, err := h.fetchPage(ctx, source, part, after, hot, under)
		if len(part) > 1 && (isTooLarge(err) || isBroken(err)) {
			part = part[:1]
			page, err = h.fetchPage(ctx, source, part, after, hot, under)
		}
		if isTooLarge(err) || isBroken(err) {
			h.failed(source, part[0], err)
			delete(under, part[0])
			done++
			after = 0
			continue
		}
		if err != nil || page.refused {
			return under, done, err
		}
		done += page.done
		after = page.after
	}
	return under, done, nil
}

// A syncPage is a part of what a source holds of some shards.
type syncPage struct {
	refused bool   // the source does not see this node as an owner yet
	done    int    // how many of the shards are complete with this page
	after   uint64 // of the next shard, the hash where to go on
}

func (h *handoff) fetchPage(ctx context.Context, source Member, shards []int, after uint64, hot bool, under map[int]*shardFetch) (p syncPage, err error) {
	n := h.n
	var asked []shardHave
	for size := 0; len(asked) < len(shards) && size < syncHave; {
		shard := shards[len(asked)]
		asked = append(asked, shardHave{shard, n.store.fingerprints(shard)})
		size += len(asked[len(asked)-1].have)
	}
	reply, err := n.peers.callWithin(ctx, syncTimeout, source, mux.Request{Op: opSync, Body: encodeSync(asked, after, hot)})
	if err != nil {
		return p, err
	}
	if reply.Code == replyNotOwner {
		return syncPage{refused: true}, nil
	}
	if reply.Code == replyMalformed {
		return p, fmt.Errorf("%w: peer answers: %s", errSyncPage, replyText(reply.Code))
	}
	if reply.Code != replyOK {
		return p, replyFailure(reply)
	}
	h.received.Add(int64(len(reply.Body)))
	body, err := inflate(reply.Body, n.maxBody())
	if err != nil {
		return p, err
	}
	if p, err = n.readSync(body, source.Incarnation, asked, under); err == nil && p.done == 0 && p.after <= after {
		err = fmt.Errorf("%w: it does not go on", errSyncPage)
	}
	return p, err
}

// fingerprints lists what is held of a shard.
func (s *store) fingerprints(shard int) (have []uint64) {
	for it := s.lru.Iterate(uint16(shard)); it.Next() && len(have) < mostHave; {
		e := it.Entry()
		have = append(have, fingerprint(&e))
	}
	return have
}

func encodeSync(asked []shardHave, after uint64, hot bool) []byte {
	size := 16
	for _, s := range asked {
		size += 8 + 8*len(s.have)
	}
	b := wire.AppendUint64(make([]byte, 0, size), after)
	b = wire.AppendBool(b, hot)
	b = wire.AppendUvarint(b, uint64(len(asked)))
	for _, s := range asked {
		b = wire.AppendUint16(b, uint16(s.shard))
		b = wire.AppendUvarint(b, uint64(len(s.have)))
		for _, f := range s.have {
			b = wire.AppendUint64(b, f)
		}
	}
	return b
}

func decodeSync(body []byte) (asked []shardHave, after uint64, hot bool, err error) {
	r := wire.NewReader(body)
	after, hot = r.Uint64(), r.Bool()
	asked = make([]shardHave, r.Count(syncShards, 3))
	for i := range asked {
		asked[i].shard = readShard(&r)
		asked[i].have = make([]uint64, r.Count(maxSyncHave, 8))
		for j := range asked[i].have {
			asked[i].have[j] = r.Uint64()
		}
	}
	return asked, after, hot, r.End()
}

func readShard(r *wire.Reader) int {
	shard := int(r.Uint16())
	if shard >= shardCount {
		r.Fail("shard")
		return 0
	}
	return shard
}

// serveSync gives a peer what it lacks of shards that it owns, tombstones and
// floors included. The peer must be an owner in this node's view: from then on
// what is written here is sent to it as well, so that nothing falls between the
// copy and the writes.
func (n *Node) serveSync(ctx context.Context, from mux.Identity, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	asked, after, hot, err := decodeSync(req.Body)
	if err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	v := n.view.Load()
	for _, s := range asked {
		if !v.holds(from.Incarnation, s.shard) {
			return mux.Reply{Code: replyNotOwner}
		}
	}
	done, next := 0, uint64(0)
	t := n.timer(0)
	var to Member
	if m, ok := v.find(from.Incarnation); ok {
		to = m.Member
	}
	var records []byte
	for _, s := range asked {
		var fits bool
		if records, next, fits = n.appendShard(records, t, &s, after, hot, &to); next != 0 || !fits {
			break
		}
		after = 0
		if !hot {
			n.handoff.copied(s.shard)
		}
		if done++; len(records) >= syncBytes {
			break
		}
	}
	head := wire.AppendUvarint(nil, uint64(done))
	body := deflate(append(wire.AppendUint64(head, next), records...))
	n.handoff.sent.Add(int64(len(body)))
	n.handoff.sending.Add(1)
	n.handoff.pace.wait(ctx, len(body), n.handoff.pace.busy(n.serving.Load(), n.store.served()), func() {
		progress(mux.Reply{Code: progressLoading})
	})
	return mux.Reply{Body: body, Free: func() { n.handoff.sending.Add(-1) }}
}

// Records of a page. The numbers are fixed for ever.
const (
	syncHead    uint8 = iota + 1 // a shard begins: how far its source is
	syncEntry                    // an entry of it
	syncTail                     // its floors, and what the source lacks
	syncOmitted                  // an entry of it without its value, which is too large
)

func appendMarks(b []byte, marks []mark) []byte {
	b = wire.AppendUvarint(b, uint64(len(marks)))
	for _, m := range marks {
		b = wire.AppendUint64(b, m.stamper)
		b = wire.AppendUvarint(b, m.upTo)
		b = wire.AppendUvarint(b, uint64(len(m.beyond)))
		for _, n := range m.beyond {
			b = wire.AppendUvarint(b, n.first)
			b = wire.AppendUvarint(b, n.last-n.first)
		}
	}
	return b
}

func readMarks(r *wire.Reader) []mark {
	marks := make([]mark, r.Count(maxStampers, 10))
	for i := range marks {
		m := &marks[i]
		m.stamper, m.upTo = r.Uint64(), r.Uvarint()
		for range r.Count(maxSpans, 2) {
			first, more := r.Uvarint(), r.Uvarint()
			if first+more < first {
				r.Fail("run of writes")
			}
			m.add(span{first, first + more})
		}
	}
	return marks
}

func (s *store) appendFloors(b []byte, shard int) []byte {
	f := s.floors[shard].Load()
	if f == nil {
		f = new(floors)
	}
	b = appendVersion(b, f.gc)
	b = wire.AppendUvarint(b, uint64(len(f.clear)))
	for space, floor := range f.clear {
		b = wire.AppendString(b, s.spaceOf(space).name)
		b = appendVersion(b, floor)
	}
	return b
}

// readSync takes a page in.
func (n *Node) readSync(body []byte, source uint64, asked []shardHave, under map[int]*shardFetch) (p syncPage, err error) {
	r := wire.NewReader(body)
	p.done, p.after = int(r.Uvarint()), r.Uint64()
	if p.done > len(asked) || p.done == 0 && p.after == 0 {
		r.Fail("page of a sync")
	}
	t := n.timer(source)
	var now *shardFetch
	for r.Err() == nil && r.Len() > 0 {
		switch kind := r.Byte(); {
		case kind == syncHead:
			shard, marks := readShard(&r), readMarks(&r)
			if i := slices.IndexFunc(asked, func(a shardHave) bool { return a.shard == shard }); i >= 0 {
				now = n.beginFetch(under, asked[i], marks)
			}
		case kind == syncEntry && now != nil:
			n.readSyncEntry(&r, t, now)
		case kind == syncOmitted && now != nil:
			n.readSyncOmitted(&r, t, now)
		case kind == syncTail && now != nil:
			n.readSyncTail(&r, under)
		default:
			r.Fail("record of a sync")
		}
	}
	if r.Err() != nil {
		return p, fmt.Errorf("%w: %w", errSyncPage, r.Err())
	}
	return p, nil
}

// beginFetch notes how far a source was when it began to send a shard.
func (n *Node) beginFetch(under map[int]*shardFetch, asked shardHave, marks []mark) *shardFetch {
	f := under[asked.shard]
	if f == nil {
		f = &shardFetch{marks: marks, had: asked.have}
		under[asked.shard] = f
	}
	f.ahead = covers(marks, n.vectors.marks(asked.shard))
	return f
}

func (n *Node) readSyncEntry(r *wire.Reader, t timer, f *shardFetch) {
	name, key, heat := r.String(maxCacheName), r.String(maxKeyBytes), r.Byte()
	e := t.readEntry(r)
	if r.Err() != nil {
		return
	}
	sp, err := n.store.space(name)
	if err != nil {
		return
	}
	if stamp := e.order.latest(); !n.hlc.believes(stamp) {
		n.clockFault(n.stamperOf(e.order), stamp) // says so; the value counts all the same
	}
	e.heat = min(heat, lru.MaxHeat)
	from := fromOther
	if f.ahead {
		from = fromAhead
	}
	if _, _, err := n.store.apply(sp, key, e, from); errors.Is(err, ErrTooLarge) {
		n.store.forgo(sp, key, e.order) // larger than this node keeps: as good as evicted
	}
	f.sent = append(f.sent, fingerprint(&lru.Entry{Key: sp.key(key), Meta: e.meta()}))
}

// readSyncOmitted takes note of an entry that is too large to be sent: for this
// node it is as good as evicted.
func (n *Node) readSyncOmitted(r *wire.Reader, t timer, f *shardFetch) {
	name, key := r.String(maxCacheName), r.String(maxKeyBytes)
	e := t.readEntry(r)
	if r.Err() != nil {
		return
	}
	sp, err := n.store.space(name)
	if err != nil || !n.hlc.accept(e.order.latest()) {
		return
	}
	n.store.forgo(sp, key, e.order)
	f.sent = append(f.sent, fingerprint(&lru.Entry{Key: sp.key(key), Meta: e.meta()}))
}

// readSyncTail ends a page of a shard. A floor that no clock bears out is left out.
func (n *Node) readSyncTail(r *wire.Reader, under map[int]*shardFetch) {
	shard, gc := readShard(r), readVersion(r)
	clear := make(map[string]Version)
	for range r.Count(maxSpaces, 17) {
		name := r.String(maxCacheName)
		clear[name] = readVersion(r)
	}
	lacks := make([]uint64, r.Count(maxSyncHave, 8))
	for i := range lacks {
		lacks[i] = r.Uint64()
	}
	f := under[shard]
	if r.Err() != nil || f == nil {
		r.Fail("end of a shard that has not begun")
		return
	}
	if n.hlc.accept(gc.time) {
		f.gc = later(f.gc, gc)
	}
	f.lacks = append(f.lacks, lacks...)
	for name, floor := range clear {
		if sp, err := n.store.space(name); err == nil && n.hlc.accept(floor.time) {
			n.clearHere(sp, floor, []int{shard})
		}
	}
}

// adoptShard ends the filling of a shard, of which all sources gave what they
// had: this node is now as far as they were.
//
// What this node has and a source has not, at or below the source's floor, may
// have been deleted there and the deletion forgotten. It is dropped; unless this
// node has applied all that the source had, or another source has it that had
// applied all that.
func (n *Node) adoptShard(shard int, heard []*shardFetch) {
	mine := n.vectors.marks(shard)
	doubtful := slices.ContainsFunc(heard, func(f *shardFetch) bool { return !f.gc.IsZero() && !covers(mine, f.marks) })
	if doubtful {
		holds := make([]map[uint64]bool, len(heard))
		for i, f := range heard {
			holds[i] = f.holds()
		}
		n.store.dropIf(shard, func(e *lru.Entry) bool {
			print, w := fingerprint(e), orderOf(e.Version).w
			for i, f := range heard {
				if w.Compare(f.gc) > 0 || covers(mine, f.marks) || holds[i][print] {
					continue
				}
				vouched := false
				for j, g := range heard {
					vouched = vouched || holds[j][print] && covers(g.marks, f.marks)
				}
				if !vouched {
					return true
				}
			}
			return false
		})
	}
	for _, f := range heard {
		n.store.raiseGC(shard, f.gc)
		n.vectors.adopt(shard, f.marks)
	}
}

// dropIf drops the entries of a shard that pick names.
func (s *store) dropIf(shard int, pick func(e *lru.Entry) bool) {
	var dropped []lru.Key
	s.lru.RemoveIf(uint16(shard), func(e lru.Entry) bool {
		if !pick(&e) {
			return false
		}
		dropped = append(dropped, lru.Key{Hash: e.Hash, Space: e.Space, Name: string(e.Bytes)})
		return true
	})
	for _, k := range dropped {
		s.changed(s.spaceOf(k.Space), k.Name, false)
	}
}

var (
	errSyncPage = fmt.Errorf("%w: page of a sync is malformed", ErrUnavailable)
	errSyncSize = fmt.Errorf("%w: page of a sync is too large", ErrUnavailable)
)
