package groupcache

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/golang/groupcache/testpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/peercache/peercache"
)

// inWorld runs a test with a registry in virtual time.
func inWorld(t *testing.T, f func(t *testing.T, r *registry)) {
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t)) })
}

func getString(t testing.TB, g *Group, key string) string {
	t.Helper()
	var s string
	require.NoError(t, g.Get(context.Background(), key, StringSink(&s)))
	return s
}

// Two callers of a key that is being loaded share the load, whatever they put
// it in.
func TestCallersShareALoad(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		release := make(chan string)
		var fills AtomicInt
		text := r.newGroup("string-group", 1<<20, GetterFunc(func(_ context.Context, key string, dest Sink) error {
			fills.Add(1)
			return dest.SetString("ECHO:" + <-release)
		}), GroupOptions{})
		message := r.newGroup("proto-group", 1<<20, GetterFunc(func(_ context.Context, key string, dest Sink) error {
			fills.Add(1)
			return dest.SetProto(&testpb.TestMessage{Name: proto.String("ECHO:" + <-release), City: proto.String("SOME-CITY")})
		}), GroupOptions{})

		var wait sync.WaitGroup
		for range 10 {
			wait.Go(func() {
				var s string
				require.NoError(t, text.Get(t.Context(), "k", StringSink(&s)))
				require.Equal(t, "ECHO:foo", s)
			})
			wait.Go(func() {
				m := new(testpb.TestMessage)
				require.NoError(t, message.Get(t.Context(), "k", ProtoSink(m)))
				require.Equal(t, "ECHO:foo", m.GetName())
				require.Equal(t, "SOME-CITY", m.GetCity())
			})
		}
		synctest.Wait()
		release <- "foo"
		release <- "foo"
		wait.Wait()
		require.EqualValues(t, 2, fills.Get())
	})
}

func TestCaching(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		g := r.newGroup("g", 1<<20, origin, GroupOptions{})
		for range 10 {
			require.Equal(t, "ECHO:k", getString(t, g, "k"))
			time.Sleep(time.Hour) // nothing expires unless it is told to
		}
		require.EqualValues(t, 1, origin.loads.Load())
		require.Equal(t, "g", g.Name())
		require.Same(t, g, r.group("g"))
		require.Nil(t, r.group("other"))

		s := &g.Stats
		require.EqualValues(t, 10, s.Gets.Get())
		require.EqualValues(t, 9, s.CacheHits.Get())
		require.EqualValues(t, 1, s.Loads.Get())
		require.EqualValues(t, 1, s.LoadsDeduped.Get())
		require.EqualValues(t, 1, s.LocalLoads.Get())
		require.Zero(t, s.LocalLoadErrs.Get())
		require.Zero(t, s.PeerLoads.Get())
		require.Zero(t, s.PeerErrors.Get())
		require.Zero(t, s.ServerRequests.Get())
		require.Equal(t, "10", s.Gets.String())

		held := g.CacheStats(MainCache)
		require.EqualValues(t, 1, held.Items)
		require.EqualValues(t, 10, held.Gets)
		require.EqualValues(t, 9, held.Hits)
		require.Positive(t, held.Bytes)
		require.Zero(t, held.Evictions)
		require.Zero(t, g.CacheStats(HotCache))
		require.Zero(t, g.CacheStats(CacheType(7)))
	})
}

// What is flooded with other keys stays within its bytes, by evicting.
func TestEviction(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		const size = 1 << 20
		origin := new(echo)
		g := r.newGroup("g", size, origin, GroupOptions{})
		getString(t, g, "first")
		for flooded := 0; flooded < 3*size; {
			key := fmt.Sprint("dummy-key-", flooded)
			flooded += len(key) + len(getString(t, g, key))
		}
		require.Positive(t, g.CacheStats(MainCache).Evictions)
		require.LessOrEqual(t, g.CacheStats(MainCache).Bytes, int64(size))
		require.LessOrEqual(t, g.Node().Stats().Bytes, int64(size))
		before := origin.loads.Load()
		getString(t, g, "first")
		require.Equal(t, before+1, origin.loads.Load(), "it was read once and had to go")
	})
}

// The node's bound is the sum of its groups', and each keeps to its own.
func TestMemoryGrowsWithGroups(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		small := r.newGroup("small", 1<<20, new(echo), GroupOptions{})
		getString(t, small, "k")
		require.EqualValues(t, 1<<20, small.Node().Stats().MaxBytes)
		large := r.newGroup("large", 16<<20, new(echo), GroupOptions{})
		none := r.newGroup("none", 0, new(echo), GroupOptions{})
		getString(t, large, "k")
		getString(t, none, "k")
		require.EqualValues(t, 17<<20, small.Node().Stats().MaxBytes)
		for i := range 30_000 {
			getString(t, small, fmt.Sprint(i))
		}
		require.LessOrEqual(t, small.cacheStats().Bytes, int64(1<<20))
		require.Equal(t, "ECHO:k", getString(t, large, "k"))
		require.EqualValues(t, 1, large.Stats.CacheHits.Get())
	})
}

