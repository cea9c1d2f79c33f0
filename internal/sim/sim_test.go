package sim_test

import (
	"flag"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/peercache/peercache/internal/sim"
)

var (
	seeds = flag.Int("sim.seeds", 0, "how many seeds to run; 0: as many as take about a minute")
	first = flag.Uint64("sim.first", 1, "the first of them")
	seed  = flag.Uint64("sim.seed", 0, "the only seed to run, with all that happened")
	times = flag.Int("sim.times", 1, "how often to run it")
	stop  = flag.Bool("sim.stop", false, "run no more seeds after one that failed")
	plan  = flag.String("sim.plan", "", "the plan that all scripts follow; empty: the seed decides")
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(200) // worlds are small and make much garbage
	goleak.VerifyTestMain(m)
}

func script(seed uint64) *sim.Script {
	if *plan != "" {
		return sim.NewScriptOf(seed, *plan)
	}
	return sim.NewScript(seed)
}

// run plays a seed's script in a bubble and reports what was not kept.
func run(t *testing.T, seed uint64, whole bool) {
	var result *sim.Result
	s := script(seed)
	synctest.Test(t, func(*testing.T) { result = sim.Run(s) })
	violations := result.Check()
	if len(violations) == 0 {
		return
	}
	again := fmt.Sprintf("go test ./internal/sim -run TestSeeds -sim.seed=%d -sim.times=20", seed)
	if *plan != "" {
		again += " -sim.plan=" + *plan
	}
	t.Errorf("%s\nto run it again: %s", result.Report(violations, whole), again)
}

// TestSeeds plays scripts and judges what came of them.
func TestSeeds(t *testing.T) {
	if *seed != 0 {
		t.Log(script(*seed))
		for range *times {
			if run(t, *seed, true); t.Failed() {
				return
			}
		}
		return
	}
	count := *seeds
	if count == 0 {
		count = 200
		if testing.Short() {
			count = 20
		}
	}
	var failed atomic.Bool
	for i := range uint64(count) {
		t.Run(fmt.Sprint(*first+i), func(t *testing.T) {
			t.Parallel()
			if *stop && failed.Load() {
				t.Skip("another seed has failed")
			}
			defer func() {
				if t.Failed() {
					failed.Store(true)
				}
			}()
			run(t, *first+i, false)
		})
	}
}
