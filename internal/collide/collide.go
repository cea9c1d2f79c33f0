// Package collide makes keys of one xxhash64, for tests of what must not get slow or large by them.
//
// The last 8 bytes of a key of 16 bytes can be reckoned from the first 8 and the hash, since every step of xxhash64 over
// them can be undone.
package collide

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// The primes of xxhash64 that short keys meet.
const (
	prime1 uint64 = 0x9e3779b185ebca87
	prime2 uint64 = 0xc2b2ae3d27d4eb4f
	prime3 uint64 = 0x165667b19e3779f9
	prime4 uint64 = 0x85ebca77c2b2ae63
	prime5 uint64 = 0x27d4eb2f165667c5
)

// Keys returns n keys of 16 bytes whose xxhash64 is hash. They begin with their number, printed.
func Keys(hash uint64, n int) []string {
	target := unfold(before(hash))
	keys := make([]string, n)
	for i := range keys {
		b := fmt.Appendf(make([]byte, 0, 16), "%08x", i)
		h := fold((prime5 + 16) ^ lane(binary.LittleEndian.Uint64(b)))
		keys[i] = string(binary.LittleEndian.AppendUint64(b, unlane(h^target)))
	}
	return keys
}

// before undoes the last steps of xxhash64.
func before(h uint64) uint64 {
	h ^= h >> 32
	h *= inverse(prime3)
	h ^= h>>29 ^ h>>58
	h *= inverse(prime2)
	return h ^ h>>33
}

// lane is what 8 bytes do to the state.
func lane(x uint64) uint64 { return bits.RotateLeft64(x*prime2, 31) * prime1 }

func unlane(x uint64) uint64 { return bits.RotateLeft64(x*inverse(prime1), -31) * inverse(prime2) }

// fold is what comes after each 8 bytes.
func fold(h uint64) uint64 { return bits.RotateLeft64(h, 27)*prime1 + prime4 }

func unfold(h uint64) uint64 { return bits.RotateLeft64((h-prime4)*inverse(prime1), -27) }

// inverse returns the number whose product with an odd one is 1 (Newton's method; each round doubles the bits).
func inverse(odd uint64) uint64 {
	x := odd
	for range 6 {
		x *= 2 - odd*x
	}
	return x
}
