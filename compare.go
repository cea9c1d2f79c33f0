package peercache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

const (
	compareEvery   = 400 * time.Millisecond
	comparePause   = 100 * time.Millisecond // what is on its way has that long to arrive before it counts as missing
	compareTimeout = time.Second
	maxCompared    = 1024 // shards in one request
)

// What the answer to a comparison says of a shard, as the asker sees it. The
// numbers are fixed for ever.
const (
	youLack   uint8 = 1 << iota // who answers lacks something that the asker has
	iLack                       // the asker lacks something
	notHolder                   // who answers does not hold the shard
	notYours                    // who answers does not see that the asker holds it: what is written is not sent to the asker
)

// compares lets the holders of a shard find out who missed a write: whatever
// was lost between them, because a link was cut, a connection refused, a stamper
// died, a caller did not wait or a copy of a load was not sent again, shows as a difference of their vectors. A holder
// tells the others how far it is, of the shards that changed since they last
// agreed; who is behind gets what it lacks from the one who told it.
type compares struct {
	n       *Node
	pending atomic.Int64 // shards, counted once for each other holder that may lack something of them

	mu     sync.Mutex                     // held for a whole round
	agreed map[uint64]*[shardCount]uint32 // guarded by mu; by member, the changes at which it lacked nothing
	done   [shardCount]uint32             // guarded by mu; the changes at which none lacked anything, in this view:
	serial uint64                         // guarded by mu
	total  uint64                         // guarded by mu; of all changes when all of them were agreed on last
}

func newCompares(n *Node) *compares {
	return &compares{n: n, agreed: make(map[uint64]*[shardCount]uint32)}
}

// run compares now and then, and when the view changed, until ctx ends.
func (c *compares) run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := c.n.viewSignal.next()
		c.round(ctx)
		timer := time.NewTimer(compareEvery)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// A comparison is what one member is told in a round.
type comparison struct {
	with    Member
	shards  []shardMarks
	changes []uint32
	lacks   int // of the shards, how many it may lack something of
}

// round compares what changed with those who hold it too.
func (c *compares) round(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := c.n.vectors.total.Load()
	if total == c.total && c.n.view.Load().serial == c.serial {
		return // nothing is new
	}
	comparisons := c.dueLocked()
	if len(comparisons) > 0 {
		sleep(ctx, comparePause)
	}
	var wait sync.WaitGroup
	for _, k := range comparisons {
		agreed := c.agreed[k.with.Incarnation]
		k.lacks = len(k.shards)
		if c.n.peers.healthy(k.with) {
			wait.Go(func() { c.compare(ctx, k, agreed) })
		}
	}
	wait.Wait()
	lacks := 0
	for _, k := range comparisons {
		lacks += k.lacks
		for i, s := range k.shards {
			if c.agreed[k.with.Incarnation][s.shard] != k.changes[i] {
				c.done[s.shard] = k.changes[i] - 1
			}
		}
	}
	c.pending.Store(int64(lacks))
	if lacks == 0 {
		c.total = total
	}
}

// dueLocked lists what is to be compared with whom. It takes all of it for
// done already.
func (c *compares) dueLocked() map[uint64]*comparison {
	v := c.n.view.Load()
	for incarnation := range c.agreed {
		if _, ok := v.find(incarnation); !ok {
			delete(c.agreed, incarnation)
		}
	}
	due := make(map[uint64]*comparison)
	for shard := range shardCount {
		changes := c.n.vectors.changes(shard)
		if changes == c.done[shard] && v.serial == c.serial {
			continue
		}
		c.done[shard] = changes
		if changes == 0 || !v.holds(c.n.incarnation, shard) {
			continue
		}
		how := shardMarks{shard, c.n.vectors.marks(shard)}
		for _, m := range v.holdersOf(shard) {
			if m.Incarnation == c.n.incarnation {
				continue
			}
			if c.agreed[m.Incarnation] == nil {
				c.agreed[m.Incarnation] = new([shardCount]uint32)
			}
			if c.agreed[m.Incarnation][shard] == changes {
				continue
			}
			k := due[m.Incarnation]
			if k == nil {
				k = &comparison{with: m}
				due[m.Incarnation] = k
			}
			k.shards, k.changes = append(k.shards, how), append(k.changes, changes)
		}
	}
	c.serial = v.serial
	return due
}

