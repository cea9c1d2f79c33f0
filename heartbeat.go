package peercache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// A MemberState says what part a member has in the cluster.
type MemberState uint8

// The states of a member, in the order in which it goes through them.
const (
	// MemberJoining: it is listed and gets writes, and is not read from yet.
	MemberJoining MemberState = iota + 1
	// MemberActive: it owns its share of the shards.
	MemberActive
	// MemberLeaving: it hands its shards over and will be gone.
	MemberLeaving
)

// String returns "joining", "active" or "leaving".
func (s MemberState) String() string {
	switch s {
	case MemberJoining:
		return "joining"
	case MemberActive:
		return "active"
	case MemberLeaving:
		return "leaving"
	default:
		return fmt.Sprintf("MemberState(%d)", uint8(s))
	}
}

// A Member is one process of the cluster, as one node sees it.
type Member struct {
	Name        string      // Config.Name; not unique
	Addr        string      // Config.Advertise: host:port
	Zone        string      // Config.Zone
	Weight      int         // Config.Weight
	State       MemberState // as it says itself
	Incarnation uint64      // unique, drawn at Start; the greater of two is the later start, if they are 8 ms apart
}

// String returns the member's name and address.
func (m Member) String() string { return m.Name + " (" + m.Addr + ")" }

// announcement is what a member tells all others about itself through
// gossip.
type announcement struct {
	Member
	copies    int
	algorithm uint8
	outside   bool // its clock is too far from the others': it stays out of the tables
	maxValue  int  // the greatest size of a value that it keeps; 0: it does not say
}

// An announcement travels as a version byte and a list of fields, each a tag,
// a length byte and that many bytes, at most maxAnnouncement in all. Unknown
// tags are skipped, so that fields can be added without a new version.
const (
	announcementVersion = 1
	maxAnnouncement     = 400

	tagAddr      = 1
	tagName      = 2
	tagZone      = 3
	tagWeight    = 4
	tagCopies    = 5
	tagAlgorithm = 6
	tagState     = 7
	tagClockOff  = 8
	tagAddrEnd   = 9 // what of the address does not fit in tagAddr
	tagMaxValue  = 10
)

func (a *announcement) encode() []byte {
	b := []byte{announcementVersion}
	text := func(tag byte, s string) {
		if s != "" {
			b = append(append(b, tag, byte(len(s))), s...)
		}
	}
	number := func(tag byte, v uint64) {
		v8 := binary.AppendUvarint(nil, v)
		b = append(append(b, tag, byte(len(v8))), v8...)
	}
	first := min(len(a.Addr), math.MaxUint8)
	text(tagAddr, a.Addr[:first])
	text(tagAddrEnd, a.Addr[first:])
	text(tagName, a.Name)
	text(tagZone, a.Zone)
	number(tagWeight, uint64(a.Weight))
	number(tagCopies, uint64(a.copies))
	number(tagAlgorithm, uint64(a.algorithm))
	number(tagState, uint64(a.State))
	if a.outside {
		number(tagClockOff, 1)
	}
	if a.maxValue != 0 {
		number(tagMaxValue, uint64(a.maxValue))
	}
	return b
}

var errBadAnnouncement = errors.New("peercache: announcement of a member is malformed")

// decodeAnnouncement reads what the member of this incarnation announced. It
// checks every value against the bounds of Config: a member must not be able
// to break another's table.
func decodeAnnouncement(incarnation uint64, b []byte) (announcement, error) {
	a := announcement{Member: Member{Incarnation: incarnation, Weight: defaultWeight}, copies: 1, algorithm: 1}
	if len(b) == 0 || len(b) > maxAnnouncement || b[0] != announcementVersion {
		return a, errBadAnnouncement
	}
	for b = b[1:]; len(b) > 0; {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return a, errBadAnnouncement
		}
		tag, value := b[0], b[2:2+int(b[1])]
		b = b[2+len(value):]
		if err := a.decodeField(tag, value); err != nil {
			return a, err
		}
	}
	if a.Addr == "" || checkHostPort(a.Addr) != nil || a.State < MemberJoining || a.State > MemberLeaving {
		return a, errBadAnnouncement
	}
	return a, nil
}

func (a *announcement) decodeField(tag byte, value []byte) error {
	text := func(most int) (string, error) {
		if len(value) > most {
			return "", errBadAnnouncement
		}
		return string(value), nil
	}
	number := func(least, most uint64) (uint64, error) {
		v, n := binary.Uvarint(value)
		if n != len(value) || n == 0 || v < least || v > most {
			return 0, errBadAnnouncement
		}
		return v, nil
	}
	var err error
	var v uint64
	switch tag {
	case tagAddr:
		a.Addr, err = text(maxAddrBytes)
	case tagAddrEnd:
		var end string
		end, err = text(maxAddrBytes - len(a.Addr))
		a.Addr += end
	case tagName:
		a.Name, err = text(maxNameBytes)
	case tagZone:
		a.Zone, err = text(maxZoneBytes)
	case tagWeight:
		v, err = number(1, maxWeight)
		a.Weight = int(v)
	case tagCopies:
		v, err = number(1, maxCopies)
		a.copies = int(v)
	case tagAlgorithm:
		v, err = number(1, 255)
		a.algorithm = uint8(v)
	case tagState:
		v, err = number(uint64(MemberJoining), uint64(MemberLeaving))
		a.State = MemberState(v)
	case tagClockOff:
		v, err = number(0, 1)
		a.outside = v == 1
	case tagMaxValue:
		v, err = number(1, maxValueLimit)
		a.maxValue = int(v)
	}
	return err
}

