package peercache

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOldPacketsAreNotBelieved(t *testing.T) {
	var age packetAge
	at := func(sent, arrived time.Duration) bool {
		packet, ok := age.fresh(arrived, datePacket(sent, []byte("news")))
		require.Equal(t, "news", string(packet))
		return ok
	}
	const apart = 10 * time.Hour // the sender's clock began so much earlier
	require.True(t, at(apart, 5*time.Second))
	require.True(t, at(apart+time.Second, 6*time.Second+time.Millisecond))
	require.True(t, at(apart+2*time.Second, 7*time.Second+maxPacketAge))
	require.False(t, at(apart+2*time.Second, 7*time.Second+maxPacketAge+1), "it waited somewhere")
	require.False(t, at(apart+3*time.Second, 5*time.Minute))
	require.True(t, at(apart+5*time.Minute, 5*time.Minute+5*time.Second), "what is sent now is news again")
	_, ok := age.fresh(0, []byte("short"))
	require.False(t, ok)
}
