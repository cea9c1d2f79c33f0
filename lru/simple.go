package lru

import (
	"time"

	"github.com/cespare/xxhash/v2"
)

// KeyOf returns the Key of a name in space 0, as Set and Get use it: hashed with xxhash, its shard taken from the hash.
func (s *Store) KeyOf(name string) Key {
	h := xxhash.Sum64String(name)
	return Key{Hash: h, Name: name, Shard: uint16(h % uint64(s.shards))}
}

// Set stores a copy of value under a name, for good: until it is overwritten, deleted or evicted. The error is ErrTooLarge
// or nil.
func (s *Store) Set(name string, value []byte) error {
	return s.Put(s.KeyOf(name), Meta{}, value)
}

// SetTTL stores a copy of value under a name for the given time; without end if that is not positive.
func (s *Store) SetTTL(name string, value []byte, ttl time.Duration) error {
	var m Meta
	if ttl > 0 {
		m.Expires = max(s.now(), 0)
		m.Expires += min(ttl, maxDuration-m.Expires)
	}
	return s.Put(s.KeyOf(name), m, value)
}

// Get returns a copy of the value under a name. An empty value is not nil.
func (s *Store) Get(name string) ([]byte, bool) {
	k := s.KeyOf(name)
	v, _, ok := s.read(&k, nil, true)
	if ok && v == nil {
		v = []byte{}
	}
	return v, ok
}

// Append appends the value under a name to dst. It allocates only to grow dst.
func (s *Store) Append(dst []byte, name string) ([]byte, bool) {
	k := s.KeyOf(name)
	v, _, ok := s.read(&k, dst, true)
	return v, ok
}

// Delete removes what is under a name and returns whether there was something.
func (s *Store) Delete(name string) bool {
	return s.Remove(s.KeyOf(name))
}
