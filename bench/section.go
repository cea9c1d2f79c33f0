package main

import (
	"fmt"
	"slices"
	"time"
)

// Figures are what one measurement found, by name.
type Figures map[string]float64

// Settings are what the command line says to every measurement.
type Settings struct {
	Time   time.Duration // of one timed loop
	Traces string        // folder with traces; empty: none
	Quick  bool          // a small run that shows that all works; its figures mean nothing
}

// A Section is one table of the results.
type Section struct {
	Name  string // as -only takes it
	Title string
	Text  string // what is measured and how, one paragraph

	Contenders []string
	Columns    []Column
	Rounds     int  // measurements of each contender at most; 0: as many as the command line says
	Turned     bool // contenders are columns, and each figure is a row in the order of the figures' names
	Means      []Mean

	// Measure makes one measurement of a contender. It runs in a process of its own.
	Measure func(contender string, s Settings) (Figures, error)

	// Serve, if not nil, is the other process of a measurement, which Measure starts with startServer. It prints one
	// line, for Measure to read, as soon as it is ready, and goes on until its standard input ends.
	Serve func(contender string, args []string) error
}

// A Column is one figure as a table shows it.
type Column struct {
	Figure string // its name in Figures
	Head   string // with the unit
	Digits int    // behind the point
	More   bool   // more is better, else less
	Plain  bool   // neither is: no ratio is shown
}

// A Mean is one more row of a turned table: the mean of the figures whose names match.
type Mean struct {
	Head  string
	Match func(figure string) bool
}

// ours says whether a contender is peercache itself, in one of its forms.
func ours(contender string) bool {
	return len(contender) >= len("peercache") && contender[:len("peercache")] == "peercache"
}

// sections are all there are, in the order in which they are printed.
func sections() []*Section {
	return slices.Concat([]*Section{
		hitSection(),
		mixedSection(),
		ratioSection(),
		memorySection(),
	}, peerSections(), []*Section{besideSection(), manySection(), stampedeSection(), failoverSection()})
}

func sectionOf(name string) (*Section, error) {
	for _, s := range sections() {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no section %q", name)
}
