package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// A report is what came of an order.
type report struct {
	Took   []time.Duration // by each Get
	Failed int
	Err    string // of the first that failed
	Found  int    // by doLookup
}

func newReport(err error) *report {
	r := &report{}
	if err != nil {
		r.Failed, r.Err = 1, err.Error()
	}
	return r
}

// add notes one Get.
func (r *report) add(took time.Duration, err error) {
	r.Took = append(r.Took, took)
	if err != nil {
		*r = r.with(*newReport(err))
	}
}

// with returns both reports as one.
func (r report) with(other report) report {
	r.Took = append(r.Took, other.Took...)
	r.Failed += other.Failed
	r.Found += other.Found
	if r.Err == "" {
		r.Err = other.Err
	}
	return r
}

const some = -1 // for report.check: any number of Gets but none

// check is an error if a Get failed, or if there were not as many as expected.
func (r report) check(gets int) error {
	switch {
	case r.Failed > 0:
		return fmt.Errorf("%d of %d Gets failed: %s", r.Failed, len(r.Took), r.Err)
	case len(r.Took) == 0:
		return errors.New("there were no Gets")
	case gets != some:
		return expect("Gets", len(r.Took), gets)
	default:
		return nil
	}
}

// percentile returns how long at most the fastest p percent took.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max((len(sorted)*p+99)/100-1, 0)]
}

// The table is 77 columns wide.
func printHead() {
	fmt.Printf("\n%-27s %7s %7s %6s %8s %8s %8s\n", "", "Gets", "failed", "loads", "p50", "p99", "slowest")
}

func printRow(name string, r report, loads map[string]int) {
	sorted := slices.Sorted(slices.Values(r.Took))
	fmt.Printf("%-27s %7d %7d %6d %8s %8s %8s\n", name, len(sorted), r.Failed, sum(loads),
		short(percentile(sorted, 50)), short(percentile(sorted, 99)), short(percentile(sorted, 100)))
}

func printNote(format string, args ...any) { fmt.Printf("    "+format+"\n", args...) }

func sum(loads map[string]int) (all int) {
	for _, n := range loads {
		all += n
	}
	return all
}

// short writes a duration with about three digits.
func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.1f us", d.Seconds()*1e6)
	}
}

const barWidth = 40

// showProgress draws a bar, if a terminal is there to see it, until the
// function that it returns is called. That may be done more than once.
func showProgress(name string, done func() float64) (stop func()) {
	if !isTerminal() {
		return func() {}
	}
	quit := make(chan struct{})
	var drawing sync.WaitGroup
	drawing.Go(func() {
		for tick := time.Tick(50 * time.Millisecond); ; {
			full := int(min(max(done(), 0), 1) * barWidth)
			bar := strings.Repeat("#", full) + strings.Repeat(".", barWidth-full)
			// A terminal that is too narrow cuts the line instead of wrapping it.
			fmt.Printf("\r\x1b[?7l%-10s [%s]\x1b[K\x1b[?7h", name, bar)
			select {
			case <-quit:
				fmt.Print("\r\x1b[K")
				return
			case <-tick:
			}
		}
	})
	return sync.OnceFunc(func() {
		close(quit)
		drawing.Wait()
	})
}

// isTerminal reports whether standard output is a terminal that can draw.
func isTerminal() bool {
	info, err := os.Stdout.Stat()
	term := os.Getenv("TERM")
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && term != "" && term != "dumb"
}
