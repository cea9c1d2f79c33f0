package peercache

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// greatest is an announcement in which all is as long as it may be beside an
// address of full length.
func greatest() announcement {
	return announcement{
		Member: Member{
			Name: strings.Repeat("n", maxNameBytes-78), Zone: strings.Repeat("z", maxZoneBytes),
			Addr:   strings.Repeat("a", maxAddrBytes-len(":65535")) + ":65535",
			Weight: maxWeight, State: MemberLeaving, Incarnation: math.MaxUint64,
		},
		copies: maxCopies, algorithm: 255, outside: true,
	}
}

func TestAnnouncementRoundTrip(t *testing.T) {
	for _, a := range []announcement{
		{Member: Member{Name: "n", Addr: "10.0.0.1:7600", Zone: "z", Weight: 1, State: MemberJoining, Incarnation: 1}, copies: 1, algorithm: 1},
		{Member: Member{Addr: "[2001:db8::1]:1", Weight: 7, State: MemberActive}, copies: 2, algorithm: 2},
		{Member: Member{Name: "ä\x00\xff", Addr: "a:1", Weight: 300, State: MemberLeaving, Incarnation: math.MaxUint64}, copies: 16, algorithm: 1, outside: true},
		greatest(),
	} {
		b := a.encode()
		require.LessOrEqual(t, len(b), maxAnnouncement)
		back, err := decodeAnnouncement(a.Incarnation, b)
		require.NoError(t, err)
		require.Equal(t, a, back)
	}
}

// field is one field of an announcement as it travels.
func field(tag byte, value ...byte) []byte { return append([]byte{tag, byte(len(value))}, value...) }

func TestAnnouncementsThatAreRefused(t *testing.T) {
	addr, active := field(tagAddr, []byte("a:1")...), field(tagState, byte(MemberActive))
	good := slices.Concat([]byte{announcementVersion}, addr, active)
	_, err := decodeAnnouncement(1, good)
	require.NoError(t, err)

	with := func(more ...byte) []byte { return slices.Concat(good, more) }
	long := func(tag byte, size int) []byte { return field(tag, []byte(strings.Repeat("x", size))...) }
	for is, b := range map[string][]byte{
		"nothing":                    nil,
		"no fields":                  {announcementVersion},
		"another version":            slices.Concat([]byte{2}, addr, active),
		"no address":                 slices.Concat([]byte{announcementVersion}, active),
		"no state":                   slices.Concat([]byte{announcementVersion}, addr),
		"an address that is none":    slices.Concat([]byte{announcementVersion}, field(tagAddr, []byte("a")...), active),
		"an address of two lines":    slices.Concat([]byte{announcementVersion}, field(tagAddr, []byte("a\r\nb:1")...), active),
		"port 0":                     slices.Concat([]byte{announcementVersion}, field(tagAddr, []byte("a:0")...), active),
		"an address too long":        with(slices.Concat(long(tagAddr, 255), long(tagAddrEnd, maxAddrBytes-254))...),
		"an end of no address":       slices.Concat([]byte{announcementVersion}, field(tagAddrEnd, []byte("a")...), active),
		"a name too long":            with(long(tagName, maxNameBytes+1)...),
		"a zone too long":            with(long(tagZone, maxZoneBytes+1)...),
		"weight 0":                   with(field(tagWeight, 0)...),
		"a weight too great":         with(field(tagWeight, 0x81, 0x80, 0x04)...),
		"a weight beyond 64 bits":    with(field(tagWeight, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1)...),
		"no copies":                  with(field(tagCopies, 0)...),
		"too many copies":            with(field(tagCopies, maxCopies+1)...),
		"algorithm 0":                with(field(tagAlgorithm, 0)...),
		"algorithm 256":              with(field(tagAlgorithm, 0x80, 0x02)...),
		"state 0":                    with(field(tagState, 0)...),
		"state 4":                    with(field(tagState, 4)...),
		"a clock neither on nor off": with(field(tagClockOff, 2)...),
		"a number of no bytes":       with(field(tagWeight)...),
		"a number and more":          with(field(tagWeight, 1, 1)...),
		"a tag without a length":     with(tagName),
		"a field cut short":          with(tagName, 5, 'x'),
		"too much of it":             with(slices.Concat(long(99, 250), long(99, 250))...),
	} {
		_, err := decodeAnnouncement(1, b)
		require.ErrorIs(t, err, errBadAnnouncement, is)
	}

	a, err := decodeAnnouncement(1, with(slices.Concat(long(99, 100), field(0), field(255, 1))...))
	require.NoError(t, err, "fields that are not known are skipped")
	require.Equal(t, announcement{Member: Member{Addr: "a:1", Weight: 1, State: MemberActive, Incarnation: 1}, copies: 1, algorithm: 1}, a)
}

