package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// summary is what a table says of one figure of one contender.
type summary struct {
	median, least, most float64
	rounds              int
}

func summarize(values []float64) summary {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	if n == 0 {
		return summary{median: math.NaN()}
	}
	return summary{median: (v[(n-1)/2] + v[n/2]) / 2, least: v[0], most: v[n-1], rounds: n}
}

// of returns the summary of a figure.
func (r *Result) of(contender, figure string) summary {
	var values []float64
	for _, f := range r.Figures[contender] {
		if v, ok := f[figure]; ok {
			values = append(values, v)
		}
	}
	return summarize(values)
}

// best returns the best median that a competitor reached.
func (r *Result) best(figure string, more bool) float64 {
	best := math.NaN()
	for _, c := range r.Section.Contenders {
		if v := r.of(c, figure).median; !ours(c) && (math.IsNaN(best) || more && v > best || !more && v < best) {
			best = v
		}
	}
	return best
}

// cell writes a figure with its range, and its ratio to the best competitor's.
func (r *Result) cell(contender string, col Column) string {
	v := r.of(contender, col.Figure)
	if math.IsNaN(v.median) {
		return "-"
	}
	s := fmt.Sprintf("%.*f", col.Digits, v.median)
	if v.rounds > 1 && v.least != v.most {
		s += fmt.Sprintf(" (%.*f-%.*f)", col.Digits, v.least, col.Digits, v.most)
	}
	if best := r.best(col.Figure, col.More); !col.Plain && best > 0 && v.median > 0 {
		s += fmt.Sprintf(" ×%.2f", v.median/best)
	}
	return s
}

// print writes a section in Markdown.
func (r *Result) print(w io.Writer) {
	s := r.Section
	fmt.Fprintf(w, "## %s\n\n%s\n\n", s.Title, s.Text)
	var rows [][]string
	if s.Turned {
		rows = r.turned()
	} else {
		head := []string{""}
		for _, col := range s.Columns {
			head = append(head, col.Head)
		}
		rows = append(rows, head)
		for _, c := range s.Contenders {
			if len(r.Figures[c]) == 0 {
				continue
			}
			row := []string{name(c)}
			for _, col := range s.Columns {
				row = append(row, r.cell(c, col))
			}
			rows = append(rows, row)
		}
	}
	printRows(w, rows)
	for _, c := range s.Contenders {
		if err := r.Failed[c]; err != nil {
			fmt.Fprintf(w, "\n%s could not be measured: %v\n", c, err)
		}
	}
	fmt.Fprintln(w)
}

// turned makes a row of each figure, and of each mean. All figures are more-is-better percentages.
func (r *Result) turned() [][]string {
	s := r.Section
	var there []string
	names := map[string]bool{}
	for _, c := range s.Contenders {
		if len(r.Figures[c]) == 0 {
			continue
		}
		there = append(there, c)
		for _, f := range r.Figures[c] {
			for n := range f {
				names[n] = true
			}
		}
	}
	head := []string{""}
	for _, c := range there {
		head = append(head, name(c))
	}
	head = append(head, "best ours - best other")
	rows := [][]string{head}
	row := func(title string, figures []string) {
		cells := []string{title}
		own, other := math.Inf(-1), math.Inf(-1)
		for _, c := range there {
			sum := 0.0
			for _, f := range figures {
				sum += r.of(c, f).median
			}
			mean := sum / float64(len(figures))
			if math.IsNaN(mean) { // there is no such figure of it
				cells = append(cells, "-")
				continue
			}
			if ours(c) {
				own = max(own, mean)
			} else {
				other = max(other, mean)
			}
			cells = append(cells, fmt.Sprintf("%.2f", mean))
		}
		lead := "-"
		if !math.IsInf(own-other, 0) && !math.IsNaN(own-other) {
			lead = fmt.Sprintf("%+.2f", own-other)
		}
		rows = append(rows, append(cells, lead))
	}
	all := slices.Sorted(maps.Keys(names))
	for _, f := range all {
		row(f, []string{f})
	}
	for _, m := range s.Means {
		if match := slices.DeleteFunc(slices.Clone(all), func(f string) bool { return !m.Match(f) }); len(match) > 0 {
			row("**"+m.Head+"**", match)
		}
	}
	return rows
}

// name is how a table shows a contender.
func name(contender string) string {
	if ours(contender) {
		return "**" + contender + "**"
	}
	return contender
}

// printRows writes a Markdown table whose source is aligned too.
func printRows(w io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)), 3)
		}
	}
	line := func(row []string) {
		for i, cell := range row {
			fmt.Fprintf(w, "| %s%s ", cell, strings.Repeat(" ", width[i]-len([]rune(cell))))
		}
		fmt.Fprintln(w, "|")
	}
	line(rows[0])
	for i := range width {
		fmt.Fprintf(w, "|%s", strings.Repeat("-", width[i]+2))
	}
	fmt.Fprintln(w, "|")
	for _, row := range rows[1:] {
		line(row)
	}
}
