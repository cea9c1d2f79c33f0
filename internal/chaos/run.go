//go:build unix

package chaos

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Options say how to run.
type Options struct {
	Dir      string        // where the board lies; the caller removes it
	Args     []string      // with which this program becomes a peer
	Out      io.Writer     // gets the timeline; nil: nobody
	Errors   io.Writer     // gets what peers complain of; nil: nobody
	Short    bool          // a few seconds instead of about a minute
	Patience time.Duration // how long the peers may take to agree; default 20 s
}

// A Report is what the users of all peers noticed.
type Report struct {
	Gets, Sets             uint64
	FailedGets, FailedSets uint64
	ReturnFailed           uint64 // calls that failed on a peer within 3 s after it had been stopped
	Reloads                uint64 // loads of keys that had been loaded before
	Lost, Stale, Wrong     uint64 // reads of written keys: nothing, something older, or something never written, where more was acknowledged
	SlowestGet, SlowestSet time.Duration
	Phases                 []Phase
}

// A Phase is one thing that happened.
type Phase struct {
	Name   string
	Agreed time.Duration // from when it happened until all agreed
}

// Broken lists the promises that were not kept.
func (r *Report) Broken() []string {
	var broken []string
	for _, p := range []struct {
		count uint64
		what  string
	}{
		{r.FailedGets, "Gets failed"},
		{r.FailedSets, "Sets or Deletes failed"},
		{r.Reloads, "keys were loaded again"},
		{r.Lost, "reads found nothing where a write had been acknowledged"},
		{r.Stale, "reads returned something older than an acknowledged write"},
		{r.Wrong, "reads returned something that was never written"},
	} {
		if p.count > 0 {
			broken = append(broken, fmt.Sprint(p.count, " ", p.what))
		}
	}
	return broken
}

// run is one run, told by the parent of the peers.
type run struct {
	options   Options
	path      string
	board     *board
	processes []*process
	began     time.Time
	phases    []Phase

	mu    sync.Mutex
	phase string // guarded by mu
}

// Run starts peers and does to them all that it can. The error says what kept
// it from going on; promises that were not kept are in the report.
func Run(ctx context.Context, options Options) (*Report, error) {
	if options.Out == nil {
		options.Out = io.Discard
	}
	if options.Patience == 0 {
		options.Patience = 20 * time.Second
	}
	r := &run{options: options, path: filepath.Join(options.Dir, "board"), began: time.Now()}
	if err := os.RemoveAll(r.path); err != nil {
		return nil, err
	}
	var err error
	if r.board, err = openBoard(r.path); err != nil {
		return nil, err
	}
	if r.processes, err = newProcesses(r.board); err != nil {
		return nil, err
	}
	defer func() {
		for _, p := range r.processes {
			p.kill()
		}
	}()
	line := r.newTimeline()
	err = r.story(ctx)
	line.end()
	return r.report(), err
}

// usual is how many peers there are most of the time.
const usual = 5

// story does one thing after the other.
func (r *run) story(ctx context.Context) error {
	all := r.processes[:usual]
	r.board.quiet.Store(true)
	if err := r.happens(ctx, "start of five", func() error { return r.startAll(all) }); err != nil {
		return err
	}
	r.board.quiet.Store(false)
	if err := r.warm(ctx); err != nil {
		return err
	}
	calm := 2 * time.Second
	stops := []time.Duration{200 * time.Millisecond, time.Second, 3 * time.Second, 10 * time.Second}
	leavers := all
	if r.options.Short {
		calm, stops, leavers = 300*time.Millisecond, []time.Duration{200 * time.Millisecond, 3 * time.Second}, all[:2]
	}
	type step struct {
		name string
		do   func() error
	}
	steps := []step{
		{"kill -9 of one", func() error { all[1].kill(); return nil }},
		{"its restart", func() error { return r.start(all[1]) }},
	}
	for _, length := range stops {
		steps = append(steps, step{fmt.Sprintf("SIGSTOP for %v", length), func() error {
			if err := all[2].stop(); err != nil {
				return err
			}
			sleep(ctx, length)
			return all[2].goOn()
		}})
	}
	for _, p := range leavers {
		steps = append(steps, step{fmt.Sprintf("peer %d leaves", p.number), p.leave},
			step{fmt.Sprintf("peer %d is back", p.number), func() error { return r.start(p) }})
	}
	steps = append(steps,
		step{"kill -9 of two", func() error { all[0].kill(); all[3].kill(); return nil }},
		step{"their restart", func() error { return r.startAll([]*process{all[0], all[3]}) }},
		step{"join of three", func() error { return r.startAll(r.processes[usual:]) }})
	for _, s := range steps {
		r.enter("calm")
		if sleep(ctx, calm); ctx.Err() != nil {
			return ctx.Err()
		}
		if err := r.happens(ctx, s.name, s.do); err != nil {
			return err
		}
	}
	r.enter("calm")
	sleep(ctx, calm)
	r.board.quiet.Store(true)
	for _, p := range r.processes {
		if err := p.leave(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// enter begins a phase of the timeline.
func (r *run) enter(phase string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.phase = phase
}

// happens lets something happen and waits until all agree again.
func (r *run) happens(ctx context.Context, what string, do func() error) error {
	r.enter(what)
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	began := time.Now()
	if err := r.waitAgree(ctx); err != nil {
		return err
	}
	r.phases = append(r.phases, Phase{Name: what, Agreed: time.Since(began)})
	return nil
}

func (r *run) startAll(processes []*process) error {
	for _, p := range processes {
		if err := r.start(p); err != nil {
			return err
		}
	}
	return nil
}

// warm waits until every key was loaded, and then for its copies.
func (r *run) warm(ctx context.Context) error {
	r.enter("cold")
	for {
		cold := 0
		for i := range r.board.loads {
			if r.board.loads[i].Load() == 0 {
				cold++
			}
		}
		if cold == 0 {
			break
		}
		if sleep(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("%d keys were never loaded: %w", cold, ctx.Err())
		}
	}
	sleep(ctx, 200*time.Millisecond)
	return nil
}

// report sums up what all peers counted.
func (r *run) report() *Report {
	report := r.board.counts().report
	report.Phases = r.phases
	return &report
}
