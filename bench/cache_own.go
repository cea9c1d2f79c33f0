package main

import (
	"context"
	"fmt"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/lru"
)

func ownMakers() []Maker {
	return []Maker{
		{Name: "peercache Get, near hit", InBytes: true, Make: func(s Size) (Cache, error) { return newNode(s.Bytes, 1) }},
		{Name: "peercache Get, past the near tier", InBytes: true, Make: func(s Size) (Cache, error) { return newNode(s.Bytes, 4000) }},
		{Name: "peercache lru.Get", InBytes: true, Make: func(s Size) (Cache, error) {
			return ownStore{lru.New(lru.Options{MaxBytes: s.Bytes})}, nil
		}},
		{Name: "peercache lru.Append", InBytes: true, Make: func(s Size) (Cache, error) {
			return ownStoreAppend{ownStore{lru.New(lru.Options{MaxBytes: s.Bytes})}}, nil
		}},
	}
}

type ownStore struct{ s *lru.Store }

func (c ownStore) Get(k *Key, _ []byte) ([]byte, bool) { return c.s.Get(k.Name) }
func (c ownStore) Set(k *Key, value []byte)            { _ = c.s.Set(k.Name, value) }
func (c ownStore) Len() int                            { return c.s.Len() }
func (c ownStore) Close()                              {}

type ownStoreAppend struct{ ownStore }

func (c ownStoreAppend) Get(k *Key, dst []byte) ([]byte, bool) { return c.s.Append(dst[:0], k.Name) }

// ownNode is a node alone in its cluster.
type ownNode struct {
	n   *peercache.Node
	c   *peercache.Cache[[]byte]
	ctx context.Context
}

// newNode makes a node with some caches, which share the room for decoded values: with thousands of them there is next
// to none for each.
func newNode(maxBytes int64, caches int) (Cache, error) {
	ctx := context.Background()
	n, err := peercache.Start(ctx, peercache.Config{MaxBytes: maxBytes})
	if err != nil {
		return nil, err
	}
	c, err := peercache.New(n, "bench", peercache.Options[[]byte]{})
	for i := 1; i < caches && err == nil; i++ {
		_, err = peercache.New(n, fmt.Sprint("other", i), peercache.Options[[]byte]{})
	}
	if err != nil {
		return nil, err
	}
	return ownNode{n, c, ctx}, nil
}

func (c ownNode) Get(k *Key, _ []byte) ([]byte, bool) {
	v, err := c.c.Get(c.ctx, k.Name)
	return v, err == nil
}
func (c ownNode) Set(k *Key, value []byte) { _ = c.c.Set(c.ctx, k.Name, value) }
func (c ownNode) Len() int                 { return int(c.c.Stats().Entries) }
func (c ownNode) Close()                   { _ = c.n.Close() }