// A view is the cluster as one node sees it at one moment. It is immutable;
// the node's loop swaps in a new one when something changed.
type view struct {
	members []announcement // by incarnation
	current *table         // over the active and leaving members: who is read from
	target  *table         // over the active and joining ones: who will be
	former  []formerTable  // who was read from until a moment ago
	digest  uint64         // of current and target
	serial  uint64         // counts the views of this node
	since   time.Time

	met      []uint64      // who was on another side of a split
	metUntil time.Duration // by when they have seen this side, too

	algorithm uint8 // that the tables are made by
	copies    int   // of each shard

	leastValue, mostValue int // the greatest sizes of a value that all members keep, and that any does

	mu      sync.Mutex
	lacking map[uint64]*table // guarded by mu; current without one of its members, made when wanted
}

// newView makes the view over the live members. before, the view so far, may
// be nil; when nothing changed it is returned.
func newView(members []announcement, before *view, now time.Time) *view {
	members = withoutReplaced(members)
	if before != nil && slices.Equal(members, before.members) {
		return before
	}
	v := &view{members: members, since: now, leastValue: maxValueLimit}

	algorithm, copies := uint8(ringAlgorithm), 1
	var current, target []ringMember
	for _, m := range members {
		v.leastValue, v.mostValue = min(v.leastValue, m.keeps()), max(v.mostValue, m.keeps())
		algorithm, copies = min(algorithm, m.algorithm), max(copies, m.copies)
		if m.outside {
			continue
		}
		r := ringMember{Name: m.Name, Incarnation: m.Incarnation, Weight: m.Weight, Zone: m.Zone, State: m.State}
		if m.State != MemberJoining {
			current = append(current, r)
		}
		if m.State != MemberLeaving {
			target = append(target, r)
		}
	}
	v.algorithm, v.copies = algorithm, copies
	if before != nil {
		v.serial = before.serial + 1
	}
	v.current = tableLike(before, algorithm, copies, current)
	v.target = v.current
	if !slices.Equal(current, target) {
		v.target = tableLike(before, algorithm, copies, target)
	}
	v.former = formerTables(before, v.current, now)
	var both [16]byte
	binary.BigEndian.PutUint64(both[:8], v.current.digest())
	binary.BigEndian.PutUint64(both[8:], v.target.digest())
	v.digest = xxhash.Sum64(both[:])
	return v
}

// tableLike builds a table, or returns the one of the view before that is over
// the same members: most views differ in one of the two tables only.
func tableLike(before *view, algorithm uint8, copies int, members []ringMember) *table {
	if before != nil {
		for _, t := range []*table{before.current, before.target} {
			if t.madeOf(algorithm, copies, members) {
				return t
			}
		}
	}
	return newTable(algorithm, copies, members)
}

// withoutReplaced sorts members by incarnation, leaves out all but the first
// of an incarnation, and those whose address a later incarnation announces: one
// address has one process, so the earlier one is gone, whether or not the
// heartbeats have noticed yet.
func withoutReplaced(members []announcement) []announcement {
	slices.SortStableFunc(members, func(a, b announcement) int {
		switch {
		case a.Incarnation < b.Incarnation:
			return -1
		case a.Incarnation > b.Incarnation:
			return 1
		default:
			return 0
		}
	})
	members = slices.CompactFunc(members, func(a, b announcement) bool { return a.Incarnation == b.Incarnation })
	latest := make(map[string]uint64, len(members))
	for _, m := range members {
		latest[m.Addr] = m.Incarnation
	}
	return slices.DeleteFunc(members, func(m announcement) bool { return latest[m.Addr] != m.Incarnation })
}

// lost lists the members of the view before, if there was one, that are in this
// one no more and had not said that they would leave.
func (v *view) lost(before *view) []uint64 {
	if before == nil {
		return nil
	}
	var lost []uint64
	for _, m := range before.members {
		if _, ok := v.find(m.Incarnation); !ok && m.State != MemberLeaving {
			lost = append(lost, m.Incarnation)
		}
	}
	return lost
}

// find returns the member of an incarnation.
func (v *view) find(incarnation uint64) (announcement, bool) {
	i, ok := slices.BinarySearchFunc(v.members, incarnation, func(m announcement, inc uint64) int {
		switch {
		case m.Incarnation < inc:
			return -1
		case m.Incarnation > inc:
			return 1
		default:
			return 0
		}
	})
	if !ok {
		return announcement{}, false
	}
	return v.members[i], true
}
