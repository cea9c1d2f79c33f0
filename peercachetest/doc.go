// Package peercachetest runs whole clusters in a test: the real HTTP, framing
// and gossip code on a network in memory, in the virtual time of
// [testing/synctest]. No ports, no sleeps.
//
//	func TestUsers(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			cluster := peercachetest.NewCluster(t, 3)
//			...
//			cluster.Kill(0)
//			cluster.WaitAgree()
//			...
//		})
//	}
//
// A [Cluster] starts, kills, freezes and shuts down its nodes, and waits until
// they agree on who is there. What it waits for has happened when it returns:
// a test needs no sleeps of its own.
//
// [Network] has the faults: cut links in one direction or both, delays,
// stalls, resets, and nodes that stop together with their clocks.
//
// Run such tests under the race detector with -cpu 1. The timers of a bubble
// share one context of the detector, up to Go 1.26 at least, which goroutines on
// several processors corrupt: after some minutes the process may die with a
// SIGSEGV in the detector itself. It finds the same races with one processor.
package peercachetest
