package mux

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTry: a call is handed back when it takes longer than the caller's
// patience or an interim reply comes, and can be waited for.
func TestTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, Options{}, Options{
			Fast: func(req *Request) (Reply, bool) { return Reply{Code: 1}, req.Op == 1 },
			Serve: func(ctx context.Context, req Request, progress func(Reply) bool) Reply {
				if req.Op == 3 {
					progress(Reply{Code: 9})
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
				return Reply{Code: req.Op}
			},
		})
		reply, pending, err := c.Try(t.Context(), Request{Op: 1}, time.Minute)
		require.NoError(t, err)
		require.True(t, pending.IsZero())
		require.Equal(t, uint8(1), reply.Code)

		// Many at once, each with a patience of its own: one timer serves all.
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				patience := time.Duration(1+(i*7)%20) * 20 * time.Millisecond
				began := time.Now()
				_, pending, err := c.Try(t.Context(), Request{Op: 2}, patience)
				require.NoError(t, err)
				require.False(t, pending.IsZero())
				require.Equal(t, began, pending.Began())
				require.Equal(t, patience, time.Since(began))
				reply, err := pending.Wait(t.Context(), nil)
				require.NoError(t, err)
				require.Equal(t, uint8(2), reply.Code)
				require.Equal(t, time.Second, reply.Took)
				require.False(t, reply.Interim)
			})
		}
		wg.Wait()

		began := time.Now()
		_, pending, err = c.Try(t.Context(), Request{Op: 3}, time.Minute)
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
		told := 0
		reply, err = pending.Wait(t.Context(), func(Reply) { told++ })
		require.NoError(t, err)
		require.True(t, reply.Interim)
		require.Equal(t, 1, told)

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		_, pending, err = c.Try(ctx, Request{Op: 2}, time.Minute)
		require.True(t, pending.IsZero())
		requireSent(t, true, err, context.Canceled)

		// What is pending fails with the connection, and the timer with it.
		_, pending, err = c.Try(t.Context(), Request{Op: 2}, time.Millisecond)
		require.NoError(t, err)
		c.Abort(nil)
		_, err = pending.Wait(t.Context(), nil)
		requireSent(t, true, err, ErrClosed)
		_, _, err = c.Try(t.Context(), Request{Op: 2}, time.Millisecond)
		requireSent(t, false, err, ErrClosed)
	})
}
