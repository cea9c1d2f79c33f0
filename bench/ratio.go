package main

import (
	"fmt"
	"strings"
)

// ratioValue is the size of values in the traces.
const ratioValue = 64

// ratioSection measures hit ratios.
func ratioSection() *Section {
	is := func(kind string) func(string) bool {
		return func(f string) bool { return strings.HasPrefix(f, kind+" ") }
	}
	return &Section{
		Name:  "ratio",
		Title: "Hit ratio",
		Text: "Percent of Gets that hit when each miss is followed by a Set, one goroutine, values of 64 bytes. The capacity is a percentage of the distinct keys. " +
			"Where a contender can do its bookkeeping at once it does. A cache bounded by bytes gets the most with which it never holds more entries than the capacity. " +
			"golang-lru is plain LRU; SIEVE and S3-FIFO are written down in this folder from their papers. What is bounded in megabytes only (freecache, bigcache, fastcache) cannot be compared at these sizes; freecache's order is close to LRU.",
		Contenders: append([]string{"peercache lru.Append", "golang-lru"}, "2Q", "SIEVE", "S3-FIFO", "otter", "theine", "ristretto"),
		Rounds:     1,
		Turned:     true,
		Means: []Mean{
			{"mean of the mixes", is("mix")},
			{"mean of the traces", is("trace")},
		},
		Measure: measureRatio,
	}
}

// measureRatio plays every trace at every capacity.
func measureRatio(contender string, s Settings) (Figures, error) {
	m, err := ratioMakerOf(contender)
	if err != nil {
		return nil, err
	}
	f := Figures{}
	play := func(kind, name string, trace []uint32) error {
		keys, n := keysOf(trace)
		percents := []int{1, 5, 10}
		if s.Quick {
			percents = percents[2:]
		}
		for _, percent := range percents {
			r, ok, err := hitRatio(m, trace, keys, max(n*percent/100, 1))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			f[fmt.Sprintf("%s %s %2d%%", kind, name, percent)] = r
		}
		return nil
	}
	length := 1_000_000
	if s.Quick {
		length = 20_000
	}
	for _, mix := range mixes() {
		if err := play("mix", mix.name, mix.make(length)); err != nil {
			return nil, err
		}
	}
	if s.Traces != "" {
		if err := eachTrace(s.Traces, func(name string, trace []uint32) error {
			return play("trace", name, trace)
		}); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// keysOf returns the keys that a trace names, by number, and how many there are.
func keysOf(trace []uint32) (keys []Key, distinct int) {
	most := uint32(0)
	for _, k := range trace {
		most = max(most, k)
	}
	keys = make([]Key, int(most)+1)
	for _, k := range trace {
		if keys[k].Name == "" {
			keys[k] = numberedKey(int(k))
			distinct++
		}
	}
	return keys, distinct
}

// hitRatio returns the percentage of hits. For a cache in bytes it looks for the bound that suits the capacity; it says
// so if there is none, because the cache cannot be that small.
func hitRatio(m Maker, trace []uint32, keys []Key, capacity int) (ratio float64, ok bool, err error) {
	if !m.InBytes {
		hits, _, err := replay(m, Size{Entries: capacity, Exact: true}, trace, keys)
		return 100 * float64(hits) / float64(len(trace)), true, err
	}
	// Bytes per entry differ with the capacity, by tables that grow in steps. The most entries that are held at a bound
	// grow with it, nearly: so find it by halving.
	low, high := int64(capacity)*(ratioValue+16), int64(capacity)*(ratioValue+16+200)+16<<10
	best := -1
	for range 10 {
		mid := (low + high) / 2
		hits, most, err := replay(m, Size{Bytes: mid, Exact: true}, trace, keys)
		if err != nil {
			return 0, false, err
		}
		if most <= capacity {
			best, low = max(best, hits), mid
		} else {
			high = mid
		}
	}
	return 100 * float64(best) / float64(len(trace)), best >= 0, nil
}

// replay plays a trace and returns the hits and the most entries seen.
func replay(m Maker, size Size, trace []uint32, keys []Key) (hits, most int, err error) {
	c, err := m.Make(size)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	value, buf := make([]byte, ratioValue), make([]byte, 0, ratioValue)
	every := max(len(trace)/100, 1)
	for i, n := range trace {
		k := &keys[n]
		if _, ok := c.Get(k, buf); ok {
			hits++
		} else {
			c.Set(k, value)
		}
		if m.InBytes && i%every == 0 {
			most = max(most, c.Len())
		}
	}
	return hits, most, nil
}
