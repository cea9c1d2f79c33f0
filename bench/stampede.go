package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	stampedeCallers = 333 // of each of three processes
	stampedeLoad    = 50 * time.Millisecond
	stampedes       = 10 // in one measurement, each of another key
)

// stampedeSection measures what becomes of a key that many want at once and nobody has.
func stampedeSection() *Section {
	s := &Section{
		Name:  "stampede",
		Title: "Stampede",
		Text: fmt.Sprintf("%d goroutines in each of three processes get one key that nobody has, which takes %v to load. "+
			"Loads: of all processes; time: until the last goroutine has its value. The worst of %d keys.", stampedeCallers, stampedeLoad, stampedes),
		Columns: []Column{
			{Figure: "loads", Head: "loads of a key"},
			{Figure: "ms", Head: "time ms", Digits: 1},
			{Figure: "failed", Head: "failed", Plain: true},
		},
		Measure: measureStampede,
		Serve:   serveTrio,
	}
	for _, t := range trios() {
		s.Contenders = append(s.Contenders, t.Name)
	}
	return s
}

func measureStampede(contender string, set Settings) (f Figures, err error) {
	t, err := trioOf(contender)
	if err != nil {
		return nil, err
	}
	s, err := startTrio("stampede", t, stampedeLoad)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	f = Figures{"failed": 0}
	count := stampedes
	if set.Quick {
		count = 1
	}
	for i := range count {
		key := fmt.Sprint("stampede-", i)
		before := s.origin.loads.Load()
		took := make([]time.Duration, len(s.servers)+1)
		bad := make([]int64, len(took))
		errs := make([]error, len(took))
		var wg sync.WaitGroup
		for j, srv := range s.servers {
			wg.Go(func() {
				line, err := srv.ask(key)
				if err == nil {
					took[j], bad[j], err = told(line)
				}
				errs[j] = err
			})
		}
		last := len(s.servers)
		took[last], bad[last] = rush(s.here, key, stampedeCallers)
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return nil, err
		}
		f["loads"] = max(f["loads"], float64(s.origin.loads.Load()-before))
		f["ms"] = max(f["ms"], float64(slices.Max(took).Microseconds())/1e3)
		for _, n := range bad {
			f["failed"] += float64(n)
		}
	}
	return f, nil
}
