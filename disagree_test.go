package peercache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDisagreementsAreActedOnWhenTheyLast(t *testing.T) {
	var d disagreements
	old, later := &view{serial: 3}, &view{serial: 4}
	require.False(t, d.due(old, 1, 0), "gossip may be on its way")
	require.False(t, d.due(old, 1, disagreeTime-1))
	require.False(t, d.due(old, 2, disagreeTime), "that is another member")
	require.True(t, d.due(old, 1, disagreeTime))
	require.False(t, d.due(old, 1, disagreeTime+time.Millisecond), "it was acted on just now")
	require.True(t, d.due(old, 1, 2*disagreeTime))
	require.False(t, d.due(later, 1, 3*disagreeTime), "the view has changed since")
}
