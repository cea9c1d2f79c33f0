package peercache_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/peercachetest"
)

// large makes nodes take values of 64 MiB.
func large(i int, cfg *peercache.Config) { cfg.MaxBytes, cfg.MaxValueBytes = 512<<20, 64<<20 }

// What Config accepts is written, read, copied, loaded once, filled into a joiner
// and handed over.
func TestValuesAsLargeAsConfigAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, count = 18 << 20, 4
		c := peercachetest.NewCluster(t, 2, large)
		loads := 0
		opts := peercache.Options[string]{Load: func(context.Context, string) (string, error) {
			loads++
			return largeValue(size, 77), nil
		}}
		all := caches(t, c, opts)
		time.Sleep(2 * time.Second)
		synced := func() (bytes int64) {
			for _, n := range c.Running() {
				bytes += n.Stats().SyncBytes
			}
			return bytes
		}
		before := synced()
		values := make(map[string]string)
		var keys []string
		for i := range count {
			key := fmt.Sprint(i)
			keys, values[key] = append(keys, key), largeValue(size, uint64(i))
			began := time.Now()
			require.NoError(t, all[i%2].Set(t.Context(), key, values[key]))
			require.Less(t, time.Since(began), 100*time.Millisecond)
		}
		require.NoError(t, all[0].SetMany(t.Context(), values))
		require.NoError(t, all[1].SetMany(t.Context(), values))
		requireValues := func(all ...*peercache.Cache[string]) {
			t.Helper()
			for _, cache := range all {
				for key, value := range values {
					requireLarge(t, cache, key, value)
				}
				got, err := cache.GetMany(t.Context(), keys)
				require.NoError(t, err)
				require.Len(t, got, count)
				for key, value := range values {
					require.True(t, got[key] == value)
				}
			}
		}
		requireValues(all...)
		for _, cache := range all {
			requireLarge(t, cache, "loaded", largeValue(size, 77))
		}
		require.Equal(t, 1, loads)
		require.ErrorIs(t, all[0].Set(t.Context(), "0", largeValue(64<<20+1, 1)), peercache.ErrTooLarge)
		time.Sleep(10 * time.Second)
		require.Less(t, synced()-before, int64(1<<20), "nothing is missing anywhere")

		c.Start(2)
		all = append(all, newCache(t, c.Nodes[2], opts))
		require.Less(t, c.WaitAgree(), 5*time.Second)
		requireValues(all...)
		require.Less(t, synced()-before, int64(2*(count+1)*size+1<<20), "from each of the others once")
		c.Shutdown(0)
		c.Kill(1)
		c.WaitAgree()
		requireValues(all[2])
		require.Equal(t, 1, loads)
	})
}

// Where members keep values of different sizes, the smallest counts for what is
// written: what is larger fails at once, wherever it is asked for. What was written
// before such a member joined holds up neither it nor those that leave, and can be
// read for as long as a member that keeps it owns it.
func TestMembersThatKeepSmallerValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 20 << 20
		c := peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) {
			if i < 2 {
				large(i, cfg)
			}
		})
		all := caches(t, c, peercache.Options[string]{})
		for i := range 5 {
			require.NoError(t, all[0].Set(t.Context(), fmt.Sprint(i), largeValue(size, uint64(i))))
			require.NoError(t, all[0].Set(t.Context(), fmt.Sprint("small-", i), "small"))
		}
		c.Start(2)
		require.Less(t, c.WaitAgree(), 10*time.Second)
		all = append(all, newCache(t, c.Nodes[2], peercache.Options[string]{}))
		client := newCache(t, c.StartClient(func(cfg *peercache.Config) { large(0, cfg) }), peercache.Options[string]{})
		require.NoError(t, client.Delete(t.Context(), "nothing"))
		for i := range 5 {
			key := fmt.Sprint(i)
			for _, cache := range append(all[:3:3], client) {
				began := time.Now()
				err := cache.Set(t.Context(), key, largeValue(16<<20+1, 99))
				require.ErrorIs(t, err, peercache.ErrTooLarge)
				require.Zero(t, time.Since(began))
				requireAll(t, "small-"+key, "small", cache)
				v, err := cache.Get(t.Context(), key)
				if ownersOf(c, key)[0] == 2 && err != nil { // as if it had been evicted there
					require.ErrorIs(t, err, peercache.ErrNotFound)
					continue
				}
				require.NoError(t, err)
				require.True(t, v == largeValue(size, uint64(i)))
			}
		}
		before := sentBy(c)
		time.Sleep(10 * time.Second)
		require.Less(t, sentBy(c)-before, int64(1<<20), "nobody asks for it again and again")
		for i := range 5 {
			require.NoError(t, client.Set(t.Context(), fmt.Sprint(i), largeValue(16<<20, 5)))
			requireLarge(t, all[2], fmt.Sprint(i), largeValue(16<<20, 5))
		}
		// With less memory still less is kept.
		require.NoError(t, c.Nodes[1].SetMaxBytes(4<<20))
		time.Sleep(2 * time.Second)
		require.ErrorIs(t, client.Set(t.Context(), "1", largeValue(1<<20+1, 6)), peercache.ErrTooLarge)
		require.NoError(t, client.Set(t.Context(), "1", largeValue(1<<20, 6)))
		began := time.Now()
		c.Shutdown(0)
		require.Less(t, time.Since(began), 5*time.Second)
		c.WaitAgree()
	})
}

