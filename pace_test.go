package peercache

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaceOfABusyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		require.False(t, p.busy(0, 1_000_000), "that was in all the time before")
		require.True(t, p.busy(busyRequests+1, 1_000_000))
		time.Sleep(time.Second)
		require.True(t, p.busy(0, 1_000_000+busyRate+1))
		time.Sleep(rateTime / 2)
		require.True(t, p.busy(0, 1_000_000+busyRate+1), "it was just now")
		time.Sleep(time.Second)
		require.False(t, p.busy(0, 1_000_000+busyRate+1))

		// What is sent takes its time: four times a quarter of a second's worth.
		began := time.Now()
		for range 5 {
			p.wait(t.Context(), busyPace/4, true, func() {})
		}
		require.Equal(t, time.Second, time.Since(began))
	})
}
