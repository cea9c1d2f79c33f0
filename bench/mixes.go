package main

import "math/rand/v2"

// A mix is a trace that is made: keys are numbers, small enough to be counted in a table.
type mix struct {
	name string
	make func(length int) []uint32
}

const (
	mixKeys  = 100_000 // popular keys of a mix
	mixOnce  = 1 << 20 // numbers from here on are of keys that are read once
	mixOther = 1 << 19 // numbers from here on are of keys of a loop
)

func mixes() []mix {
	zipfOf := func(seed uint64, s float64, keys uint64) func() uint32 {
		z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), s, 1, keys-1)
		return func() uint32 { return uint32(z.Uint64()) }
	}
	scan := func(name string, s float64) mix {
		return mix{name, func(length int) []uint32 {
			next, once := zipfOf(7, s, mixKeys), uint32(mixOnce)
			return fill(length, func(i int) uint32 {
				if i%12_000 < 9000 {
					return next()
				}
				once++
				return once
			})
		}}
	}
	return []mix{
		{"zipf 1.01", func(length int) []uint32 {
			next := zipfOf(3, 1.01, mixKeys)
			return fill(length, func(int) uint32 { return next() })
		}},
		scan("zipf 1.01 and scans", 1.01),
		scan("zipf 1.1 and scans", 1.1),
		scan("zipf 1.3 and scans", 1.3),
		{"zipf and a loop", func(length int) []uint32 {
			next := zipfOf(9, 1.05, mixKeys/2)
			return fill(length, func(i int) uint32 {
				if i%3 == 0 {
					return mixOther + uint32(i/3%20_000)
				}
				return next()
			})
		}},
		{"shifting hot set", func(length int) []uint32 {
			next := zipfOf(9, 1.05, mixKeys/2)
			return fill(length, func(i int) uint32 { return next() + uint32(i/100_000)*500 })
		}},
		{"one-hit wonders", func(length int) []uint32 {
			next, coin, once := zipfOf(5, 1.05, mixKeys), rand.New(rand.NewPCG(5, 2)), uint32(mixOnce)
			return fill(length, func(int) uint32 {
				if coin.IntN(2) == 0 {
					return next()
				}
				once++
				return once
			})
		}},
	}
}

func fill(length int, next func(i int) uint32) []uint32 {
	out := make([]uint32, length)
	for i := range out {
		out[i] = next(i)
	}
	return out
}
