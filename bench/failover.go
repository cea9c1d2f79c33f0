package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	failoverKeys = 10_000
	failoverRate = 2 // Gets in each millisecond
	failoverLate = 250 * time.Millisecond
)

// failoverSection measures what a dead member costs those who go on.
func failoverSection() *Section {
	s := &Section{
		Name:  "failover",
		Title: "Failover",
		Text: "Three processes hold 10,000 keys; one of them makes 2,000 Gets a second, of which each has a second; another is killed, or stopped. " +
			"Failed: Gets that returned an error; reloads: keys that were loaded once more; worst: the slowest Get.",
		Columns: []Column{
			{Figure: "failed", Head: "failed", Plain: true},
			{Figure: "reloads", Head: "reloads", Plain: true},
			{Figure: "worst", Head: "worst ms", Digits: 1, Plain: true},
			{Figure: "late", Head: fmt.Sprintf("over %d ms", failoverLate.Milliseconds()), Plain: true},
		},
		Measure: measureFailover,
		Serve: func(contender string, args []string) error {
			name, _, _ := strings.Cut(contender, ",")
			return serveTrio(name, args)
		},
	}
	blows := []string{"kill -9"}
	if stopSignal != nil {
		blows = append(blows, "SIGSTOP")
	}
	for _, blow := range blows {
		for _, t := range trios() {
			s.Contenders = append(s.Contenders, t.Name+", "+blow)
		}
	}
	return s
}

func measureFailover(contender string, set Settings) (f Figures, err error) {
	name, blow, _ := strings.Cut(contender, ", ")
	t, err := trioOf(name)
	if err != nil {
		return nil, err
	}
	s, err := startTrio("failover", t, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	keys, before, after := failoverKeys, 2*time.Second, 8*time.Second
	if set.Quick {
		keys, before, after = 500, 200*time.Millisecond, 500*time.Millisecond
	}
	if err := warm(s.here, keys); err != nil {
		return nil, err
	}
	time.Sleep(time.Second) // the last have copies
	loads := s.origin.loads.Load()

	victim := s.servers[0]
	defer victim.abandon()
	struck := time.AfterFunc(before, func() {
		signal := os.Kill
		if blow == "SIGSTOP" {
			signal = stopSignal
		}
		_ = victim.cmd.Process.Signal(signal)
	})
	defer struck.Stop()
	f = ask(s.here, keys, before+after)
	f["reloads"] = float64(s.origin.loads.Load() - loads)
	return f, nil
}

// warm gets each key once.
func warm(g Getter, keys int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var next atomic.Int64
	errs := make([]error, peerManyCall)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for k := next.Add(1); k <= int64(keys) && errs[i] == nil; k = next.Add(1) {
				_, errs[i] = g.Get(ctx, numberedKey(int(k)-1).Name)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ask gets keys at a steady rate, whatever becomes of those before.
func ask(g Getter, keys int, length time.Duration) Figures {
	var failed, late, worst atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for i := 0; time.Since(start) < length; i++ {
		time.Sleep(time.Until(start.Add(time.Duration(i/failoverRate) * time.Millisecond)))
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			began := time.Now()
			_, err := g.Get(ctx, numberedKey(i*7919%keys).Name)
			took := time.Since(began)
			if err != nil {
				failed.Add(1)
			}
			if took > failoverLate {
				late.Add(1)
			}
			for old := worst.Load(); int64(took) > old && !worst.CompareAndSwap(old, int64(took)); old = worst.Load() {
			}
		})
	}
	wg.Wait()
	return Figures{"failed": float64(failed.Load()), "late": float64(late.Load()), "worst": float64(worst.Load()) / 1e6}
}
