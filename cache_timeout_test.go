package peercache_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// Whoever shares a load that hangs, and does not heed its context, waits for
// LoadTimeout and no longer, and nobody begins another one.
func TestCallersShareTheFailureOfALoadThatHangs(t *testing.T) {
	for _, lent := range []bool{false, true} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("lent %v, many %v", lent, many), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 3)
					hangs := make(chan struct{})
					t.Cleanup(func() { close(hangs) })
					var loads atomic.Int64
					opts := peercache.Options[string]{
						LoadTimeout: 2 * time.Second,
						Load: func(context.Context, string) (string, error) {
							loads.Add(1)
							<-hangs
							return "too late", nil
						},
					}
					key := keyOf(c, 0, 1)
					all := []*peercache.Cache[string]{newCache(t, c.Nodes[2], opts)}
					if !lent {
						all = append(all, newCache(t, c.Nodes[0], opts), newCache(t, c.Nodes[1], opts))
					}
					var wait sync.WaitGroup
					began := time.Now()
					for i := range 60 {
						wait.Go(func() {
							time.Sleep(time.Duration(i) * 20 * time.Millisecond) // all but the first join
							var err error
							if many {
								_, err = all[i%len(all)].GetMany(t.Context(), []string{key})
							} else {
								_, err = all[i%len(all)].Get(t.Context(), key)
							}
							if since := time.Since(began); since > 2050*time.Millisecond {
								t.Errorf("caller %d waited until %v", i, since)
							}
							for _, want := range []error{peercache.ErrLoad, context.DeadlineExceeded} {
								if !errors.Is(err, want) {
									t.Errorf("caller %d: %v", i, err)
								}
							}
						})
					}
					wait.Wait()
					require.EqualValues(t, 1, loads.Load())
				})
			})
		}
	}
}
