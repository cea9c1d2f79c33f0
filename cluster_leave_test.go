package peercache_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestNodeThatLeavesIsOutOfEveryTableAtOnce(t *testing.T) {
	for _, n := range []int{2, 3, 10} {
		t.Run(fmt.Sprint(n, " nodes"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, n)
				leaver := c.Nodes[n/2]
				others := slices.Concat(c.Nodes[:n/2], c.Nodes[n/2+1:])
				done := make(chan error, 1)
				go func() { done <- leaver.Shutdown(context.Background()) }()
				c.WaitFor("it is in no table", leftKnown, func() bool {
					return !slices.ContainsFunc(others, func(n *peercache.Node) bool { return lists(n, leaver) })
				})
				began := time.Now()
				require.NoError(t, <-done)
				require.Less(t, time.Since(began), time.Second)

				time.Sleep(time.Minute)
				require.Zero(t, c.WaitAgreeAmong(others...), "it does not come back")
			})
		})
	}
}

func TestAllButOneLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 5)
		var leavers sync.WaitGroup
		for _, n := range c.Nodes[1:] {
			leavers.Go(func() { assert.NoError(t, n.Shutdown(context.Background())) })
		}
		leavers.Wait()
		require.LessOrEqual(t, c.WaitAgreeAmong(c.Nodes[0]), leftKnown)
	})
}

func TestShutdownWithEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		began := time.Now()
		require.ErrorIs(t, c.Nodes[1].Shutdown(ctx), context.Canceled)
		require.Less(t, time.Since(began), time.Millisecond)
		require.ErrorIs(t, c.Nodes[1].WaitReady(context.Background()), peercache.ErrClosed)
		waitTables(c, deathKnown, c.Nodes[0], c.Nodes[2])
	})
}

func TestShutdownWhileCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		c.Network.Partition(c.Hosts(0), c.Hosts(1, 2))
		began := time.Now()
		require.NoError(t, c.Nodes[0].Shutdown(context.Background()), "nobody hears it, which is no error")
		require.LessOrEqual(t, time.Since(began), deathKnown+time.Second)
		waitTables(c, deathKnown, c.Nodes[1], c.Nodes[2])

		c.Network.HealAll()
		time.Sleep(time.Minute)
		require.Zero(t, c.WaitAgreeAmong(c.Nodes[1], c.Nodes[2]))
	})
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		c.Network.Partition(c.Hosts(0), c.Hosts(1, 2))
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := c.Nodes[0].Shutdown(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "peercache: shutdown")
		require.WithinDuration(t, began.Add(100*time.Millisecond), time.Now(), time.Millisecond)
	})
}

func TestShutdownAndCloseTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		n := c.Nodes[1]
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() {
				if err := n.Shutdown(context.Background()); err != nil {
					assert.ErrorIs(t, err, peercache.ErrClosed)
				}
			})
			calls.Go(func() { assert.NoError(t, n.Close()) })
		}
		calls.Wait()
		require.NoError(t, n.Shutdown(context.Background()))
		require.NoError(t, n.Close())
		waitTables(c, deathKnown, c.Nodes[0], c.Nodes[2])
	})
}

func TestCloseEndsAShutdownUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		c.Network.Cut(c.Host(0), c.Host(1))
		result := make(chan error, 1)
		go func() { result <- c.Nodes[0].Shutdown(context.Background()) }()
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		require.NoError(t, c.Nodes[0].Close())
		require.Less(t, time.Since(began), time.Millisecond)
		require.ErrorIs(t, <-result, peercache.ErrClosed)
	})
}

func TestAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		n := c.Nodes[0]
		self := n.Self()
		require.NoError(t, n.Close())

		require.ErrorIs(t, n.WaitReady(context.Background()), peercache.ErrClosed)
		require.ErrorIs(t, n.SetMaxBytes(1<<20), peercache.ErrClosed)
		require.Equal(t, self, n.Self())
		require.Equal(t, c.Addr(0), n.Addr())
		require.NotPanics(t, func() {
			n.Members()
			n.Owners("users", "42")
			n.Stats()
			n.Rediscover()
		})
		w := httptest.NewRecorder()
		n.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/_peercache/v1/connect", nil))
		require.GreaterOrEqual(t, w.Code, 400)

		_, err := c.Network.DialContext(context.Background(), "tcp", c.Addr(0))
		require.Error(t, err, "nobody listens")
	})
}

func TestCloseWhileTheFirstRoundIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		defer nw.Close()
		nw.Host("10.0.0.2").Vanish()
		listener, err := nw.Listen("10.0.0.1:7600")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		n, err := peercache.Start(ctx, peercache.Config{
			Listener: listener, Join: []string{"10.0.0.2:7600"}, DialContext: nw.Host("10.0.0.1").DialContext,
		})
		require.NoError(t, err)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.Equal(t, peercache.MemberJoining, n.Self().State)
		require.Empty(t, n.Owners("users", "42"))
		ready := make(chan error, 1)
		go func() { ready <- n.WaitReady(context.Background()) }()
		synctest.Wait()
		require.NoError(t, n.Close())
		require.ErrorIs(t, <-ready, peercache.ErrClosed)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.Zero(t, nw.Open())
	})
}

func TestStartWithEndedContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		defer nw.Close()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		listener, err := nw.Listen("10.0.0.1:7600")
		require.NoError(t, err)
		_, err = peercache.Start(ctx, peercache.Config{Listener: listener})
		require.ErrorIs(t, err, context.Canceled)
	})
}