func FuzzAnnouncement(f *testing.F) {
	largest := greatest()
	f.Add(largest.encode())
	f.Add([]byte{announcementVersion, tagAddr, 3, 'a', ':', '1', tagState, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnnouncement(7, b)
		if err != nil {
			return
		}
		require.Equal(t, uint64(7), a.Incarnation)
		require.NoError(t, checkHostPort(a.Addr))
		require.LessOrEqual(t, len(a.Name), maxNameBytes)
		require.LessOrEqual(t, len(a.Zone), maxZoneBytes)
		require.True(t, a.Weight >= 1 && a.Weight <= maxWeight)
		require.True(t, a.copies >= 1 && a.copies <= maxCopies)
		require.True(t, a.State >= MemberJoining && a.State <= MemberLeaving)
		require.NotZero(t, a.algorithm)
		back, err := decodeAnnouncement(7, a.encode())
		require.NoError(t, err)
		require.Equal(t, a, back)

		// Whatever it says, a table can be made with it.
		other := announcement{Member: Member{Addr: "b:1", Weight: 1, State: MemberActive, Incarnation: 9}, copies: 2, algorithm: 1}
		v := newView([]announcement{a, other}, nil, time.Time{})
		require.NotZero(t, len(v.current.members)+len(v.target.members))
		for shard := range shardCount {
			require.LessOrEqual(t, len(v.current.owners(shard)), 2)
		}
	})
}

// One address has one process, one incarnation is one member.
func TestViewLeavesOutTheReplacedAndTheDoubled(t *testing.T) {
	member := func(incarnation uint64, addr, name string) announcement {
		return announcement{Member: Member{Name: name, Addr: addr, Weight: 1, State: MemberActive, Incarnation: incarnation}, copies: 2, algorithm: 1}
	}
	v := newView([]announcement{
		member(5, "a:1", "new"), member(3, "a:1", "old"), member(4, "b:1", "first told"), member(4, "c:1", "told again"), member(1, "a:1", "older"),
	}, nil, time.Time{})
	var names []string
	for _, m := range v.members {
		names = append(names, m.Name)
	}
	require.Equal(t, []string{"first told", "new"}, names, "by incarnation")
	require.Len(t, v.current.owners(0), 2)
	_, ok := v.find(3)
	require.False(t, ok)
	m, ok := v.find(5)
	require.True(t, ok)
	require.Equal(t, "new", m.Name)
}

func TestIncarnationsDiffer(t *testing.T) {
	now := time.Now()
	seen := make(map[uint64]bool)
	for range 100 {
		seen[newIncarnation(now)] = true
	}
	require.Len(t, seen, 100, "at the same moment")
	require.Less(t, newIncarnation(now), newIncarnation(now.Add(20*time.Millisecond)), "a later start has a greater one")
	require.Greater(t, newIncarnation(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)), newIncarnation(now))
	for incarnation := range seen {
		back, err := parseIncarnation(gossipName(incarnation))
		require.NoError(t, err)
		require.Equal(t, incarnation, back)
	}
	for _, name := range []string{"", "1", "000000000000000g", "00000000000000001", "+000000000000001", "ABCDEF0000000000"} {
		_, err := parseIncarnation(name)
		require.Error(t, err, name)
	}
}
