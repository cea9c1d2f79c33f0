package peercache

import "hash/maphash"

// hash returns the hash of a key that the other methods take. It is not the one
// that places keys, of which anybody can make keys that collide: they would
// share one bucket here.
func (n *near[V]) hash(key string) uint64 { return maphash.String(n.seed, key) }

// mixHash spreads a key's hash (Knuth, The Art of Computer Programming 3, 6.4).
// From the top there are 6 bits for the stripe, 5 for the change counter, 7 for
// the tag; 20 bits from bit 20 are the bucket's.
func mixHash(hash uint64) uint64 { return hash * 0x9e3779b97f4a7c15 }

func nearTag(mixed uint64) uint64 { return mixed>>46&0x7f | 0x80 }

// nearTagBits are the bits that every tag has set.
const nearTagBits = 0x80808080808080

// matches has the top bit of byte i set if way i may hold the tag: always
// when it does, and seldom when it does not.
func matches(tags, tag uint64) uint64 {
	const ones = nearTagBits >> 7
	x := tags ^ tag*ones
	return (x - ones) &^ x & nearTagBits
}
