// Package peercachetest runs whole clusters in a test: the real HTTP, framing
// and gossip code on a network in memory, in the virtual time of
// [testing/synctest]. No ports, no sleeps.
//
//	func TestUsers(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			cluster := peercachetest.NewCluster(t, 3)
//			...
//			cluster.Kill(0)
//			...
//		})
//	}
//
// [Network] has the faults: cut links in one direction or both, delays,
// stalls, resets, and nodes that stop together with their clocks.
package peercachetest
