package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// A change is a call that writes.
type change struct {
	name string
	call func(ctx context.Context, cache *peercache.Cache[string], key string) error
}

func changes() []change {
	type ctx = context.Context
	type cache = *peercache.Cache[string]
	return []change{
		{"Set", func(ctx ctx, c cache, key string) error { return c.Set(ctx, key, "v") }},
		{"SetMany", func(ctx ctx, c cache, key string) error {
			err := c.SetMany(ctx, map[string]string{key: "v", key + "'": "v", key + "''": "v"})
			var keys *peercache.KeysError
			if errors.As(err, &keys) {
				return keys.Errs[key]
			}
			return err
		}},
		{"IfAbsent", func(ctx ctx, c cache, key string) error { return c.Set(ctx, key+"-new", "v", peercache.IfAbsent()) }},
		{"Update", func(ctx ctx, c cache, key string) error {
			return c.Update(ctx, key, func(string, bool) (string, error) { return "v", nil })
		}},
		{"Delete", func(ctx ctx, c cache, key string) error { return c.Delete(ctx, key) }},
		{"Clear", func(ctx ctx, c cache, _ string) error { return c.Clear(ctx) }},
	}
}

// requestsServed counts what nodes were asked for keys.
func requestsServed(all []*peercache.Cache[string]) (count int64) {
	for _, cache := range all {
		count += cache.Stats().ServerRequests
	}
	return count
}

// A process whose clock is so far behind that nobody can tell what it means by
// "in time" is told so, after a few requests.
func TestProcessFarBehindIsToldSo(t *testing.T) {
	for _, behind := range []time.Duration{61 * time.Second, 5 * time.Minute, time.Hour} {
		for _, known := range []bool{false, true} {
			for _, change := range changes() {
				t.Run(fmt.Sprint(change.name, " ", behind, " known ", known), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c := peercachetest.NewCluster(t, 4)
						c.Network.DelayAll(400 * time.Microsecond)
						all := caches(t, c, peercache.Options[string]{})
						key := keyOf(c, 0, 1)
						if !known {
							c.Vanish(3) // so that its place is free
							c.WaitAgree()
						}
						setClock(c, 3, -behind)
						if known {
							tablesOf(c, clockKnown, "node-0", "node-1", "node-2")
							time.Sleep(5 * time.Second)
						} else {
							c.Start(3)
							all[3] = newCache(t, c.Nodes[3], peercache.Options[string]{})
						}
						ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
						defer cancel()
						before, began := requestsServed(all), time.Now()
						err := change.call(ctx, all[3], key)
						require.ErrorIs(t, err, peercache.ErrUnavailable)
						require.ErrorContains(t, err, "the clock of node-3 (10.0.0.4:7600) is wrong: it is "+behind.String()+" behind")
						require.LessOrEqual(t, requestsServed(all)-before, int64(20))
						require.Less(t, time.Since(began), time.Second)
						require.True(t, c.Nodes[3].Stats().ClockOff)
						require.InDelta(t, -behind, c.Nodes[3].Stats().ClockOffset, float64(time.Second))

						setClock(c, 3, 0)
						c.WaitAgree()
						require.NoError(t, change.call(ctx, all[3], key), "once its clock is right")
					})
				})
			}
		}
	}
}

// One whose clock is behind by less has to do with what the owners' clocks show.
func TestProcessLessThanAMinuteBehindWrites(t *testing.T) {
	for _, behind := range []time.Duration{3 * time.Second, 30 * time.Second, 59 * time.Second} {
		for _, change := range changes() {
			t.Run(fmt.Sprint(change.name, " ", behind), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 4)
					all := caches(t, c, peercache.Options[string]{})
					setClock(c, 3, -behind)
					tablesOf(c, clockKnown, "node-0", "node-1", "node-2")
					for i := range 10 {
						require.NoError(t, change.call(t.Context(), all[3], fmt.Sprint("key-", i)))
					}
				})
			})
		}
	}
}

// writers calls all kinds of changes on some nodes until stop is called, which
// returns what failed and the longest that one took.
func writers(t *testing.T, all []*peercache.Cache[string]) (stop func() (failed []error, longest time.Duration)) {
	var mu sync.Mutex
	var errs []error
	var most time.Duration
	stopped := make(chan struct{})
	var clients sync.WaitGroup
	for k, cache := range all {
		for j, change := range changes() {
			every := 50 * time.Millisecond
			if change.name == "Clear" {
				every = 2 * time.Second // which is much work
			}
			clients.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stopped:
						return
					case <-time.After(every):
					}
					began := time.Now()
					err := change.call(t.Context(), cache, fmt.Sprint("key-", (7*k+3*j+i)%30))
					mu.Lock()
					most = max(most, time.Since(began))
					if err != nil && !errors.Is(err, peercache.ErrConflict) {
						errs = append(errs, fmt.Errorf("%s: %w", change.name, err))
					}
					mu.Unlock()
				}
			})
		}
	}
	return func() ([]error, time.Duration) {
		close(stopped)
		clients.Wait()
		return errs, most
	}
}

