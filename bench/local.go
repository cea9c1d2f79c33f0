package main

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	localKeys  = 100_000
	localValue = 128
	localDraws = 1 << 20
	localBytes = 256 << 20 // everything fits, decoded copies too
)

// hitSection measures hits.
func hitSection() *Section {
	return &Section{
		Name:  "hit",
		Title: "Local hit",
		Text: "100,000 keys of 16 bytes with values of 128 bytes, all of which fit, drawn by zipf 1.01. \"peercache Get\" is the whole path of " +
			"`Cache[[]byte].Get`; past the near tier it reads the node's own store. CPU is the processor time of the whole process, background work included, for one operation. What has \"Append\" or \"buffer\" in its name, and fastcache, copy into a buffer of the caller's.",
		Contenders: names(),
		Columns:    localColumns(),
		Measure: func(contender string, s Settings) (Figures, error) {
			return measureLocal(contender, s, 0)
		},
	}
}

// mixedSection measures reads and writes together.
func mixedSection() *Section {
	return &Section{
		Name:       "mixed",
		Title:      "Local, three reads to a write",
		Text:       "As above, with a Set of the drawn key in place of each fourth Get.",
		Contenders: names("groupcache Get"),
		Columns:    localColumns(),
		Measure: func(contender string, s Settings) (Figures, error) {
			return measureLocal(contender, s, 4)
		},
	}
}

func localColumns() []Column {
	return []Column{
		{Figure: "ns", Head: "1 goroutine, ns"},
		{Figure: "cpu", Head: "CPU, ns"},
		{Figure: "mops", Head: "4 goroutines, Mops/s", Digits: 1, More: true},
		{Figure: "cpu4", Head: "CPU, ns"},
		{Figure: "allocs", Head: "allocs", Digits: 2, Plain: true},
		{Figure: "bytes", Head: "B/op", Plain: true},
	}
}

// zipf draws key numbers below n: i with a probability as 1/(i+1)^s.
func zipf(seed uint64, n, draws int, s float64) []uint32 {
	z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), s, 1, uint64(n-1))
	out := make([]uint32, draws)
	for i := range out {
		out[i] = uint32(z.Uint64())
	}
	return out
}

// measureLocal times operations of which each writes-th is a write; 0: none.
func measureLocal(contender string, s Settings, writes int) (Figures, error) {
	m, err := makerOf(contender)
	if err != nil {
		return nil, err
	}
	n, draws := localKeys, localDraws
	if s.Quick {
		n, draws = 2000, 1<<14
	}
	c, err := m.Make(Size{Entries: 2 * n, Bytes: localBytes})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	keys := numberedKeys(n)
	value := make([]byte, localValue)
	for i := range value {
		value[i] = byte(i)
	}
	for i := range keys {
		c.Set(&keys[i], value)
	}
	for i := range keys { // once around, so that what is to be near is near
		c.Get(&keys[i], nil)
	}
	l := &loop{c: c, keys: keys, order: zipf(1, n, draws, 1.01), value: value, writes: writes}
	// Some caches lose what they are given in a hurry.
	for range 3 {
		if l.once(draws/4, 0) == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
		for i := range keys {
			if _, ok := c.Get(&keys[i], nil); !ok {
				c.Set(&keys[i], value)
			}
		}
	}
	runtime.GC()

	f := Figures{}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ops, took, misses := l.timed(f, "cpu", 1, s.Time)
	runtime.ReadMemStats(&after)
	f["ns"] = float64(took.Nanoseconds()) / float64(ops)
	f["allocs"] = float64(after.Mallocs-before.Mallocs) / float64(ops)
	f["bytes"] = float64(after.TotalAlloc-before.TotalAlloc) / float64(ops)
	if misses > ops/1000 {
		return nil, fmt.Errorf("%d of %d missed", misses, ops)
	}
	ops, took, _ = l.timed(f, "cpu4", 4, s.Time)
	f["mops"] = float64(ops) / 1e6 / took.Seconds()
	return f, nil
}

// loop is one timed loop.
type loop struct {
	c      Cache
	keys   []Key
	order  []uint32
	value  []byte
	writes int
}

// once does some operations from a place in the order on, and returns the misses.
func (l *loop) once(ops, from int) (misses int) {
	buf := make([]byte, 0, 2*localValue)
	for i := from; i < from+ops; i++ {
		k := &l.keys[l.order[i&(len(l.order)-1)]]
		if l.writes > 0 && i%l.writes == 0 {
			l.c.Set(k, l.value)
		} else if v, ok := l.c.Get(k, buf); !ok || len(v) != len(l.value) {
			misses++
		}
	}
	return misses
}

// timed is run that also notes, where the system tells, the processor time that the whole process took for an operation:
// when the machine is busy with other things, that is the figure to compare.
func (l *loop) timed(f Figures, cpu string, goroutines int, length time.Duration) (ops int, took time.Duration, misses int) {
	before, known := processTime()
	ops, took, misses = l.run(goroutines, length)
	if after, _ := processTime(); known {
		f[cpu] = float64((after - before).Nanoseconds()) / float64(ops)
	}
	return ops, took, misses
}

// run works for about the given time and returns how many operations were done in which time.
func (l *loop) run(goroutines int, length time.Duration) (ops int, took time.Duration, misses int) {
	const batch = 1 << 13
	var done, missed atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for g := range goroutines {
		wg.Go(func() {
			n, m := 0, 0
			for from := g * 7919; time.Since(start) < length; from += batch {
				m += l.once(batch, from)
				n += batch
			}
			done.Add(int64(n))
			missed.Add(int64(m))
		})
	}
	wg.Wait()
	return int(done.Load()), time.Since(start), int(missed.Load())
}
