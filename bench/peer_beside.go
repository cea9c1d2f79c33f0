package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

const (
	besideLarge  = 8 << 20 // bytes of each large value
	besideValues = 8       // large values
	besideReader = 2       // goroutines that get them
)

// besideSection measures small values beside large ones, between the same two processes.
func besideSection() *Section {
	return &Section{
		Name:  "beside",
		Title: "Small values beside large ones",
		Text: "Gets of 128 bytes from another process by one goroutine, alone and while two others get values of 8 MiB from the same process as fast " +
			"as they come. On few cores most of the difference is the processor's time.",
		Contenders: []string{"peercache, alone", "peercache, beside 8 MiB values"},
		Columns: []Column{
			{Figure: "p50", Head: "p50 µs", Plain: true},
			{Figure: "p99", Head: "p99 µs", Plain: true},
			{Figure: "large", Head: "large, MB/s", Plain: true},
		},
		Measure: measureBeside,
		Serve: func(string, []string) error {
			return serveOwnWith(newData(128), false, func(ctx context.Context, cache *peercache.Cache[[]byte]) error {
				for i := range besideValues {
					if err := cache.Set(ctx, largeKey(i), make([]byte, besideLarge)); err != nil {
						return err
					}
				}
				return nil
			}, func(addr string, pid int) { fmt.Println(addr, pid) })
		},
	}
}

func largeKey(i int) string { return "large:" + strconv.Itoa(i) }

func measureBeside(contender string, s Settings) (f Figures, err error) {
	srv, err := startServer("beside", contender, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	addr, _, _ := strings.Cut(srv.line, " ")
	d := newData(128)
	g, err := dialOwn(false)(d, addr)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var mu sync.Mutex
	var bytes int64
	var failed error
	if strings.Contains(contender, "beside") {
		for r := range besideReader {
			wg.Go(func() {
				for i := r; ctx.Err() == nil; i++ {
					n, err := g.Get(ctx, largeKey(i%besideValues))
					mu.Lock()
					if bytes += int64(n); err != nil && ctx.Err() == nil {
						failed = err
					}
					mu.Unlock()
				}
			})
		}
	}
	began := time.Now()
	small, err := fetchLoop(g, d, 1, max(4*s.Time, 10*time.Millisecond))
	if err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	if failed != nil {
		return nil, failed
	}
	return Figures{
		"p50":   float64(small.at(0.5).Nanoseconds()) / 1e3,
		"p99":   float64(small.at(0.99).Nanoseconds()) / 1e3,
		"large": float64(bytes) / 1e6 / time.Since(began).Seconds(),
	}, nil
}