func (g *Group) cacheStats() peercache.CacheStats { return g.home.Load().cache.Stats() }

func TestNothingIsKeptWithoutBytes(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		for _, size := range []int64{0, -1} {
			origin := new(echo)
			g := r.newGroup(fmt.Sprint("g", size), size, origin, GroupOptions{})
			for range 5 {
				time.Sleep(time.Millisecond)
				getString(t, g, "k")
			}
			require.EqualValues(t, 5, origin.loads.Load())
			require.Zero(t, g.CacheStats(MainCache).Items)
			require.EqualValues(t, 5, g.Stats.Loads.Get())
		}
	})
}

func TestSmallGroup(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		g := r.newGroup("testgroup", 1024, origin, GroupOptions{})
		for range 3 {
			getString(t, g, "testkey")
		}
		require.EqualValues(t, 1, origin.loads.Load())
		require.EqualValues(t, 1, g.CacheStats(MainCache).Items)
	})
}

// A value that is too large to be kept is handed out all the same, to all who
// wait for it, with one load.
func TestLargeValue(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		large := strings.Repeat("x", 1<<20)
		var fills AtomicInt
		release := make(chan struct{})
		g := r.newGroup("g", 1<<20, GetterFunc(func(_ context.Context, _ string, dest Sink) error {
			fills.Add(1)
			<-release
			return dest.SetString(large)
		}), GroupOptions{})
		var wait sync.WaitGroup
		for range 5 {
			wait.Go(func() { require.Equal(t, large, getString(t, g, "k")) })
		}
		synctest.Wait()
		close(release)
		wait.Wait()
		require.EqualValues(t, 1, fills.Get())
		require.EqualValues(t, 1, g.Stats.LocalLoads.Get())
		require.Zero(t, g.Stats.LocalLoadErrs.Get())
		require.Equal(t, "x", getString(t, r.newGroup("h", 1<<20, GetterFunc(func(_ context.Context, _ string, dest Sink) error {
			return dest.SetString("x")
		}), GroupOptions{}), strings.Repeat("k", 70_000)), "a key that is too long is loaded each time")
	})
}

func TestGetterErrors(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		origin := new(echo)
		g := r.newGroup("g", 1<<20, origin, GroupOptions{})
		mine := errors.New("my own")
		origin.fail.Store(&mine)
		for i := range 3 {
			var s string
			require.True(t, g.Get(t.Context(), "k", StringSink(&s)) == mine, "the very error")
			require.EqualValues(t, i+1, g.Stats.LocalLoadErrs.Get(), "errors are not kept, and one Get is one load")
		}
		origin.fail.Store(nil)
		require.Equal(t, "ECHO:k", getString(t, g, "k"))

		require.EqualError(t, g.Get(t.Context(), "k", nil), "groupcache: nil dest Sink")
		panics := r.newGroup("panics", 1<<20, GetterFunc(func(context.Context, string, Sink) error { panic("oh") }), GroupOptions{})
		var s string
		require.ErrorContains(t, panics.Get(t.Context(), "k", StringSink(&s)), "the getter panicked: oh")
		require.EqualValues(t, 1, panics.Stats.LocalLoadErrs.Get())

		gone, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, g.Get(gone, "other", StringSink(&s)), context.Canceled)
		var none context.Context // as programs from before contexts do
		require.NoError(t, g.Get(none, "k", StringSink(&s)))
	})
}

// A caller that gives up takes only itself away; a getter sees the values of
// the first caller's context.
func TestGetterContext(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		type key struct{}
		release := make(chan struct{})
		g := r.newGroup("g", 1<<20, GetterFunc(func(ctx context.Context, _ string, dest Sink) error {
			<-release
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return dest.SetString(ctx.Value(key{}).(string))
		}), GroupOptions{})
		first, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "mine"))
		failed := make(chan error)
		go func() { failed <- g.Get(first, "k", StringSink(new(string))) }()
		synctest.Wait()
		got := make(chan string)
		go func() { got <- getString(t, g, "k") }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
		close(release)
		require.Equal(t, "mine", <-got)
	})
}

