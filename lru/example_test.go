package lru_test

import (
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/peercache/peercache/lru"
)

func Example() {
	store := lru.New(lru.Options{MaxBytes: 64 << 20})
	if err := store.Set("greeting", []byte("hello")); err != nil {
		fmt.Println(err)
	}
	value, ok := store.Get("greeting")
	fmt.Printf("%s %t\n", value, ok)
	fmt.Println(store.Delete("greeting"))
	_, ok = store.Get("greeting")
	fmt.Println(ok)
	// Output:
	// hello true
	// true
	// false
}

func ExampleStore_SetTTL() {
	var now time.Duration // a test's own clock; without Options.Now it is real time
	store := lru.New(lru.Options{Now: func() time.Duration { return now }})
	_ = store.SetTTL("session", []byte("42"), time.Minute)
	now += 59 * time.Second
	_, ok := store.Get("session")
	fmt.Println(ok)
	now += time.Second
	_, ok = store.Get("session")
	fmt.Println(ok)
	// Output:
	// true
	// false
}

func ExampleStore_Append() {
	store := lru.New(lru.Options{})
	_ = store.Set("a", []byte("apple"))
	buf := make([]byte, 0, 64)
	buf, ok := store.Append(buf, "a") // no allocation
	fmt.Printf("%s %t\n", buf, ok)
	// Output: apple true
}

// key makes a Key as a cluster does: the hash covers space and name, the shard follows from the hash.
func key(space uint32, name string) lru.Key {
	h := xxhash.Sum64String(fmt.Sprint(space, "/", name))
	return lru.Key{Hash: h, Space: space, Shard: uint16(h % 16), Name: name}
}

func ExampleStore_PutNewer() {
	store := lru.New(lru.Options{Shards: 16})
	version := func(n byte) lru.Version {
		return lru.Version{W: lru.Stamp{n}, V: lru.Stamp{n}}
	}
	k := key(1, "user:42")
	_, stored, _ := store.PutNewer(k, lru.Meta{Version: version(2)}, []byte("second"))
	fmt.Println(stored)
	found, stored, _ := store.PutNewer(k, lru.Meta{Version: version(1)}, []byte("first, but late"))
	fmt.Println(stored, found == version(2))
	value, _, _ := store.Read(k, nil)
	fmt.Printf("%s\n", value)
	// Output:
	// true
	// false true
	// second
}

func ExampleStore_Apply() {
	store := lru.New(lru.Options{})
	k := key(1, "counter")
	value := []byte{0}
	for range 3 {
		_, _ = store.Apply(k, &lru.Meta{}, value, func(old lru.Old) lru.Verdict {
			if old.Exists {
				value[0] = old.Value[0] + 1
			}
			return lru.Put
		})
	}
	fmt.Println(value[0])
	// Output: 2
}

func ExampleStore_Iterate() {
	store := lru.New(lru.Options{Shards: 16})
	for _, name := range []string{"a", "b", "c"} {
		k := key(1, name)
		k.Shard = 7
		_ = store.Put(k, lru.Meta{}, []byte("value of "+name))
	}
	n := 0
	for it := store.Iterate(7); it.Next(); {
		n++
	}
	fmt.Println(n, "entries")
	fmt.Println(store.DropShard(7), "dropped")
	// Output:
	// 3 entries
	// 3 dropped
}

func ExampleStore_SetSpaceLimit() {
	store := lru.New(lru.Options{MaxBytes: 16 << 20})
	store.SetSpaceLimit(1, 100<<10)
	for i := range 5000 {
		_ = store.Put(key(1, fmt.Sprint(i)), lru.Meta{}, make([]byte, 100))
		_ = store.Put(key(2, fmt.Sprint(i)), lru.Meta{}, make([]byte, 100))
	}
	limited, free := store.SpaceStats(1), store.SpaceStats(2)
	fmt.Println(limited.Bytes <= limited.MaxBytes, limited.Entries < 1000, free.Entries)
	// Output: true true 5000
}

func ExampleOptions() {
	store := lru.New(lru.Options{
		MaxBytes: 1 << 20,
		OnEvict: func(e lru.Entry, why lru.Reason) {
			if e.Shard == 0 && string(e.Bytes) == "first" {
				fmt.Printf("%s was %v\n", e.Bytes, why)
			}
		},
	})
	_ = store.Set("first", nil)
	for i := range 10_000 {
		_ = store.Set(fmt.Sprint(i), make([]byte, 100))
	}
	fmt.Println(store.Bytes() <= 1<<20)
	// Output:
	// first was evicted
	// true
}
