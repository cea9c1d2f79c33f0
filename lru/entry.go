package lru

import (
	"bytes"
	"time"
)

// Stamp is one half of a Version: 16 bytes whose order is that of bytes.Compare.
type Stamp [16]byte

// Version orders the states of one key: by W, then by V. The Store compares versions and knows nothing else about them.
// The zero Version means none and costs no room; one with W equal to V costs 16 bytes, any other 32.
type Version struct {
	W, V Stamp
}

// Compare returns -1, 0 or +1 as v comes before, is equal to, or comes after o.
func (v Version) Compare(o Version) int {
	if c := bytes.Compare(v.W[:], o.W[:]); c != 0 {
		return c
	}
	return bytes.Compare(v.V[:], o.V[:])
}

// IsZero says whether v is the zero Version.
func (v Version) IsZero() bool { return v == Version{} }

// Key names an entry. Two keys are the same if Space and name are; Hash and Shard must follow from these.
type Key struct {
	// Hash is a 64-bit hash of Space and name, made by the caller so that it is made once. Any bits may be weak. Keys
	// of equal hashes may be as many as one likes, and are found nearly as soon as others.
	Hash uint64
	// Space numbers the cache that the key belongs to. Each space has its own counts and may have its own limit.
	Space uint32
	// Shard is below Options.Shards; greater ones are taken modulo that.
	Shard uint16
	// Name is the key itself, 0 to MaxKeyBytes long.
	Name string
	// Bytes is the key itself if Name is empty. The Store keeps nothing of it.
	Bytes []byte
}

// String returns the key itself as a string.
func (k Key) String() string {
	if k.Name != "" {
		return k.Name
	}
	return string(k.Bytes)
}

func (k *Key) len() int {
	if k.Name != "" {
		return len(k.Name)
	}
	return len(k.Bytes)
}

func (k *Key) copyTo(dst []byte) int {
	if k.Name != "" {
		return copy(dst, k.Name)
	}
	return copy(dst, k.Bytes)
}

func (k *Key) is(b []byte) bool {
	if k.Name != "" {
		return string(b) == k.Name
	}
	return string(b) == string(k.Bytes)
}

// Meta is what an entry carries beside key and value.
type Meta struct {
	Version Version
	// Expires is the moment on the clock of Options.Now from which the entry is no longer there, kept in whole
	// milliseconds, rounded up. 0 means never; a negative moment is in the past.
	Expires time.Duration
	// Tag and Flags are the caller's, kept as they are.
	Tag   uint16
	Flags uint8
	// Heat, 0 to MaxHeat, says how well the entry has earned its place: it grows with reads and with survival. In a Put
	// of a key that is absent it is where the entry begins; 0 for an ordinary new entry, the Heat of its copy for one
	// that comes from another Store.
	Heat uint8
}

// MaxHeat is the greatest Meta.Heat.
const MaxHeat = 7

// Entry is an entry as iteration and hooks show it. Key.Bytes holds the key, Key.Name is empty.
type Entry struct {
	Key
	Meta
	Value []byte
}

// Old is what Apply finds under a key.
type Old struct {
	Meta
	// Value is valid until decide returns and must not be changed.
	Value []byte
	// Exists says that there is an entry at all. An expired one exists until its room is needed, so that its version
	// can be compared.
	Exists bool
	// Expired says that the entry exists but is not to be seen any more.
	Expired bool
}

// Verdict is what a decide function wants done.
type Verdict uint8

const (
	// Keep leaves things as they are.
	Keep Verdict = iota
	// Put puts the new entry in place of the old.
	Put
	// Remove deletes the old entry.
	Remove
)

// Error is an error of this package, comparable with ==.
type Error string

// Error returns the message.
func (e Error) Error() string { return string(e) }

// ErrTooLarge says that a key is longer than MaxKeyBytes, that a value is larger than a third of the bound, or that an
// entry does not fit in the limit of its space or beside what the Store needs for itself.
const ErrTooLarge = Error("lru: entry too large")