// compare tells one member how far this node is, and notes what it lacks.
func (c *compares) compare(ctx context.Context, k *comparison, agreed *[shardCount]uint32) {
	var shards []shardMarks
	var changes []uint32
	for i, s := range k.shards {
		if !c.n.underway.has(k.with.Incarnation, s.shard) { // else in another round
			shards, changes = append(shards, s), append(changes, k.changes[i])
		}
	}
	for first := 0; first < len(shards); first += maxCompared {
		part := shards[first:min(first+maxCompared, len(shards))]
		verdicts, err := c.n.callCompare(ctx, k.with, part)
		if err != nil {
			return
		}
		for i, verdict := range verdicts {
			if verdict&(youLack|notHolder) == 0 {
				agreed[part[i].shard] = changes[first+i]
				k.lacks--
			}
		}
	}
}

// catchUp asks all other holders of what this node holds whether it missed
// something, and waits until it has that, or ctx ends.
func (c *compares) catchUp(ctx context.Context) {
	n := c.n
	v := n.view.Load()
	groups := make(map[uint64]*comparison)
	for shard := range shardCount {
		if !v.holds(n.incarnation, shard) {
			continue
		}
		for _, m := range v.holdersOf(shard) {
			if m.Incarnation == n.incarnation {
				continue
			}
			if groups[m.Incarnation] == nil {
				groups[m.Incarnation] = &comparison{with: m}
			}
			g := groups[m.Incarnation]
			g.shards = append(g.shards, shardMarks{shard, n.vectors.marks(shard)})
		}
	}
	var wait sync.WaitGroup
	for _, g := range groups {
		wait.Go(func() {
			for shards := g.shards; len(shards) > 0; {
				part := shards[:min(len(shards), maxCompared)]
				shards = shards[len(part):]
				verdicts, err := n.callCompare(ctx, g.with, part)
				if err != nil {
					return
				}
				var behind []int
				for i, verdict := range verdicts {
					if verdict&(iLack|notHolder) == iLack {
						behind = append(behind, part[i].shard)
					}
				}
				n.handoff.behind(g.with, behind)
			}
		})
	}
	wait.Wait()
	for ctx.Err() == nil {
		changed := n.viewSignal.next()
		if n.handoff.syncingCount() == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// A shardMarks is how far a node is with a shard.
type shardMarks struct {
	shard int
	marks []mark
}

// callCompare tells a member how far this node is with shards, and returns a
// verdict for each.
func (n *Node) callCompare(ctx context.Context, m Member, shards []shardMarks) ([]uint8, error) {
	b := wire.AppendUvarint(nil, uint64(len(shards)))
	for _, s := range shards {
		b = wire.AppendUint16(b, uint16(s.shard))
		b = wire.AppendUint64(b, n.store.clearDigest(s.shard))
		b = appendMarks(b, s.marks)
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	reply, err := n.peers.call(ctx, m, mux.Request{Op: opCompare, Body: b}, nil)
	if err != nil {
		return nil, err
	}
	if reply.Code != replyOK || len(reply.Body) != len(shards) {
		return nil, replyFailure(reply)
	}
	return reply.Body, nil
}

// serveCompare answers a holder that tells how far it is with some shards.
func (n *Node) serveCompare(from mux.Identity, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	count := r.Count(maxCompared, 11)
	v := n.view.Load()
	asker, known := v.find(from.Incarnation)
	verdicts := make([]uint8, 0, count)
	var behind []int
	for range count {
		shard, cleared := readShard(&r), r.Uint64()
		theirs := readMarks(&r)
		if r.Err() != nil {
			break
		}
		verdict := uint8(0)
		if !v.holds(from.Incarnation, shard) {
			verdict |= notYours
		}
		holder := v.holds(n.incarnation, shard)
		if !holder {
			verdict |= notHolder
		}
		if !holder && !n.handoff.has(shard) && n.handoff.state[shard].Load() == shardForeign {
			verdicts = append(verdicts, verdict)
			continue
		}
		mine := n.vectors.marks(shard)
		differ := cleared != n.store.clearDigest(shard) // no telling who is behind
		if holder && (differ || !covers(mine, theirs)) {
			verdict |= youLack
			behind = append(behind, shard)
		}
		if differ || !covers(theirs, mine) {
			verdict |= iLack
		}
		verdicts = append(verdicts, verdict)
	}
	if r.End() != nil {
		return mux.Reply{Code: replyMalformed}
	}
	if known {
		n.handoff.behind(asker.Member, behind)
	}
	return mux.Reply{Body: verdicts}
}
