// Package lru is a cache of byte strings in memory: bounded in bytes, expiring, resistant to scans, and made so that the
// garbage collector hardly sees it. It is the local store of a peercache node, and useful alone.
//
//	store := lru.New(lru.Options{MaxBytes: 64 << 20})
//	err := store.Set("greeting", []byte("hello"))
//	value, ok := store.Get("greeting")
//
// Set, SetTTL, Get, Append and Delete are all that a plain cache needs. The other methods take a [Key], which names a
// space and a shard beside the key itself and brings its hash along, and a [Meta] with version, expiry and some bits for
// the caller.
//
// # Words
//
// An entry is a key, its value and its Meta. A space is one of several caches that share a Store, with counts and, if
// wanted, a limit of its own. A shard is a slice of the keys that can be iterated over or dropped at the cost of what
// it holds. A segment is one of the parts that the Store is divided into by hash, each with its own lock.
//
// # What it does
//
// The memory bound is hard: records, index, and all else that grows with use are counted as the allocator counts
// them, and charged before they are taken. Memory is taken as entries come. Evicting makes room by whole blocks,
// oldest first, so that a full Store holds a few percent less than its bound. An entry costs about 40 bytes beyond key
// and value, plus 6 for an expiry and 16 or 32 for a version, and about 6 more once the Store evicts. A key and value
// that together exceed 256 bytes to 32 KiB, by the size of the Store (2 KiB at 256 MiB), are kept in an allocation of
// their own.
//
// Which entries stay is decided by a variant of S3-FIFO, whose details are in evict.go. It keeps what is read again
// and again, and lets go early of what is read once; a write does not count as a read. An entry that is overwritten
// by one of another size, or deleted, leaves a gap, which is closed when it comes to be evicted, or when gaps take
// more than a fifth of a segment.
//
// Expired entries are not to be seen but by [Store.Stat], [Store.Apply] and [Store.RemoveIf], and give their room back
// when their turn comes. There are no goroutines and no timers.
//
// # Memory and the collector
//
// The blocks are memory of Go's heap without pointers: a cycle of the collector goes by them in about a millisecond,
// whatever they hold. But they count in its pacing. With GOGC at its default of 100 the collector lets the garbage of the
// whole program grow to as much as there is live memory, and blocks are live: a program with a full Store of 512 MiB
// that made garbage fast took 1,044 MiB at most. Give such a program a limit, with GOMEMLIMIT or debug.SetMemoryLimit: MaxBytes,
// an eighth of it, and what the program needs for itself. Under a limit of 624 MiB the same program took 624 MiB, and
// the collector ran twice a second rather than once in two. A store of 10 GiB needs a limit of 11.25 GiB and the rest of the program; without
// one be prepared for 20 GiB. (TestResidentMemory measures it: go test -run ResidentMemory -long 1m ./lru.)
//
// # What it does not promise
//
// Any entry may leave at any time, with a call of OnEvict. A Put may evict and then not store, when its decide function
// says so. Iteration shows each entry at some moment, not all at one moment.
package lru
