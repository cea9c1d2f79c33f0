package peercache

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// 1. A node joins. 2. Others do, and all owners die. 3. What the node was to hold
// goes to the others by the new tables, who would give it nothing of that, so it
// must not wait for it.
func TestJoinersWhoseOwnersDied(t *testing.T) {
	n, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	defer n.Close()
	member := func(incarnation uint64, state MemberState) announcement {
		return announcement{Member: Member{Addr: fmt.Sprint(incarnation), Incarnation: incarnation, State: state, Weight: 1}, copies: 2, algorithm: ringAlgorithm}
	}
	self := n.incarnation
	h := newHandoff(n)
	var before *view
	see := func(members ...announcement) *view {
		v := newView(members, before, time.Now())
		h.follow(before, v)
		before = v
		return v
	}
	requireFills := func(v *view) {
		t.Helper()
		for shard := range shardCount {
			require.Equal(t, v.holds(self, shard), h.fillingOf(shard) != nil, shard)
		}
	}
	see(member(self, MemberJoining))
	see(member(self-1, MemberJoining), member(self, MemberJoining))
	require.Zero(t, h.unfilledCount(), "nobody owns anything yet")
	requireFills(see(member(self-1, MemberActive), member(self, MemberJoining)))
	require.Equal(t, shardCount, h.unfilledCount())
	requireFills(see(member(self, MemberJoining), member(self+1, MemberJoining), member(self+2, MemberJoining)))
	require.Less(t, h.unfilledCount(), shardCount)
}
