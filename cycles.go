package peercache

import "time"

// glanceTime is how long a glance at the clock may lag behind it.
const glanceTime = 5 * time.Millisecond

// cyclesIn returns of how many cycles of the processor's counter one may be
// sure that they take no longer than d, or 0 if cycles are of no use: there is
// no counter, it is slower than the clock (some virtual machines trap it), or
// time is not real (testing/synctest).
//
// The counter only tells when to look at the clock again, so it need not be
// exact, nor the same on all cores: one that is behind the last look seems far
// ahead of it. One that stood still while the machine slept delays the look
// until the machine has run for d.
func cyclesIn(d time.Duration) uint64 {
	const reads = 100
	for range 3 { // should this be interrupted
		// A pause anywhere makes the time longer and not the cycles more, for
		// which reason the time is read first and last.
		t0 := time.Now()
		first := cycles()
		for range reads {
			cycles()
		}
		t1 := time.Now()
		t2 := t1
		for range reads {
			t2 = time.Now()
		}
		counted := cycles() - first
		took := time.Since(t0)
		if t1.Sub(t0) < t2.Sub(t1) && counted > 0 && counted < 1<<32 {
			return uint64(float64(counted) / float64(took) * float64(d))
		}
	}
	return 0
}