// A member whose clock goes wrong fails nobody's writes, as long as it is
// believed; and it is believed by all others or by none.
func TestClockJustBelievedFailsNoWrites(t *testing.T) {
	for _, ahead := range []time.Duration{4990 * time.Millisecond, 10 * time.Second, 59990 * time.Millisecond} {
		for _, others := range []time.Duration{-40 * time.Millisecond, -400 * time.Millisecond} {
			t.Run(fmt.Sprint(ahead, " ", others), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 4)
					c.Network.DelayAll(200 * time.Microsecond)
					all := caches(t, c, peercache.Options[string]{})
					setClock(c, 1, others)
					setClock(c, 2, others/2)
					stop := writers(t, all)
					time.Sleep(time.Second)
					setClock(c, 3, ahead)
					time.Sleep(5 * time.Second)
					setClock(c, 3, 0)
					time.Sleep(3 * time.Second)
					failed, longest := stop()
					require.Empty(t, failed)
					require.Less(t, longest, 1500*time.Millisecond)
				})
			})
		}
	}
}

// A clock that is set, to something wrong or right, while its node serves: for
// as long as that is an owner writes may fail and say why. Soon after none does.
func TestClockThatIsSetWhileItsNodeServes(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, -61 * time.Second, -30 * time.Second, 30 * time.Second, 61 * time.Second, 2 * time.Minute, time.Hour} {
		for _, long := range []time.Duration{500 * time.Millisecond, 5 * time.Second} {
			if testing.Short() && long > time.Second {
				continue
			}
			t.Run(fmt.Sprint(step, " for ", long), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 4)
					c.Network.DelayAll(200 * time.Microsecond)
					all := caches(t, c, peercache.Options[string]{})
					stop := writers(t, all)
					time.Sleep(time.Second)
					failed, _ := stop()
					require.Empty(t, failed)

					stop = writers(t, all)
					setClock(c, 3, step)
					time.Sleep(long)
					failed, _ = stop()
					for _, err := range failed {
						require.ErrorContains(t, err, "the clock of node-3")
					}
					requireWritten(t, all[:3], long > clockKnown)

					setClock(c, 3, 0)
					c.WaitAgree()
					stop = writers(t, all)
					time.Sleep(3 * time.Second)
					failed, longest := stop()
					require.Empty(t, failed)
					require.Less(t, longest, time.Second)
					requireWritten(t, all, true)
				})
			})
		}
	}
}

// requireWritten writes keys in turn on each node, and sees that all nodes have
// the last.
func requireWritten(t *testing.T, all []*peercache.Cache[string], good bool) {
	t.Helper()
	if !good {
		return
	}
	for i := range 30 {
		key := fmt.Sprint("key-", i)
		for k, cache := range all {
			value := fmt.Sprint("round-", k)
			require.NoError(t, cache.Set(t.Context(), key, value))
			requireAll(t, key, value, all...)
		}
		require.NoError(t, all[i%len(all)].Delete(t.Context(), key))
		_, held, err := all[(i+1)%len(all)].Lookup(t.Context(), key)
		require.NoError(t, err)
		require.False(t, held)
	}
}

// Clocks that are set back together, as when all processes run on one machine,
// go on to believe each other, and what they hold from before is written over.
func TestAllClocksAreSetTogether(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, -2 * time.Minute, 2 * time.Minute} {
		t.Run(step.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := peercachetest.NewCluster(t, 3)
				c.Network.DelayAll(200 * time.Microsecond)
				all := caches(t, c, peercache.Options[string]{})
				stop := writers(t, all)
				time.Sleep(2 * time.Second)
				for i := range 3 {
					setClock(c, i, step)
				}
				time.Sleep(3 * time.Second)
				failed, longest := stop()
				require.Empty(t, failed)
				require.Less(t, longest, time.Second)
				requireWritten(t, all, true)

				for i := range 4 {
					setClock(c, i, step)
				}
				late := newCache(t, c.Start(3), peercache.Options[string]{})
				c.WaitAgree()
				stop = writers(t, append(slices.Clone(all), late))
				time.Sleep(3 * time.Second)
				failed, _ = stop()
				require.Empty(t, failed)
				requireWritten(t, append(all, late), true)
			})
		})
	}
}
