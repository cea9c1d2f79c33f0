package lru

import (
	"hash/maphash"
	"math/rand/v2"
)

// The keys of a Store may be chosen by somebody who wants it to be slow, and a caller's hash may be one of which it is easy
// to find keys with equal hashes, or with hashes that are near each other. So where a record is in the index depends on
// secrets of the Store: on a keyed permutation of the hash, which gives its segment and its first tag; and, when sameTag
// others have the same first tag, on a keyed hash of the key itself, which gives its second tag. All keys of one hash are in
// one segment, and to find one of them takes at most sameTag comparisons more than to find any other.

// sameTag is how many records the index has by the same first tag.
const sameTag = 2

// seeds are the secrets of a Store.
type seeds struct {
	flip   uint64
	factor uint64 // odd
	keys   maphash.Seed
}

func newSeeds() seeds {
	return seeds{flip: rand.Uint64(), factor: rand.Uint64() | 1, keys: maphash.MakeSeed()}
}

// mix spreads a caller's hash: the finalizer of splitmix64, with a key in place of its first constant.
func (s *seeds) mix(h uint64) uint64 {
	h ^= s.flip
	h = (h ^ h>>30) * s.factor
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// tagOf returns the first tag, which belongs to a mixed hash. A tag is not 0.
func tagOf(h uint64) uint32 { return max(uint32(h), 1) }

// secondTag returns the second tag of a key.
func (s *seeds) secondTag(k *Key) uint32 {
	var h uint64
	if k.Name != "" {
		h = maphash.String(s.keys, k.Name)
	} else {
		h = maphash.Bytes(s.keys, k.Bytes)
	}
	return tagOf(s.mix(h + uint64(k.Space)*0x9e3779b97f4a7c15))
}
