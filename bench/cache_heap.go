package main

import (
	"context"
	"strings"
	"sync"

	theine "github.com/Yiling-J/theine-go"
	"github.com/dgraph-io/ristretto/v2"
	"github.com/golang/groupcache"
	grouplru "github.com/golang/groupcache/lru"
	hashilru "github.com/hashicorp/golang-lru/v2"
	"github.com/maypok86/otter/v2"
)

// heapMakers are the contenders whose entries are objects of the heap. They are bounded by entries, and hand out what
// they hold.
func heapMakers() []Maker {
	return []Maker{
		{Name: "otter", Make: newOtter},
		{Name: "theine", Make: newTheine},
		{Name: "ristretto", Make: newRistretto},
		{Name: "golang-lru", Make: newHashi},
		{Name: "groupcache lru", Make: newGroupLRU},
		{Name: "groupcache Get", InBytes: true, Make: newGroup},
		{Name: "sync.Map", Make: func(Size) (Cache, error) { return &syncMap{}, nil }},
		{Name: "mutex map", Make: func(Size) (Cache, error) { return &mutexMap{m: map[string][]byte{}}, nil }},
	}
}

type otterCache struct{ c *otter.Cache[string, []byte] }

func newOtter(s Size) (Cache, error) {
	o := &otter.Options[string, []byte]{MaximumSize: s.Entries}
	if s.Exact {
		o.Executor = func(f func()) { f() }
	}
	c, err := otter.New(o)
	return otterCache{c}, err
}

func (c otterCache) Get(k *Key, _ []byte) ([]byte, bool) { return c.c.GetIfPresent(k.Name) }
func (c otterCache) Set(k *Key, value []byte)            { c.c.Set(strings.Clone(k.Name), own(value)) }
func (c otterCache) Len() int                            { c.c.CleanUp(); return c.c.EstimatedSize() }
func (c otterCache) Close()                              { c.c.StopAllGoroutines() }

type theineCache struct {
	c     *theine.Cache[string, []byte]
	exact bool
}

func newTheine(s Size) (Cache, error) {
	c, err := theine.NewBuilder[string, []byte](int64(s.Entries)).Build()
	return theineCache{c, s.Exact}, err
}

func (c theineCache) Get(k *Key, _ []byte) ([]byte, bool) { return c.c.Get(k.Name) }
func (c theineCache) Set(k *Key, value []byte) {
	c.c.Set(strings.Clone(k.Name), own(value), 1)
	if c.exact {
		c.c.Wait()
	}
}
func (c theineCache) Len() int { c.c.Wait(); return c.c.Len() }
func (c theineCache) Close()   { c.c.Close() }

type ristrettoCache struct {
	c     *ristretto.Cache[string, []byte]
	exact bool
}

func newRistretto(s Size) (Cache, error) {
	c, err := ristretto.NewCache(&ristretto.Config[string, []byte]{
		NumCounters: int64(10 * s.Entries), MaxCost: int64(s.Entries), BufferItems: 64, IgnoreInternalCost: true,
	})
	return ristrettoCache{c, s.Exact}, err
}

func (c ristrettoCache) Get(k *Key, _ []byte) ([]byte, bool) { return c.c.Get(k.Name) }
func (c ristrettoCache) Set(k *Key, value []byte) {
	c.c.Set(strings.Clone(k.Name), own(value), 1)
	if c.exact {
		c.c.Wait()
	}
}
func (c ristrettoCache) Len() int {
	c.c.Wait()
	return int(c.c.MaxCost() - c.c.RemainingCost())
}
func (c ristrettoCache) Close() { c.c.Close() }

type hashiCache struct {
	c *hashilru.Cache[string, []byte]
}

func newHashi(s Size) (Cache, error) {
	c, err := hashilru.New[string, []byte](s.Entries)
	return hashiCache{c}, err
}

func (c hashiCache) Get(k *Key, _ []byte) ([]byte, bool) { return c.c.Get(k.Name) }
func (c hashiCache) Set(k *Key, value []byte)            { c.c.Add(strings.Clone(k.Name), own(value)) }
func (c hashiCache) Len() int                            { return c.c.Len() }
func (c hashiCache) Close()                              {}

// groupLRU is groupcache's store, under a mutex as groupcache has it.
type groupLRU struct {
	mu sync.Mutex
	c  *grouplru.Cache // guarded by mu
}

func newGroupLRU(s Size) (Cache, error) { return &groupLRU{c: grouplru.New(s.Entries)}, nil }

func (c *groupLRU) Get(k *Key, _ []byte) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.c.Get(k.Name)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}

func (c *groupLRU) Set(k *Key, value []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.c.Add(strings.Clone(k.Name), own(value))
}

func (c *groupLRU) Len() int { c.mu.Lock(); defer c.mu.Unlock(); return c.c.Len() }
func (c *groupLRU) Close()   {}

// group is a groupcache group without peers. What it loads is what was Set last.
type group struct {
	g     *groupcache.Group
	mu    sync.Mutex
	value []byte // guarded by mu
	load  bool   // guarded by mu: a miss may load
	ctx   context.Context
}

func newGroup(s Size) (Cache, error) {
	c := &group{ctx: context.Background()}
	c.g = groupcache.NewGroup("bench", s.Bytes, groupcache.GetterFunc(func(_ context.Context, _ string, dest groupcache.Sink) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.load {
			return errMiss
		}
		return dest.SetBytes(c.value)
	}))
	return c, nil
}

type missError struct{}

func (missError) Error() string { return "miss" }

var errMiss error = missError{}

func (c *group) Get(k *Key, _ []byte) ([]byte, bool) {
	var v []byte
	err := c.g.Get(c.ctx, k.Name, groupcache.AllocatingByteSliceSink(&v))
	return v, err == nil
}

func (c *group) Set(k *Key, value []byte) {
	c.mu.Lock()
	c.value, c.load = own(value), true
	c.mu.Unlock()
	var v groupcache.ByteView
	_ = c.g.Get(c.ctx, k.Name, groupcache.ByteViewSink(&v))
	c.mu.Lock()
	c.load = false
	c.mu.Unlock()
}

func (c *group) Len() int { return int(c.g.CacheStats(groupcache.MainCache).Items) }
func (c *group) Close()   {}

// syncMap and mutexMap bound nothing: they are there to show what a bound costs.
type syncMap struct{ m sync.Map }

func (c *syncMap) Get(k *Key, _ []byte) ([]byte, bool) {
	v, ok := c.m.Load(k.Name)
	if !ok {
		return nil, false
	}
	return v.([]byte), true
}
func (c *syncMap) Set(k *Key, value []byte) { c.m.Store(strings.Clone(k.Name), own(value)) }
func (c *syncMap) Len() int {
	n := 0
	c.m.Range(func(any, any) bool { n++; return true })
	return n
}
func (c *syncMap) Close() {}

type mutexMap struct {
	mu sync.Mutex
	m  map[string][]byte // guarded by mu
}

func (c *mutexMap) Get(k *Key, _ []byte) ([]byte, bool) {
	c.mu.Lock()
	v, ok := c.m[k.Name]
	c.mu.Unlock()
	return v, ok
}
func (c *mutexMap) Set(k *Key, value []byte) {
	c.mu.Lock()
	c.m[strings.Clone(k.Name)] = own(value)
	c.mu.Unlock()
}
func (c *mutexMap) Len() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.m) }
func (c *mutexMap) Close()   {}
