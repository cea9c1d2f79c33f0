package main

import (
	"container/list"
	"strings"

	hashilru "github.com/hashicorp/golang-lru/v2"
)

// ratioMakers are policies that are of interest for their hit ratios only. Two are written down here from their papers,
// since there is no module of them to compare with.
func ratioMakers() []Maker {
	return []Maker{
		{Name: "2Q", Make: func(s Size) (Cache, error) {
			c, err := hashilru.New2Q[string, []byte](s.Entries)
			return twoQueues{c}, err
		}},
		{Name: "SIEVE", Make: func(s Size) (Cache, error) {
			return &sieve{size: s.Entries, queue: list.New(), at: map[string]*list.Element{}}, nil
		}},
		{Name: "S3-FIFO", Make: func(s Size) (Cache, error) { return newS3FIFO(s.Entries), nil }},
	}
}

// ratioMakerOf returns a contender of the hit ratios.
func ratioMakerOf(name string) (Maker, error) {
	for _, m := range ratioMakers() {
		if m.Name == name {
			return m, nil
		}
	}
	return makerOf(name)
}

type twoQueues struct {
	c *hashilru.TwoQueueCache[string, []byte]
}

func (c twoQueues) Get(k *Key, _ []byte) ([]byte, bool) { return c.c.Get(k.Name) }
func (c twoQueues) Set(k *Key, value []byte)            { c.c.Add(strings.Clone(k.Name), own(value)) }
func (c twoQueues) Len() int                            { return c.c.Len() }
func (c twoQueues) Close()                              {}

// policyEntry is an entry of the policies below. Values do not matter to them.
type policyEntry struct {
	key  string
	uses int
}

// sieve is SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024).
type sieve struct {
	size  int
	queue *list.List // newest first
	hand  *list.Element
	at    map[string]*list.Element
}

func (c *sieve) Get(k *Key, _ []byte) ([]byte, bool) {
	e, ok := c.at[k.Name]
	if ok {
		e.Value.(*policyEntry).uses = 1
	}
	return nil, ok
}

func (c *sieve) Set(k *Key, _ []byte) {
	if c.queue.Len() >= c.size {
		e := c.hand
		for {
			if e == nil {
				e = c.queue.Back()
			}
			p := e.Value.(*policyEntry)
			if p.uses == 0 {
				break
			}
			p.uses = 0
			e = e.Prev()
		}
		c.hand = e.Prev()
		delete(c.at, c.queue.Remove(e).(*policyEntry).key)
	}
	c.at[k.Name] = c.queue.PushFront(&policyEntry{key: k.Name})
}

func (c *sieve) Len() int { return c.queue.Len() }
func (c *sieve) Close()   {}

// s3FIFO is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, SOSP 2023, algorithm 1).
type s3FIFO struct {
	size, smallSize    int
	small, main, ghost *list.List // newest first
	at                 map[string]*list.Element
	ghosts             map[string]*list.Element
}

func newS3FIFO(size int) *s3FIFO {
	return &s3FIFO{size: size, smallSize: max(size/10, 1), small: list.New(), main: list.New(), ghost: list.New(),
		at: map[string]*list.Element{}, ghosts: map[string]*list.Element{}}
}

func (c *s3FIFO) Get(k *Key, _ []byte) ([]byte, bool) {
	e, ok := c.at[k.Name]
	if ok {
		p := e.Value.(*policyEntry)
		p.uses = min(p.uses+1, 3)
	}
	return nil, ok
}

func (c *s3FIFO) Set(k *Key, _ []byte) {
	for c.Len() >= c.size {
		if c.small.Len() >= c.smallSize || c.main.Len() == 0 {
			c.evictSmall()
		} else {
			c.evictMain()
		}
	}
	p := &policyEntry{key: k.Name}
	if g, ok := c.ghosts[k.Name]; ok {
		c.ghost.Remove(g)
		delete(c.ghosts, k.Name)
		c.at[k.Name] = c.main.PushFront(p)
	} else {
		c.at[k.Name] = c.small.PushFront(p)
	}
}

func (c *s3FIFO) evictSmall() {
	for c.small.Len() > 0 {
		p := c.small.Remove(c.small.Back()).(*policyEntry)
		if p.uses > 1 {
			p.uses = 0
			c.at[p.key] = c.main.PushFront(p)
			continue
		}
		delete(c.at, p.key)
		c.ghosts[p.key] = c.ghost.PushFront(p.key)
		if c.ghost.Len() > c.size-c.smallSize {
			delete(c.ghosts, c.ghost.Remove(c.ghost.Back()).(string))
		}
		return
	}
	c.evictMain()
}

func (c *s3FIFO) evictMain() {
	for c.main.Len() > 0 {
		e := c.main.Back()
		p := e.Value.(*policyEntry)
		if p.uses == 0 {
			delete(c.at, c.main.Remove(e).(*policyEntry).key)
			return
		}
		p.uses--
		c.main.MoveToFront(e)
	}
}

func (c *s3FIFO) Len() int { return c.small.Len() + c.main.Len() }
func (c *s3FIFO) Close()   {}
