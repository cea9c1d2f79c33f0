package main

import (
	"strings"

	hashilru "github.com/hashicorp/golang-lru/v2"
)

// ratioMakerOf returns a contender of the hit ratios: a local one, or a policy that is of interest here only.
func ratioMakerOf(name string) (Maker, error) {
	if name == "2Q" {
		return Maker{Name: name, Make: func(s Size) (Cache, error) {
			c, err := hashilru.New2Q[string, []byte](s.Entries)
			return twoQueues{c}, err
		}}, nil
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
