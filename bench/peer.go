package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	peerKeys     = 10_000
	peerBytes    = 64 << 20 // of all values together, at most
	peerSecret   = "bench"
	peerManyCall = 64 // goroutines
)

// A Getter fetches values from the other process. It is used concurrently.
type Getter interface {
	// Get returns the length of the value of a key.
	Get(ctx context.Context, key string) (int, error)
	Close()
}

// A Fetch is one way to get values from another process.
type Fetch struct {
	Name  string
	Needs string // a program that must be installed; empty: none
	// Serve serves values until its standard input ends; ready is called with the address and the process that serves.
	Serve func(d Data, ready func(addr string, pid int)) error
	// Dial connects to it. A server that is another program is given its values here.
	Dial func(d Data, addr string) (Getter, error)
}

// Data are the values of a measurement.
type Data struct {
	Size int // of each value
	Keys []string
}

func newData(size int) Data {
	d := Data{Size: size}
	for i := range min(peerKeys, max(peerBytes/size, 1)) {
		d.Keys = append(d.Keys, numberedKey(i).Name)
	}
	return d
}

// value makes the value of any key.
func (d Data) value() []byte {
	v := make([]byte, d.Size)
	for i := range v {
		v[i] = byte(i)
	}
	return v
}

// fetches are all contenders of the sections with a peer.
func fetches() []Fetch {
	return slices.Concat(ownFetches(), groupFetches(), storeFetches(), floorFetches())
}

func fetchOf(name string) (Fetch, error) {
	for _, f := range fetches() {
		if f.Name == name {
			return f, nil
		}
	}
	return Fetch{}, fmt.Errorf("no contender %q", name)
}

// peerSections measure what it takes to get a value from another process.
func peerSections() []*Section {
	var sections []*Section
	for _, s := range []struct {
		name, title string
		size        int
	}{{"peer", "128 bytes", 128}, {"peer4k", "4 KiB", 4 << 10}, {"peer1m", "1 MiB", 1 << 20}} {
		sections = append(sections, peerSection(s.name, s.title, s.size))
	}
	return sections
}

func peerSection(name, title string, size int) *Section {
	text := "Two processes on loopback, every Get crosses. Allocations are the client's, CPU is that of both processes. peercache has a Secret, " +
		"and every call has a deadline; \"bare frames\" is what one multiplexed connection without contexts, bounds and errors does, \"HTTP/1.1\" an exchange of net/http for each value."
	var contenders []string
	for _, f := range fetches() {
		if f.Needs != "" {
			if _, err := exec.LookPath(f.Needs); err != nil {
				text += fmt.Sprintf(" %s is left out: %s is not installed.", f.Name, f.Needs)
				continue
			}
		}
		contenders = append(contenders, f.Name)
	}
	return &Section{
		Name:       name,
		Title:      "Peer fetch, " + title,
		Text:       text,
		Contenders: contenders,
		Columns: []Column{
			{Figure: "p50", Head: "1 goroutine, p50 µs"},
			{Figure: "p99", Head: "p99 µs"},
			{Figure: "ops", Head: fmt.Sprintf("%d goroutines, Gets/s", peerManyCall), More: true},
			{Figure: "p99many", Head: "p99 ms", Digits: 2},
			{Figure: "cpu", Head: "CPU µs/Get", Digits: 1},
			{Figure: "allocs", Head: "allocs", Digits: 1, Plain: true},
		},
		Measure: func(contender string, s Settings) (Figures, error) { return measureFetch(name, contender, size, s) },
		Serve: func(contender string, _ []string) error {
			f, err := fetchOf(contender)
			if err != nil {
				return err
			}
			return f.Serve(newData(size), func(addr string, pid int) { fmt.Println(addr, pid) })
		},
	}
}

// untilTold waits until the measuring process wants the server to end.
func untilTold() { _, _ = io.Copy(io.Discard, os.Stdin) }

func measureFetch(section, contender string, size int, s Settings) (f Figures, err error) {
	way, err := fetchOf(contender)
	if err != nil {
		return nil, err
	}
	srv, err := startServer(section, contender, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	addr, number, _ := strings.Cut(srv.line, " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return nil, err
	}
	d := newData(size)
	g, err := way.Dial(d, addr)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	if _, err := fetchLoop(g, d, peerManyCall, s.Time/4); err != nil { // so that connections are there
		return nil, err
	}

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	one, err := fetchLoop(g, d, 1, s.Time)
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&after)
	f = Figures{
		"p50":    float64(one.at(0.5).Nanoseconds()) / 1e3,
		"p99":    float64(one.at(0.99).Nanoseconds()) / 1e3,
		"allocs": float64(after.Mallocs-before.Mallocs) / float64(len(one.times)),
	}
	spent, known := cpuTime(os.Getpid(), pid)
	many, err := fetchLoop(g, d, peerManyCall, s.Time)
	if err != nil {
		return nil, err
	}
	f["ops"] = float64(len(many.times)) / many.took.Seconds()
	f["p99many"] = float64(many.at(0.99).Nanoseconds()) / 1e6
	if now, _ := cpuTime(os.Getpid(), pid); known {
		f["cpu"] = float64((now - spent).Nanoseconds()) / 1e3 / float64(len(many.times))
	}
	return f, nil
}

// fetched is what one timed loop of fetches took.
type fetched struct {
	times []time.Duration // of each Get, sorted
	took  time.Duration
}

func (f *fetched) at(share float64) time.Duration { return f.times[int(share*float64(len(f.times)-1))] }

// fetchLoop gets keys at random from several goroutines for a while.
func fetchLoop(g Getter, d Data, goroutines int, length time.Duration) (*fetched, error) {
	ctx, cancel := context.WithTimeout(context.Background(), length+30*time.Second)
	defer cancel()
	var mu sync.Mutex
	all := new(fetched)
	var failed error
	var wg sync.WaitGroup
	times := make([][]time.Duration, goroutines)
	for i := range times {
		times[i] = make([]time.Duration, 0, 1<<16) // grown as little as can be while it is timed
	}
	start := time.Now()
	for i := range goroutines {
		wg.Go(func() {
			draw := rand.New(rand.NewPCG(uint64(i), 7))
			for now := time.Now(); len(times[i]) == 0 || now.Sub(start) < length; {
				n, err := g.Get(ctx, d.Keys[draw.IntN(len(d.Keys))])
				if err == nil && n != d.Size {
					err = fmt.Errorf("a value of %d bytes, not %d", n, d.Size)
				}
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
				end := time.Now()
				times[i] = append(times[i], end.Sub(now))
				now = end
			}
		})
	}
	wg.Wait()
	all.took = time.Since(start)
	if failed != nil {
		return nil, failed
	}
	all.times = slices.Concat(times...)
	slices.Sort(all.times)
	return all, nil
}

// cpuTime returns the processor time that processes have used, where the system tells.
func cpuTime(pids ...int) (sum time.Duration, known bool) {
	const tick = 10 * time.Millisecond // of /proc on every Linux
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, false
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // the name may hold anything
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			return 0, false
		}
		for _, f := range fields[11:13] { // utime, stime
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, false
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, true
}
