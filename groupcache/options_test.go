package groupcache

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// cluster starts processes that agree.
func cluster(t *testing.T, n int) (*peercachetest.Network, []*process) {
	t.Helper()
	nw := peercachetest.NewNetwork()
	all := make([]*process, n)
	for i := range all {
		all[i] = startProcess(t, nw, i, urls(n)...)
	}
	agree(t, all...)
	return nw, all
}

// What one process sets and removes all see at once.
func TestSetAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		_, all := cluster(t, 3)
		expect := func(key, want string) {
			t.Helper()
			for _, p := range all {
				got, err := p.get(key)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
		}
		for i := range 30 {
			key := fmt.Sprint(i)
			expect(key, "ECHO:"+key)
			value := []byte("new")
			require.NoError(t, all[i%3].group.Set(ctx, key, value))
			value[0] = 'X'
			expect(key, "new")
			require.NoError(t, all[(i+1)%3].group.Remove(ctx, key))
			expect(key, "ECHO:"+key)
		}
		require.NoError(t, all[0].group.Set(ctx, "brief", []byte("b"), peercache.WithTTL(time.Minute)))
		require.ErrorIs(t, all[1].group.Set(ctx, "brief", []byte("c"), peercache.IfAbsent()), peercache.ErrConflict)
		expect("brief", "b")
		time.Sleep(time.Minute)
		expect("brief", "ECHO:brief")
		require.NoError(t, all[0].group.Remove(ctx, "0", "1", "2"))
	})
}

func TestGroupOptions(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		g := r.newGroup("g", 1<<20, origin, GroupOptions{
			TTL: time.Minute,
			TTLFor: func(key, value string) time.Duration {
				require.Equal(t, "ECHO:"+key, value)
				return map[string]time.Duration{"long": time.Hour, "never": -1}[key]
			},
			NegativeTTL: time.Minute,
			LoadTimeout: time.Second,
		})
		count := func(key string) int64 {
			before := origin.loads.Load()
			getString(t, g, key)
			return origin.loads.Load() - before
		}
		time.Sleep(time.Second)
		require.EqualValues(t, 1, count("k"))
		require.EqualValues(t, 1, count("long"))
		require.EqualValues(t, 1, count("never"))
		time.Sleep(time.Second)
		require.EqualValues(t, 0, count("k"))
		require.EqualValues(t, 1, count("never"))
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, count("k"))
		require.EqualValues(t, 0, count("long"))

		none := fmt.Errorf("no such user: %w", peercache.ErrNotFound)
		origin.fail.Store(&none)
		before := origin.loads.Load()
		for range 3 {
			require.ErrorIs(t, g.Get(t.Context(), "absent", StringSink(new(string))), peercache.ErrNotFound)
		}
		require.Equal(t, before+1, origin.loads.Load())

		bad := r.newGroup("bad", 1<<20, origin, GroupOptions{TTL: -1})
		require.ErrorContains(t, bad.Get(t.Context(), "k", StringSink(new(string))), `groupcache: group "bad"`)
		require.Error(t, bad.Set(t.Context(), "k", nil))
	})
}

var errSentinel = errors.New("sentinel")

// An error of a getter that ran in another process is the own getter's, or one
// of GroupOptions.Errors.
func TestErrorsOfOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := cluster(t, 3)
		fail := error(errSentinel)
		for _, p := range all {
			p.origin.fail.Store(&fail)
		}
		for i := range 30 {
			_, err := all[0].get(fmt.Sprint(i))
			require.True(t, err == fail)
		}
		// Where only the other process cannot load it there is a value.
		all[0].origin.fail.Store(nil)
		for i := range 30 {
			all[0].mustGet(fmt.Sprint(i))
		}

		named := make([]*Group, len(all))
		for i, p := range all {
			named[i] = p.r.newGroup("named", 1<<20, p.origin, GroupOptions{Errors: []error{errSentinel}})
			p.origin.fail.Store(&fail)
		}
		before := loads(all...)
		for i := range 30 {
			err := named[0].Get(t.Context(), fmt.Sprint(i), StringSink(new(string)))
			require.ErrorIs(t, err, errSentinel)
		}
		require.Equal(t, before+30, loads(all...), "and only the other process has tried")
	})
}

// A large value that another process has loaded is loaded here as well.
func TestLargeValueOfAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := cluster(t, 2)
		large := make([]byte, 3<<20)
		groups := make([]*Group, 2)
		for i, p := range all {
			groups[i] = p.r.newGroup("large", 1, GetterFunc(func(_ context.Context, _ string, dest Sink) error {
				return dest.SetBytes(large)
			}), GroupOptions{})
		}
		for i := range 10 {
			for _, g := range groups {
				var got []byte
				require.NoError(t, g.Get(t.Context(), fmt.Sprint(i), AllocatingByteSliceSink(&got)))
				require.Len(t, got, len(large))
			}
		}
	})
}

