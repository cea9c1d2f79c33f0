package main

import (
	"runtime"
	"time"
)

// memorySection measures what entries cost.
func memorySection() *Section {
	return &Section{
		Name:  "memory",
		Title: "Memory and GC",
		Text: "5 million entries with keys of 16 bytes and values of 100 bytes, all different and kept by nobody else. Overhead is what the process grew by, beyond keys and values: its heap, " +
			"and its resident memory after freed pages were given back (fastcache takes memory beside the heap). GC is the best of five full cycles of the collector.",
		Contenders: names("peercache Get, past the near tier", "peercache lru.Append", "freecache, buffer", "groupcache Get"),
		Rounds:     3,
		Columns: []Column{
			{Figure: "heap", Head: "heap overhead, B/entry"},
			{Figure: "rss", Head: "resident overhead, B/entry"},
			{Figure: "gc", Head: "one GC cycle, ms", Digits: 1},
			{Figure: "set", Head: "Set, ns"},
			{Figure: "entries", Head: "entries", Plain: true},
		},
		Measure: measureMemory,
	}
}

func measureMemory(contender string, s Settings) (Figures, error) {
	m, err := makerOf(contender)
	if err != nil {
		return nil, err
	}
	const keyLen, valueLen = 16, 100
	entries := 5_000_000
	if s.Quick {
		entries = 20_000
	}
	heapBefore, rssBefore := heapBytes(), residentBytes()
	c, err := m.Make(Size{Entries: entries, Bytes: int64(entries) * 400})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	value := make([]byte, valueLen)
	start := time.Now()
	for i := range entries {
		k := numberedKey(i)
		value[i%valueLen]++
		c.Set(&k, value)
	}
	took := time.Since(start)
	n := c.Len()
	heapAfter, rssAfter := heapBytes(), residentBytes()
	best := time.Hour
	for range 5 {
		t := time.Now()
		runtime.GC()
		best = min(best, time.Since(t))
	}
	runtime.KeepAlive(c)
	overhead := func(before, after int64) float64 { return float64(after-before)/float64(n) - keyLen - valueLen }
	return Figures{
		"heap":    overhead(heapBefore, heapAfter),
		"rss":     overhead(rssBefore, rssAfter),
		"gc":      float64(best.Microseconds()) / 1000,
		"set":     float64(took.Nanoseconds()) / float64(entries),
		"entries": float64(n),
	}, nil
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
