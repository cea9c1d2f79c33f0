package main

import (
	"context"
	"time"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/allegro/bigcache/v3"
	"github.com/coocood/freecache"
)

// denseMakers are the contenders that keep entries in large pieces of memory, bounded by bytes. What they hand out is a
// copy.
func denseMakers() []Maker {
	return []Maker{
		{Name: "freecache", InBytes: true, Make: func(s Size) (Cache, error) { return freeCache{freecache.NewCache(int(s.Bytes))}, nil }},
		{Name: "freecache, buffer", InBytes: true, Make: func(s Size) (Cache, error) {
			return freeCacheBuffer{freeCache{freecache.NewCache(int(s.Bytes))}}, nil
		}},
		{Name: "bigcache", InBytes: true, Make: newBig},
		{Name: "fastcache", InBytes: true, Make: func(s Size) (Cache, error) { return fastCache{fastcache.New(int(s.Bytes))}, nil }},
	}
}

type freeCache struct{ c *freecache.Cache }

func (c freeCache) Get(k *Key, _ []byte) ([]byte, bool) {
	v, err := c.c.Get(k.Bytes)
	return v, err == nil
}
func (c freeCache) Set(k *Key, value []byte) { _ = c.c.Set(k.Bytes, value, 0) }
func (c freeCache) Len() int                 { return int(c.c.EntryCount()) }
func (c freeCache) Close()                   {}

type freeCacheBuffer struct{ freeCache }

func (c freeCacheBuffer) Get(k *Key, dst []byte) ([]byte, bool) {
	v, err := c.c.GetWithBuf(k.Bytes, dst[:cap(dst)])
	return v, err == nil
}

type bigCache struct{ c *bigcache.BigCache }

func newBig(s Size) (Cache, error) {
	conf := bigcache.DefaultConfig(24 * time.Hour)
	conf.CleanWindow = 0
	conf.Verbose = false
	conf.HardMaxCacheSize = max(int(s.Bytes>>20), 1)
	conf.MaxEntriesInWindow = 1 << 10
	if s.Bytes < 64<<20 {
		conf.Shards = 16
	}
	c, err := bigcache.New(context.Background(), conf)
	return bigCache{c}, err
}

func (c bigCache) Get(k *Key, _ []byte) ([]byte, bool) {
	v, err := c.c.Get(k.Name)
	return v, err == nil
}
func (c bigCache) Set(k *Key, value []byte) { _ = c.c.Set(k.Name, value) }
func (c bigCache) Len() int                 { return c.c.Len() }
func (c bigCache) Close()                   { _ = c.c.Close() }

type fastCache struct{ c *fastcache.Cache }

func (c fastCache) Get(k *Key, dst []byte) ([]byte, bool) { return c.c.HasGet(dst[:0], k.Bytes) }
func (c fastCache) Set(k *Key, value []byte)              { c.c.Set(k.Bytes, value) }
func (c fastCache) Len() int {
	var s fastcache.Stats
	c.c.UpdateStats(&s)
	return int(s.EntriesCount)
}
func (c fastCache) Close() { c.c.Reset() }
