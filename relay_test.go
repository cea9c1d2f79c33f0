package peercache

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

func TestRelayedMembersRoundTrip(t *testing.T) {
	var members []announcement
	for i := range 2000 {
		a := greatest()
		a.Addr, a.Incarnation = fmt.Sprintf("host-%d:7600", i), uint64(i)<<40
		members = append(members, a)
		if i == 0 || i == 1 || i == 1999 {
			back, err := decodeMembers(encodeMembers(members))
			require.NoError(t, err)
			require.Equal(t, members, back)
		}
	}
	none, err := decodeMembers(encodeMembers(nil))
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestRelayedMembersThatAreRefused(t *testing.T) {
	a := greatest()
	one := encodeMembers([]announcement{a})
	for is, b := range map[string][]byte{
		"nothing":            {},
		"more than there is": append(wire.AppendUvarint(nil, 2), one[1:]...),
		"too many":           append(wire.AppendUvarint(nil, maxRelayed+1), one[1:]...),
		"2^63":               append(wire.AppendUvarint(nil, 1<<63), one[1:]...),
		"less than there is": append(wire.AppendUvarint(nil, 0), one[1:]...),
		"cut short":          one[:len(one)-1],
		"bytes too many":     append(append([]byte(nil), one...), 0),
		"a bad one":          wire.AppendBytes(wire.AppendUint64(wire.AppendUvarint(nil, 1), 7), []byte{announcementVersion}),
	} {
		_, err := decodeMembers(b)
		require.Error(t, err, is)
	}
}

func FuzzRelayedMembers(f *testing.F) {
	a := greatest()
	f.Add(encodeMembers(nil))
	f.Add(encodeMembers([]announcement{a}))
	f.Add(encodeMembers([]announcement{a, a}))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := decodeMembers(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, len(members), len(b)/9)
		again, err := decodeMembers(encodeMembers(members))
		require.NoError(t, err)
		require.Equal(t, members, again)
	})
}