func TestSinks(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		ctx := t.Context()
		for _, set := range []struct {
			name string
			to   func(dest Sink, s string) error
		}{
			{"string", func(dest Sink, s string) error { return dest.SetString(s) }},
			{"bytes", func(dest Sink, s string) error { return dest.SetBytes([]byte(s)) }},
		} {
			g := r.newGroup(set.name, 1<<20, GetterFunc(func(_ context.Context, key string, dest Sink) error {
				return set.to(dest, "ECHO:"+key)
			}), GroupOptions{})
			for range 2 { // loaded, and kept
				var buf [100]byte
				s := buf[:]
				require.NoError(t, g.Get(ctx, "short", TruncatingByteSliceSink(&s)))
				require.Equal(t, "ECHO:short", string(s))
				s = buf[:6]
				require.NoError(t, g.Get(ctx, "truncated", TruncatingByteSliceSink(&s)))
				require.Equal(t, "ECHO:t", string(s))

				var all []byte
				require.NoError(t, g.Get(ctx, "all", AllocatingByteSliceSink(&all)))
				require.Equal(t, "ECHO:all", string(all))
				all[0] = 'X' // it is the caller's
				require.Equal(t, "ECHO:all", getString(t, g, "all"))

				var view ByteView
				require.NoError(t, g.Get(ctx, "view", ByteViewSink(&view)))
				require.Equal(t, "ECHO:view", view.String())
				require.Equal(t, 9, view.Len())
				require.Error(t, g.Get(ctx, "no message", ProtoSink(new(testpb.TestMessage))))
			}
		}
		empty := r.newGroup("empty", 1<<20, GetterFunc(func(context.Context, string, Sink) error { return nil }), GroupOptions{})
		require.Empty(t, getString(t, empty, "k"), "a getter that sets nothing")
		require.Panics(t, func() { ByteViewSink(nil) })
		m := &testpb.TestMessage{Name: proto.String("n")}
		want, err := proto.Marshal(protoadapt.MessageV2Of(m))
		require.NoError(t, err)
		messages := r.newGroup("messages", 1<<20, GetterFunc(func(_ context.Context, _ string, dest Sink) error {
			return dest.SetProto(m)
		}), GroupOptions{})
		require.Equal(t, string(want), getString(t, messages, "k"))
	})
}

func TestStatsAreAligned(t *testing.T) {
	require.Zero(t, unsafe.Offsetof(Group{}.Stats)%8)
}

// The panics of the original are this package's as well.
func TestPanicsOfTheOriginal(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		r.newGroup("g", 1, new(echo), GroupOptions{})
		require.PanicsWithValue(t, "duplicate registration of group g", func() { r.newGroup("g", 1, new(echo), GroupOptions{}) })
		require.PanicsWithValue(t, "nil Getter", func() { r.newGroup("h", 1, nil, GroupOptions{}) })
		p := r.newPool("http://10.0.0.1:8000", nil)
		require.PanicsWithValue(t, "groupcache: NewHTTPPool must be called only once", func() { r.newPool("http://10.0.0.2:8000", nil) })
		require.PanicsWithValue(t, "RegisterPeerPicker called more than once", func() { r.registerPicker(func(string) PeerPicker { return nil }) })
		require.PanicsWithValue(t, "HTTPPool serving unexpected path: /other", func() { p.ServeHTTP(nil, request("/other")) })
		for range 2 {
			require.NotPanics(t, func() { r.group("g") }) // nothing is left locked
		}
		other := newWorld(t)
		other.registerPicker(func(string) PeerPicker { return nil })
		require.PanicsWithValue(t, "RegisterPeerPicker called more than once", func() { other.newPool("http://10.0.0.2:8000", nil) })
		for _, base := range []string{"no/slash/", "/a b/", "/a/../b/", "/ä/", "//"} {
			require.Panics(t, func() { newWorld(t).newPool("http://10.0.0.2:8000", &HTTPPoolOptions{BasePath: base}) }, base)
		}
	})
}

func TestHooks(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		var told []string
		r.registerServerStart(func() { told = append(told, "start") })
		r.registerNewGroupHook(func(g *Group) {
			require.Nil(t, r.group(g.Name()))
			told = append(told, g.Name())
		})
		r.newGroup("a", 1, new(echo), GroupOptions{})
		r.newGroup("b", 1, new(echo), GroupOptions{})
		require.Equal(t, []string{"start", "a", "b"}, told)
		require.PanicsWithValue(t, "RegisterServerStart called more than once", func() { r.registerServerStart(func() {}) })
		require.PanicsWithValue(t, "RegisterNewGroupHook called more than once", func() { r.registerNewGroupHook(func(*Group) {}) })
	})
}

// Any name that the original takes is good, the empty one and long ones too.
func TestGroupNames(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		for _, name := range []string{"", "a/b", "\xff\x00", strings.Repeat("n", 255), strings.Repeat("n", 256), strings.Repeat("n", 9999)} {
			g := r.newGroup(name, 1<<20, new(echo), GroupOptions{})
			for range 2 {
				require.Equal(t, "ECHO:k", getString(t, g, "k"))
			}
			require.EqualValues(t, 1, g.Stats.CacheHits.Get())
		}
	})
}
