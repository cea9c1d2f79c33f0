package peercache_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// countedLoads is a loader of a cache, and what it was asked for.
func countedLoads(loads map[string]int) peercache.Options[string] {
	return peercache.Options[string]{Load: func(_ context.Context, key string) (string, error) {
		loads[key]++
		return "value of " + key, nil
	}}
}

// A node that the caller serves keeps what it loads before its server serves,
// and after.
func TestSoleNodeKeepsWhatItLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const addr = "10.0.0.1:80"
		nw := peercachetest.NewNetwork()
		n := startNode(t, from(nw, addr, peercache.Config{Join: []string{"10.0.0.9:80"}}))
		loads := make(map[string]int)
		things := newCache(t, n, countedLoads(loads))
		get := func() {
			t.Helper()
			v, err := things.Get(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, "value of k", v)
		}
		for range 10 {
			get()
			time.Sleep(time.Second)
		}
		require.Equal(t, map[string]int{"k": 1}, loads)
		require.Equal(t, peercache.MemberJoining, n.Stats().State)
		require.Len(t, n.Owners("things", "k"), 1)

		// A write would be forgotten when it meets the others.
		ctx := t.Context()
		for _, err := range []error{
			things.Set(ctx, "w", "x"), things.Delete(ctx, "k"), things.Clear(ctx),
			things.Update(ctx, "w", func(string, bool) (string, error) { return "x", nil }),
		} {
			require.ErrorIs(t, err, peercache.ErrUnavailable)
			require.ErrorContains(t, err, "no owner took it")
		}
		get()

		ready := make(chan error, 1)
		go func() { ready <- n.WaitReady(context.Background()) }()
		serveHTTP(t, nw, addr, &http.Server{Handler: muxed("/_peercache/", n)})
		for len(ready) == 0 {
			get()
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, <-ready)
		for range 10 {
			get()
			time.Sleep(time.Second)
		}
		require.Equal(t, map[string]int{"k": 1}, loads, "loaded again when it was announced")
		require.NoError(t, things.Set(ctx, "k", "other"))
	})
}

// One that meets members uses what they hold, and joins them with nothing.
func TestSoleNodeMeetsOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 0)
		const addr = "10.1.0.1:80"
		n := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0)}}))
		loads := make(map[string]int)
		things := newCache(t, n, countedLoads(loads))
		_, err := things.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, map[string]int{"k": 1}, loads)

		c.Start(0)
		theirs := newCache(t, c.Nodes[0], peercache.Options[string]{})
		require.NoError(t, theirs.Set(t.Context(), "k", "written"))
		eventually(t, "it hears of the member", func() bool { return len(n.Members()) == 2 })
		require.NoError(t, things.Set(t.Context(), "other", "o"), "the member takes it")
		v, err := things.Get(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, "written", v)

		serveHTTP(t, c.Network, addr, &http.Server{Handler: muxed("/_peercache/", n)})
		waitAgreed(t, c.Nodes[0], n)
		for _, cache := range []*peercache.Cache[string]{things, theirs} {
			v, err := cache.Get(t.Context(), "k")
			require.NoError(t, err)
			require.Equal(t, "written", v)
		}
	})
}

// When all members that it was told of are gone, it goes on by itself.
func TestSoleNodeWhenTheOthersAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 1)
		n := startNode(t, from(c.Network, "10.1.0.1:80", peercache.Config{Join: []string{c.Addr(0)}}))
		loads := make(map[string]int)
		things := newCache(t, n, countedLoads(loads))
		require.Len(t, n.Members(), 2)
		c.Kill(0)
		eventually(t, "it knows nobody", func() bool { return len(n.Members()) == 1 })
		for range 5 {
			_, err := things.Get(t.Context(), "k")
			require.NoError(t, err)
		}
		require.Equal(t, map[string]int{"k": 1}, loads)
		require.NoError(t, n.Shutdown(context.Background()))
	})
}

// A mounted node that knows the others by the word of one of them is not alone
// for a moment when it is announced: it would load what they hold.
func TestMountedNodeIsNotAloneWhenItIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 2)
		const addr = "10.1.0.1:80"
		n := startNode(t, from(c.Network, addr, peercache.Config{Join: []string{c.Addr(0), c.Addr(1), addr}}))
		require.Len(t, n.Members(), 3, "the members and itself")
		serveHTTP(t, c.Network, addr, &http.Server{Handler: muxed("/_peercache/", n)})
		for !agreed(c.Nodes[0], c.Nodes[1], n) {
			require.Len(t, n.Members(), 3)
			require.NotEmpty(t, n.Owners("things", "k"))
			time.Sleep(100 * time.Microsecond)
		}
	})
}