// Copies of other members' keys are kept only with NearTTL.
func TestNearTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := cluster(t, 3)
		groups := make([]*Group, 3)
		for i, p := range all {
			groups[i] = p.r.newGroup("near", 1<<20, p.origin, GroupOptions{NearTTL: time.Minute})
		}
		for i := range 60 {
			for range 3 {
				all[0].mustGet(fmt.Sprint(i))
				getString(t, groups[0], fmt.Sprint(i))
			}
		}
		require.Zero(t, all[0].group.CacheStats(HotCache))
		require.Positive(t, groups[0].CacheStats(HotCache).Items)
		require.Positive(t, groups[0].CacheStats(HotCache).Hits)
		require.Less(t, groups[0].Stats.PeerLoads.Get(), all[0].group.Stats.PeerLoads.Get())
	})
}

// The counts of what peers ask come within a second.
func TestServerRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := cluster(t, 2)
		client := newProcess(t, all[0].nw, "client", nil)
		client.pool.Set(urls(2)...)
		for i := range 20 {
			client.mustGet(fmt.Sprint(i))
		}
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 20, client.group.Stats.PeerLoads.Get())
		require.EqualValues(t, 20, client.group.Stats.Loads.Get())
		require.Zero(t, client.group.Stats.CacheHits.Get())
		served := all[0].group.Stats.ServerRequests.Get() + all[1].group.Stats.ServerRequests.Get()
		require.GreaterOrEqual(t, served, int64(20))
		require.Zero(t, all[0].group.Stats.Gets.Get())
	})
}

// A getter gets what HTTPPool.Context makes, whichever way the request came,
// and its own caller's context where that is in the same process.
func TestPoolContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		nw := peercachetest.NewNetwork()
		all := make([]*process, 2)
		groups := make([]*Group, 2)
		for i := range all {
			p := newProcess(t, nw, urlOf(addrOf(i)), nil)
			p.pool.Context = func(r *http.Request) context.Context {
				return context.WithValue(r.Context(), key{}, "request for "+r.URL.Path)
			}
			p.pool.Set(urls(2)...)
			groups[i] = p.r.newGroup("ctx", 1<<20, GetterFunc(func(ctx context.Context, _ string, dest Sink) error {
				return dest.SetString(ctx.Value(key{}).(string))
			}), GroupOptions{})
			all[i] = p.serve(p.pool)
		}
		agree(t, all...)
		own, other := 0, 0
		for i := range 40 {
			var s string
			k := fmt.Sprint("a b/", i)
			require.NoError(t, groups[0].Get(context.WithValue(t.Context(), key{}, "mine"), k, StringSink(&s)))
			switch s {
			case "mine":
				own++
			case "request for /_groupcache/ctx/" + k:
				other++
			default:
				require.Fail(t, s)
			}
		}
		require.Positive(t, own)
		require.Positive(t, other)
	})
}

// A shut down node is the end of its groups.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, all := cluster(t, 3)
		for i := range 60 {
			all[0].mustGet(fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		require.NoError(t, all[0].node().Shutdown(context.Background()))
		_, err := all[0].get("k")
		require.ErrorIs(t, err, peercache.ErrClosed)
		agree(t, all[1:]...)
		for i := range 60 {
			all[1].mustGet(fmt.Sprint(i))
		}
		require.EqualValues(t, 60, loads(all...))
	})
}

func TestConfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		var all []*process
		for i := range 3 {
			p := newProcess(t, nw, urlOf(addrOf(i)), nil)
			p.pool.Configure(func(c *peercache.Config) { c.Secret, c.Copies, c.MaxBytes = "s3cret", 3, 1<<20 })
			p.pool.Set(urls(3)...)
			all = append(all, p.serve(p.pool))
		}
		stranger := newProcess(t, nw, "stranger", nil)
		stranger.pool.Set(urls(3)...)
		agree(t, all...)
		require.Len(t, all[0].node().Owners(groupName, "k"), 3)
		require.EqualValues(t, 9<<20, all[0].node().Stats().MaxBytes)
		require.Empty(t, stranger.node().Members())
		require.PanicsWithValue(t, "groupcache: Configure after Set", func() { all[0].pool.Configure(func(*peercache.Config) {}) })

		bad := newProcess(t, nw, "http://10.0.0.9:8000", nil)
		bad.pool.Configure(func(c *peercache.Config) { c.Copies = 99 })
		bad.pool.Set("http://10.0.0.9:8000", urlOf(addrOf(0)))
		require.ErrorContains(t, bad.pool.Err(), "Copies")
		for range 3 {
			bad.mustGet("k")
		}
		require.EqualValues(t, 1, loads(bad))
	})
}
