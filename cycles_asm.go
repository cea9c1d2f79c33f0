//go:build amd64 || arm64

package peercache

// cycles returns a counter of the processor that goes on at a steady rate and
// costs a few nanoseconds to read: RDTSC, CNTVCT_EL0. It differs between cores
// of some machines.
func cycles() uint64
