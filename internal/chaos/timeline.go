//go:build unix

package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// beat is how often the timeline gets a line.
const beat = time.Second

// A timeline prints what happened in each second.
type timeline struct {
	r      *run
	cancel context.CancelFunc
	wait   sync.WaitGroup

	last    Report
	latency [latencies]uint64 // counts at the last line
}

// newTimeline begins to print.
func (r *run) newTimeline() *timeline {
	ctx, cancel := context.WithCancel(context.Background())
	l := &timeline{r: r, cancel: cancel}
	fmt.Fprintf(r.options.Out, "%5s  %-18s %-8s %7s %6s %7s %7s %8s %8s %6s %6s\n",
		"time", "what", "members", "Gets", "failed", "median", "99 %", "slowest", "reloads", "Sets", "stale")
	l.wait.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, beat)
			l.line()
		}
	})
	return l
}

func (l *timeline) end() {
	l.cancel()
	l.wait.Wait()
}

// line prints a line and begins to count anew.
func (l *timeline) line() {
	r := l.r
	r.mu.Lock()
	phase := r.phase
	r.mu.Unlock()
	now := r.board.counts()
	last := l.last
	l.last = now.report
	var since [latencies]uint64
	gets := uint64(0)
	for i := range since {
		since[i] = now.latency[i] - l.latency[i]
		gets += since[i]
	}
	l.latency = now.latency
	fmt.Fprintf(r.options.Out, "%4.0fs  %-18s %-8s %7d %6d %7s %7s %8s %8d %6d %6d\n", time.Since(r.began).Seconds(), phase, now.members,
		now.report.Gets-last.Gets, now.report.FailedGets+now.report.FailedSets-last.FailedGets-last.FailedSets,
		upTo(since[:], gets/2), upTo(since[:], gets-gets/100), upTo(since[:], gets), now.report.Reloads-last.Reloads,
		now.report.Sets-last.Sets, now.report.Stale+now.report.Lost+now.report.Wrong-last.Stale-last.Lost-last.Wrong)
}

// upTo says below what time so many of the counted reads were.
func upTo(counts []uint64, n uint64) string {
	sum := uint64(0)
	for i, count := range counts {
		if sum += count; sum >= n && sum > 0 {
			d := time.Duration(1<<i) * time.Microsecond
			if d >= 10*time.Millisecond {
				d = d.Round(time.Millisecond)
			}
			return "<" + d.String()
		}
	}
	return "-"
}

// counts are the sums over all peers at one moment.
type counts struct {
	report  Report
	latency [latencies]uint64
	members string // how many each peer sees; "-" for one that is not there
}

func (b *board) counts() (c counts) {
	var members strings.Builder
	for i := range b.peers {
		p := &b.peers[i]
		c.report.Gets += p.gets.Load()
		c.report.Sets += p.sets.Load()
		c.report.FailedGets += p.failedGets.Load()
		c.report.FailedSets += p.failedSets.Load()
		c.report.Stale += p.stale.Load()
		c.report.Lost += p.lost.Load()
		c.report.Wrong += p.wrong.Load()
		c.report.ReturnFailed += p.returnFailed.Load()
		c.report.SlowestGet = max(c.report.SlowestGet, time.Duration(p.slowestGet.Load())*time.Microsecond)
		c.report.SlowestSet = max(c.report.SlowestSet, time.Duration(p.slowestSet.Load())*time.Microsecond)
		for j := range c.latency {
			c.latency[j] += p.latency[j].Load()
		}
		if p.stops.Load()%2 == 1 || p.members.Load() == 0 {
			members.WriteByte('-')
		} else {
			fmt.Fprint(&members, p.members.Load())
		}
	}
	c.report.Reloads = b.reloads()
	c.members = members.String()
	return c
}
