package peercache

import (
	"cmp"
	"slices"

	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/lru"
)

// A page of a sync has the entries of some shards, at most syncBytes of them
// unless it is one entry alone. A shard that does not fit is cut by the places of
// its entries, which are hashes of the keys with a seed that only the source
// knows: whatever the keys, no two have one place. An asker says where to go on
// as the source has told it.

// syncPlaces is above every place.
const syncPlaces = 1 << 63

// syncPlace returns the place of an entry, which is not zero.
func (s *store) syncPlace(e *lru.Entry) uint64 { return s.nameOf(e.Space, e.Bytes)%(syncPlaces-1) + 1 }

// A shardCut is what a page has of one shard.
type shardCut struct {
	room    int  // bytes
	one     bool // one entry may be larger than the room
	records []byte
	parts   []cutPart
	limit   uint64 // places from here on are left to other pages; 0: none
}

type cutPart struct {
	place uint64
	size  int
}

// wants reports whether an entry of a place may be on the page.
func (c *shardCut) wants(place uint64) bool { return c.limit == 0 || place < c.limit }

// add takes records with one more entry at their end, and now and then lets go
// of what will not be on the page.
func (c *shardCut) add(place uint64, records []byte) {
	c.parts = append(c.parts, cutPart{place, len(records) - len(c.records)})
	c.records = records
	if len(c.records) > c.room+syncBytes {
		c.cut()
	}
}

// cut keeps the entries of the lowest places, as many as there is room for.
func (c *shardCut) cut() {
	if len(c.records) <= c.room {
		return
	}
	type located struct {
		cutPart
		from int
	}
	all := make([]located, len(c.parts))
	from := 0
	for i, p := range c.parts {
		all[i] = located{p, from}
		from += p.size
	}
	slices.SortFunc(all, func(a, b located) int { return cmp.Compare(a.place, b.place) })
	kept, size := 0, 0
	for kept < len(all) && (size+all[kept].size <= c.room || kept == 0 && c.one) {
		size += all[kept].size
		kept++
	}
	if kept < len(all) {
		c.limit = all[kept].place
	}
	records := make([]byte, 0, size)
	c.parts = c.parts[:0]
	for _, p := range all[:kept] {
		records = append(records, c.records[p.from:p.from+p.size]...)
		c.parts = append(c.parts, p.cutPart)
	}
	c.records = records
}

// appendShard appends to a page what a shard has that the asker has not, from
// the place after on. When that is too much for the page, it appends what is
// below some place, which it returns, and 0 when it appended all. It returns
// false, and the page as it was, when nothing of the shard fits beside what is
// on it.
func (n *Node) appendShard(page []byte, t timer, s *shardHave, after uint64, hot bool, to *Member) (with []byte, next uint64, fits bool) {
	// How far this node is goes first, and its floors last: an entry that
	// comes or goes meanwhile is then sent twice rather than never.
	n.store.purge(s.shard)
	b := wire.AppendByte(page, syncHead)
	b = wire.AppendUint16(b, uint16(s.shard))
	b = appendMarks(b, n.vectors.marks(s.shard))
	have := make(map[uint64]bool, len(s.have)) // false: not met here
	for _, f := range s.have {
		have[f] = false
	}
	c := shardCut{room: syncBytes - len(page), one: len(page) == 0}
	for it := n.store.lru.Iterate(uint16(s.shard)); it.Next(); {
		e := it.Entry()
		f := fingerprint(&e)
		if _, had := have[f]; had {
			have[f] = true
			continue
		}
		place := n.store.syncPlace(&e)
		if hot && e.Heat == 0 || place < after || !c.wants(place) {
			continue // looked at all the same, for what the asker has
		}
		c.add(place, n.appendSynced(c.records, t, &e, f, to))
	}
	c.cut()
	if c.limit != 0 && len(c.parts) == 0 {
		return page, 0, false
	}
	b = append(b, c.records...)
	b = wire.AppendByte(b, syncTail)
	b = wire.AppendUint16(b, uint16(s.shard))
	b = n.store.appendFloors(b, s.shard)
	var lacks []uint64
	if after == 0 && !hot {
		for f, met := range have {
			if !met {
				lacks = append(lacks, f)
			}
		}
	}
	b = wire.AppendUvarint(b, uint64(len(lacks)))
	for _, f := range lacks {
		b = wire.AppendUint64(b, f)
	}
	return b, c.limit, true
}

// appendSynced appends the record of an entry. Of one that is too large for any
// reply, or for what the asker keeps, it says that it is left out.
func (n *Node) appendSynced(b []byte, t timer, e *lru.Entry, print uint64, to *Member) []byte {
	held := entryOf(e.Meta, e.Value)
	name := n.store.spaceOf(e.Space).name
	with := wire.AppendByte(b, syncEntry)
	with = wire.AppendString(with, name)
	with = wire.AppendBytes(with, e.Bytes)
	with = wire.AppendByte(with, e.Heat)
	with = t.appendEntry(with, &held)
	most, v := n.handoff.maxBody()-syncBeside, n.view.Load()
	kept := len(e.Value) <= v.leastValue || len(e.Value) <= v.takes(to.Incarnation)
	if kept && (len(with)-len(b) <= most || len(deflate(with[len(b):])) <= most) {
		return with
	}
	n.handoff.leftOut(print, "cache", name, "key", clipKey(string(e.Bytes)), "bytes", len(e.Value), "to", to.String())
	b = wire.AppendByte(b, syncOmitted)
	b = wire.AppendString(b, name)
	b = wire.AppendBytes(b, e.Bytes)
	return t.appendEntry(b, &entry{order: held.order})
}
