package peercache

import (
	"slices"
	"time"
)

// Who owns what, as a view sees it. The owners of a shard are those of the
// current table; its holders are those of the target table as well, who get
// writes and are not read from yet.

// ownersOf lists the owners of a shard, the primary first.
func (v *view) ownersOf(shard int) []Member {
	return v.appendMembers(make([]Member, 0, v.copies), v.current, shard)
}

// holdersOf lists the members that hold a shard, or are about to.
func (v *view) holdersOf(shard int) []Member {
	holders := v.ownersOf(shard)
	if v.target != v.current {
		holders = v.appendMembers(holders, v.target, shard)
	}
	return holders
}

// heirsOf lists the members that are about to own a shard and do not yet.
func (v *view) heirsOf(shard int) []Member {
	return v.holdersOf(shard)[len(v.ownersOf(shard)):]
}

// formerGrace is how long writes still go to those who owned a shard in the
// tables before: members that have not seen the present one yet read from them.
const formerGrace = time.Second

// A formerTable is a current table of earlier views.
type formerTable struct {
	*table
	until time.Time
}

// formerTables lists what was current before a view and within the grace.
func formerTables(before *view, current *table, now time.Time) (former []formerTable) {
	if before == nil {
		return nil
	}
	for _, f := range before.former {
		if f.until.After(now) && f.table != current {
			former = append(former, f)
		}
	}
	if before.current != current {
		former = append(former, formerTable{before.current, now.Add(formerGrace)})
	}
	return former
}

// A taker is a member that writes to a shard are sent to: to keep them, or
// because it may still be read from though it is a former owner.
type taker struct {
	Member
	former bool
}

func keepers(members []Member) []taker {
	takers := make([]taker, len(members))
	for i, m := range members {
		takers[i].Member = m
	}
	return takers
}

// takersOf lists who gets the writes to a shard: its holders, and for a while
// those who owned it before.
func (v *view) takersOf(shard int, now time.Time) []taker {
	members := v.holdersOf(shard)
	holders := len(members)
	for _, f := range v.former {
		if f.until.After(now) {
			members = v.appendMembers(members, f.table, shard)
		}
	}
	takers := keepers(members)
	for i := holders; i < len(takers); i++ {
		takers[i].former = true
	}
	return takers
}

// lately lists the members of the current table and of the former ones.
func (v *view) lately(now time.Time) []uint64 {
	tables := []*table{v.current}
	for _, f := range v.former {
		if f.until.After(now) {
			tables = append(tables, f.table)
		}
	}
	var members []uint64
	for _, t := range tables {
		for i := range t.members {
			if m := t.member(i).Incarnation; !slices.Contains(members, m) {
				members = append(members, m)
			}
		}
	}
	return members
}

// without returns the current table as it would be if a member died.
func (v *view) without(incarnation uint64) *table {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t := v.lacking[incarnation]; t != nil {
		return t
	}
	members := slices.DeleteFunc(slices.Clone(v.current.members), func(m ringMember) bool { return m.Incarnation == incarnation })
	t := newTable(v.algorithm, v.copies, members)
	if v.lacking == nil {
		v.lacking = make(map[uint64]*table)
	}
	v.lacking[incarnation] = t
	return t
}

// appendMembers appends the owners of a shard in a table who are not in the
// list yet.
func (v *view) appendMembers(list []Member, t *table, shard int) []Member {
	for _, i := range t.owners(shard) {
		incarnation := t.member(int(i)).Incarnation
		known := false
		for _, m := range list {
			known = known || m.Incarnation == incarnation
		}
		if known {
			continue
		}
		// Members and tables are sorted alike, and mostly are the same.
		if int(i) < len(v.members) && v.members[i].Incarnation == incarnation {
			list = append(list, v.members[i].Member)
		} else if m, ok := v.find(incarnation); ok {
			list = append(list, m.Member)
		}
	}
	return list
}

// alone reports whether a member is the only one.
func (v *view) alone(incarnation uint64) bool {
	return len(v.members) == 1 && v.members[0].Incarnation == incarnation
}

// owns reports whether a member is an owner of a shard.
func (v *view) owns(incarnation uint64, shard int) bool {
	return v.current.owns(incarnation, shard)
}

// holds reports whether writes to a shard go to a member.
func (v *view) holds(incarnation uint64, shard int) bool {
	return v.current.owns(incarnation, shard) || v.target != v.current && v.target.owns(incarnation, shard)
}

// place returns which owner of a shard a member is: 0 the primary, -1 none.
func (v *view) place(incarnation uint64, shard int) int {
	return v.current.position(incarnation, shard)
}

// holderIncarnations is holdersOf without the members.
func (v *view) holderIncarnations(shard int) []uint64 {
	var holders []uint64
	for _, t := range []*table{v.current, v.target} {
		for _, i := range t.owners(shard) {
			if incarnation := t.member(int(i)).Incarnation; !slices.Contains(holders, incarnation) {
				holders = append(holders, incarnation)
			}
		}
		if v.target == v.current {
			break
		}
	}
	return holders
}