// A batch is cut where one body has no room for more, in requests, replies and
// copies, and nothing of it is sent twice.
func TestBatchesAreCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := peercachetest.NewCluster(t, 3)
		all := caches(t, c, peercache.Options[string]{})
		time.Sleep(2 * time.Second)
		keys := keysOf(c, 14, 0, 1)
		values := map[string]string{keys[0]: largeValue(7<<20, 0), keys[1]: largeValue(15<<20, 1)}
		total := 22 << 20
		for i, key := range keys[2:] {
			values[key] = largeValue(3<<20, uint64(i+2))
			total += 3 << 20
		}
		for _, from := range []int{0, 2} {
			before := sentBy(c)
			require.NoError(t, all[from].SetMany(t.Context(), values))
			require.Less(t, sentBy(c)-before, int64((1+from/2)*total+1<<20))
		}
		for range 3 { // in another order each time
			before := receivedBy(c.Nodes[2])
			got, err := all[2].GetMany(t.Context(), keys)
			require.NoError(t, err)
			require.Len(t, got, len(keys))
			for key, value := range values {
				require.True(t, got[key] == value)
			}
			require.Less(t, receivedBy(c.Nodes[2])-before, int64(total+1<<20))
		}
		requests := all[0].Stats().ServerRequests
		many := make(map[string]string)
		for _, key := range keysOf(c, 4000, 0, 1) {
			many[key] = largeValue(10<<10, 3)
		}
		require.NoError(t, all[0].SetMany(t.Context(), many))
		keys = keys[:0]
		for key := range many {
			keys = append(keys, key)
		}
		got, err := all[2].GetMany(t.Context(), keys)
		require.NoError(t, err)
		require.Equal(t, many, got)
		require.Less(t, all[0].Stats().ServerRequests-requests, int64(10), "they are asked for together")
	})
}

// serveAs makes a member of the gossip at addr that answers as serve does, and
// takes bodies of so many bytes. It is found dead after some seconds.
func serveAs(t *testing.T, c *peercachetest.Cluster, incarnation uint64, most int, serve func(req mux.Request) mux.Reply) {
	t.Helper()
	const addr = "10.66.0.1:7600"
	listener, err := c.Network.Host(addr).Listen(addr)
	require.NoError(t, err)
	local := strangersLocal("")
	local.Self.Incarnation = incarnation
	upgrades(func(conn net.Conn) {
		if _, err := mux.ServerHandshake(conn, time.Time{}, local, nil); err != nil {
			return
		}
		m := mux.New(conn, mux.Options{MaxBody: most, Serve: func(_ context.Context, req mux.Request, _ func(mux.Reply) bool) mux.Reply {
			return serve(req)
		}})
		<-m.Done()
		m.Close()
	})(t, listener)
	g, err := gossip.Start(gossip.Config{
		Name: fmt.Sprintf("%016x", incarnation),
		Meta: func() []byte {
			return said(tagged(1, []byte(addr)...), tagged(7, byte(peercache.MemberActive)), tagged(2, []byte("odd")...))
		},
		AddrOf: func([]byte) (string, bool) { return addr, true },
		Link:   liar{t, c.Network.Host("10.66.0.1").DialContext, local},
	})
	require.NoError(t, err)
	defer g.Close()
	require.NoError(t, g.Join(t.Context(), c.Addr(0)))
	eventually(t, "all have heard of it", func() bool { return everySees(c.Nodes, incarnation, true) })
}

// A member whose answer will always be no is told of and not asked again: whether
// it knows no such operation, cannot read the request, fails at it, or takes no body
// of that size, which then comes without its value.
func TestFinalRefusals(t *testing.T) {
	const opApply, replyMalformed, replyUnsupported = 7, 2, 3
	none := wire.AppendUvarint(nil, 0)
	for is, refusal := range map[string]struct {
		most  int
		serve func() mux.Reply
		fails bool
	}{
		"unknown":   {32 << 20, func() mux.Reply { return mux.Reply{Code: replyUnsupported} }, true},
		"malformed": {32 << 20, func() mux.Reply { return mux.Reply{Code: replyMalformed} }, true},
		"panic":     {32 << 20, func() mux.Reply { panic("odd") }, true},
		"too large": {1 << 20, func() mux.Reply { return mux.Reply{Body: none} }, false},
	} {
		t.Run(is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 2, func(i int, cfg *peercache.Config) { cfg.Copies = 3 })
				all := caches(t, c, peercache.Options[string]{})
				var mu sync.Mutex
				asked := 0
				serveAs(t, c, 4711, refusal.most, func(req mux.Request) mux.Reply {
					if req.Op != opApply {
						return mux.Reply{}
					}
					mu.Lock()
					defer mu.Unlock()
					asked++
					return refusal.serve()
				})
				began := time.Now()
				key := "" // of which the odd one is a replica
				for i := 0; key == ""; i++ {
					if owners := c.Nodes[0].Owners("things", fmt.Sprint(i)); len(owners) == 3 && owners[0].Incarnation == c.Nodes[0].Self().Incarnation {
						key = fmt.Sprint(i)
					}
				}
				err := all[0].Set(t.Context(), key, largeValue(2<<20, 1))
				require.Less(t, time.Since(began), time.Second)
				var partial *peercache.PartialWriteError
				if refusal.fails {
					require.ErrorAs(t, err, &partial)
					require.Equal(t, uint64(4711), partial.Missing[0].Incarnation)
				} else {
					require.NoError(t, err)
				}
				time.Sleep(500 * time.Millisecond)
				mu.Lock()
				require.Equal(t, 1, asked)
				mu.Unlock()
				requireLarge(t, all[1], key, largeValue(2<<20, 1))
				c.Network.Close()
			})
		})
	}
}
