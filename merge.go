package peercache

import (
	"context"
	"errors"
	"slices"
	"time"
)

// When two sides of a split meet, one sees the other first.
//
//  1. A member is cut off, and its keys are written without it. 2. The link
//     heals, and somebody sees it again: it is the first owner, as it was. 3. It
//     does not see the others yet, takes what it holds for good, and is asked.
//
// So for a while those who owned the key before are asked as well, and what is
// the latest counts.

// metLately reports whether an owner of a shard was on another side until a
// moment ago. now is on the clock that counts on in suspend.
func (v *view) metLately(shard int, now time.Duration) bool {
	return now < v.metUntil && slices.ContainsFunc(v.current.owners(shard), func(i uint16) bool {
		return slices.Contains(v.met, v.current.member(int(i)).Incarnation)
	})
}

// meet notes in a view that is not in use yet who was met, beside those whom
// the view before had met.
func (v *view) meet(before *view, met []Member, now time.Duration) {
	if now < before.metUntil {
		v.met, v.metUntil = before.met, before.metUntil
	}
	if len(met) > 0 {
		v.met, v.metUntil = slices.Clone(v.met), now+formerGrace
		for _, m := range met {
			v.met = append(v.met, m.Incarnation)
		}
	}
}

// latest is an answer by the present owners of a key, unless they or those who
// owned it before two sides met hold something later: those are not told of
// what is written through the other side.
func (n *Node) latest(ctx context.Context, s search, v *view, r result) result {
	if r.err != nil && !errors.Is(r.err, errNoOwner) {
		return r
	}
	owners := v.ownersOf(s.shard)
	for _, f := range v.former {
		owners = v.appendMembers(owners, f.table, s.shard)
	}
	found, floor, _ := n.lookAt(ctx, &s, owners)
	if found.entry.order.compare(r.entry.order) <= 0 {
		found = r
	}
	switch gone := floor.Compare(found.entry.order.w) > 0 || found.entry.flags&flagTombstone != 0; {
	case !gone:
		return found
	case !r.found:
		return r
	case s.load && s.sp.canLoad():
		return n.loadAlone(ctx, s.sp, s.key)
	default:
		return result{}
	}
}
