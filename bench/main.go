package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func command(ctx context.Context, args []string, out, diag io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(diag)
	only := flags.String("only", "", "comma-separated sections; empty: all")
	against := flags.String("against", "", "comma-separated parts of competitors' names; empty: all")
	rounds := flags.Int("rounds", 5, "rounds, in each of which every contender is measured once")
	write := flags.String("write", "", "file that the tables are written to")
	var set Settings
	flags.DurationVar(&set.Time, "time", 500*time.Millisecond, "length of one timed loop")
	flags.StringVar(&set.Traces, "traces", "", "folder with traces for the hit ratios: *.trace, 4 byte big-endian keys; *.arc, *.lis, ARC's text; each also as .gz or .xz (for which xz must be installed)")
	flags.BoolVar(&set.Quick, "quick", false, "a small run that shows that all works; its figures mean nothing")
	measure := flags.String("measure", "", "used by the command itself: the section to measure")
	serve := flags.String("serve", "", "used by the command itself: the section to serve")
	contender := flags.String("contender", "", "used by the command itself")
	settings := flags.String("settings", "", "used by the command itself")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *measure != "":
		return measureHere(*measure, *contender, *settings, out)
	case *serve != "":
		return serveHere(*serve, *contender, flags.Args())
	}

	var text bytes.Buffer
	fmt.Fprintf(&text, "# Results\n\nMade by `go run . %s` on %s, with %s, %s/%s, %d cores.\n", spoken(flags), time.Now().Format(time.DateOnly),
		runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	fmt.Fprintf(&text, "Medians of the rounds, their range in parentheses; ×: ratio to the best competitor in the column.\n\n")
	for _, s := range sections() {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), s.Name) {
			continue
		}
		var parts []string
		if *against != "" {
			parts = strings.Split(*against, ",")
		}
		r, err := run(ctx, s, *rounds, parts, set, diag)
		if err != nil {
			return err
		}
		r.print(&text)
		if *write == "" {
			if _, err := text.WriteTo(out); err != nil {
				return err
			}
		}
	}
	if *write != "" {
		return os.WriteFile(*write, text.Bytes(), 0o666)
	}
	return nil
}

// spoken is the command line without the names of folders and files, which say nothing elsewhere.
func spoken(flags *flag.FlagSet) string {
	var words []string
	flags.Visit(func(f *flag.Flag) {
		value := f.Value.String()
		switch f.Name {
		case "traces":
			value = "DIR"
		case "write":
			value = filepath.Base(value)
		}
		words = append(words, "-"+f.Name)
		if value != "true" {
			words = append(words, value)
		}
	})
	return strings.Join(words, " ")
}
