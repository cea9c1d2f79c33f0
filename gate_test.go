package peercache

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Never are more inside than may be, nobody waits for nothing, and who came
// first goes in first.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate{most: 3}
		var inside, entered atomic.Int64
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%7)*5*time.Second)
				defer cancel()
				if err := g.enter(ctx); err != nil {
					require.ErrorIs(t, err, context.DeadlineExceeded)
					return
				}
				entered.Add(1)
				if inside.Add(1) > 3 {
					t.Error("too many")
				}
				time.Sleep(time.Second)
				inside.Add(-1)
				g.leave()
			})
			synctest.Wait()
		}
		wg.Wait()
		require.Zero(t, g.inside())
		require.Zero(t, g.wait.Load())
		require.GreaterOrEqual(t, entered.Load(), int64(3*20))

		for range 3 {
			require.NoError(t, g.enter(t.Context()))
		}
		var order []int
		for i := range 3 {
			wg.Go(func() {
				if g.enter(t.Context()) == nil {
					order = append(order, i)
				}
			})
			synctest.Wait()
		}
		for range 2 {
			g.leave()
			synctest.Wait()
		}
		g.turnAway()
		wg.Wait()
		require.Equal(t, []int{0, 1}, order)
		require.EqualValues(t, 3, g.inside())
		g.force()
		require.EqualValues(t, 4, g.inside())
		g.leave()
		require.False(t, g.try())
		g.leave()
		require.True(t, g.try())
	})
}

// The patience with a peer is what one request in fifty takes longer than.
func TestPatience(t *testing.T) {
	var h health
	for i := range 50_000 {
		d := 20 * time.Millisecond
		if i%25 == 0 { // one in 25
			d = 200 * time.Millisecond
		}
		h.observe(d)
	}
	require.Greater(t, h.patience(), 150*time.Millisecond)
	for i := range 50_000 {
		d := 20 * time.Millisecond
		if i%100 == 0 { // one in 100
			d = 200 * time.Millisecond
		}
		h.observe(d)
	}
	require.Less(t, h.patience(), 30*time.Millisecond)
	for range 50_000 {
		h.observe(time.Microsecond)
	}
	require.Equal(t, leastPatience, h.patience())
	for range 1000 {
		h.observe(time.Hour)
	}
	require.Equal(t, mostPatience, h.patience())
}

// Hedges are at most their share of the requests, and not many more after a
// time with none.
func TestHedgesAreSavedUp(t *testing.T) {
	var h health
	most := func() (n int) {
		for h.mayHedge() {
			n++
		}
		return n
	}
	require.LessOrEqual(t, most(), 1)
	h.asked.Add(10 * hedgeShare)
	require.LessOrEqual(t, most(), 11)
	h.asked.Add(1_000_000)
	require.LessOrEqual(t, most(), hedgeBurst+1)
	hedges := 0
	for range 100_000 {
		h.asked.Add(1)
		hedges += most()
	}
	require.LessOrEqual(t, hedges, 100_000/hedgeShare)
}
