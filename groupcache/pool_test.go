package groupcache

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// Three processes that were written for the original share what they load,
// and one that dies costs nothing.
func TestProcessesAreACluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		all := make([]*process, 3)
		for i := range all {
			all[i] = startProcess(t, nw, i, urls(3)...)
		}
		agree(t, all...)
		const keys = 300
		for i := range keys {
			for _, p := range all {
				p.mustGet(fmt.Sprint(i))
			}
		}
		require.EqualValues(t, keys, loads(all...), "each key once in the cluster")
		time.Sleep(time.Second) // the copies are at the replicas

		all[1].kill()
		rest := []*process{all[0], all[2]}
		for i := range keys {
			for _, p := range rest {
				p.mustGet(fmt.Sprint(i))
			}
		}
		agree(t, rest...)
		require.EqualValues(t, keys, loads(all...), "a dead peer's keys were loaded again")
	})
}

// The first Get of a process waits until its peers were asked.
func TestFirstGetAsksThePeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		all := []*process{startProcess(t, nw, 0, urls(2)...), startProcess(t, nw, 1, urls(2)...)}
		agree(t, all...)
		client := newProcess(t, nw, "should-be-ignored", nil)
		began := time.Now()
		client.pool.Set(urls(2)...)
		require.Zero(t, time.Since(began))
		for i := range 50 {
			client.mustGet(fmt.Sprint(i))
		}
		require.Zero(t, loads(client), "a client loads nothing")
		require.EqualValues(t, 50, loads(all...))
		require.EqualValues(t, 50, client.group.Stats.PeerLoads.Get())
		for _, p := range all {
			require.Len(t, p.node().Members(), 2, "a client is no member")
		}
	})
}

// A process whose peers are not there works by itself.
func TestWithoutPeers(t *testing.T) {
	for name, peers := range map[string][]string{
		"none":           {},
		"itself":         {urlOf(addrOf(0))},
		"dead ones":      {urlOf(addrOf(0)), urlOf(addrOf(1))},
		"what is no URL": {urlOf(addrOf(0)), "what is this"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nw := peercachetest.NewNetwork()
				p := newProcess(t, nw, urlOf(addrOf(0)), nil)
				for range 3 {
					p.mustGet("before")
				}
				require.EqualValues(t, 1, loads(p))
				before := p.node()
				p.pool.Set(peers...)
				synctest.Wait()
				require.Equal(t, len(peers) > 0, errors.Is(before.WaitReady(t.Context()), peercache.ErrClosed), "the node before is not kept")
				for range 5 {
					p.mustGet("k")
					time.Sleep(time.Second)
				}
				require.EqualValues(t, 2, loads(p))
				p.serve(p.pool)
				for range 500 {
					p.mustGet("k")
					time.Sleep(10 * time.Millisecond)
				}
				require.EqualValues(t, 2, loads(p), "loaded again when its server served")
				require.NoError(t, p.pool.Err())
			})
		})
	}
}

// A living peer that one process names no more stays a member; one that names
// itself no more hands over and becomes a client.
func TestSetDropsALivingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		all := make([]*process, 3)
		for i := range all {
			all[i] = startProcess(t, nw, i, urls(3)...)
		}
		agree(t, all...)
		const keys = 100
		for i := range keys {
			all[i%3].mustGet(fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		for _, p := range all[:2] {
			p.pool.Set(urls(2)...)
		}
		time.Sleep(time.Minute)
		agree(t, all...)

		all[2].pool.Set(urls(2)...)
		eventually(t, "it has left", func() bool { return len(all[0].node().Members()) == 2 })
		for i := range keys {
			for _, p := range all {
				p.mustGet(fmt.Sprint(i))
			}
		}
		agree(t, all[:2]...)
		require.EqualValues(t, keys, loads(all...), "it handed over what it held")
		require.Empty(t, all[2].node().Addr(), "a client")

		for _, p := range all {
			p.pool.Set(urls(3)...)
		}
		eventually(t, "it is back", func() bool { return len(all[0].node().Members()) == 3 })
		agree(t, all...)
		for i := range keys {
			all[2].mustGet(fmt.Sprint(i))
		}
		require.EqualValues(t, keys, loads(all...))
	})
}

// Gets never fail and never load again while a process changes its part.
func TestGetsWhileThePartChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		all := make([]*process, 3)
		for i := range all {
			all[i] = startProcess(t, nw, i, urls(3)...)
		}
		agree(t, all...)
		const keys = 50
		for i := range keys {
			all[0].mustGet(fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for i := 0; ctx.Err() == nil; i++ {
				all[2].mustGet(fmt.Sprint(i % keys))
				time.Sleep(time.Millisecond)
			}
		}()
		for range 3 {
			all[2].pool.Set(urls(2)...)
			eventually(t, "it has left", func() bool { return len(all[0].node().Members()) == 2 })
			all[2].pool.Set(urls(3)...)
			all[2].pool.Set() // says nothing
			eventually(t, "it is back", func() bool { return len(all[0].node().Members()) == 3 })
		}
		stop()
		<-ended
		require.EqualValues(t, keys, loads(all...))
	})
}

// A load that is under way when the process gets its node goes on there.
func TestSetWhileLoading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		p := newProcess(t, nw, urlOf(addrOf(0)), nil)
		release := make(chan struct{})
		g := p.r.newGroup("slow", 1<<20, GetterFunc(func(ctx context.Context, key string, dest Sink) error {
			select {
			case <-release:
				return dest.SetString(key)
			case <-ctx.Done():
				return ctx.Err()
			}
		}), GroupOptions{})
		got := make(chan string)
		go func() { got <- getString(t, g, "k") }()
		synctest.Wait()
		p.pool.Set(urls(2)...)
		time.Sleep(time.Second)
		close(release)
		require.Equal(t, "k", <-got)
	})
}
