package main

import (
	"bytes"
	"fmt"
	"slices"
)

// A Key is a key in both forms, so that nobody pays for making one of the other.
type Key struct {
	Name  string
	Bytes []byte
}

// A Cache is what the local sections ask of every contender. Get and Set may be called concurrently.
type Cache interface {
	// Get returns the value of a key, in the way in which the contender's users get it: shared with others, in memory of
	// its own, or in dst, which is the caller's to reuse.
	Get(k *Key, dst []byte) ([]byte, bool)
	// Set stores a value, which is the caller's to reuse.
	Set(k *Key, value []byte)
	Len() int
	Close()
}

// A Size bounds a cache: by entries if it can count them, else by bytes.
type Size struct {
	Entries int
	Bytes   int64
	Exact   bool // take the time to admit, count and evict at once rather than in the background, where there is a choice
}

// A Maker makes an empty cache.
type Maker struct {
	Name    string
	Make    func(s Size) (Cache, error)
	InBytes bool // bounded by bytes, whatever Size.Entries says
}

// makers are all contenders of the local sections.
func makers() []Maker {
	return slices.Concat(ownMakers(), heapMakers(), denseMakers())
}

func makerOf(name string) (Maker, error) {
	for _, m := range makers() {
		if m.Name == name {
			return m, nil
		}
	}
	return Maker{}, fmt.Errorf("no contender %q", name)
}

// names returns the names of the local contenders but for some.
func names(except ...string) []string {
	var out []string
	for _, m := range makers() {
		if !slices.Contains(except, m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}

// numberedKey is key number i: 16 bytes.
func numberedKey(i int) Key {
	name := fmt.Sprintf("user:%011d", i)
	return Key{name, []byte(name)}
}

func numberedKeys(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = numberedKey(i)
	}
	return keys
}

// own returns a copy of a value for a cache that keeps what it is given.
func own(value []byte) []byte { return bytes.Clone(value) }
