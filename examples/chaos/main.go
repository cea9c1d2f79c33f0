//go:build unix

// Chaos starts five peers, as processes of their own on this machine, lets all
// of them read and write a shared cache all the time, and meanwhile kills one
// with kill -9, stops one for up to ten seconds, restarts all one by one, kills
// two at once, and adds three at once. It prints a line each second (how many
// members each peer sees, requests, failures, latency, reloads) and in the end
// whether all that the cache promises was kept: no Get fails, nothing is loaded
// again, no acknowledged write is lost, no read returns something older.
//
// It takes about a minute and a half, and ends with status 0 if all is as
// promised. With -short it takes some seconds and does less.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/peercache/peercache/internal/chaos"
)

func main() {
	if chaos.IsPeer() {
		if err := chaos.BePeer(); err != nil {
			fmt.Fprintln(os.Stderr, "chaos: peer:", err)
			os.Exit(1)
		}
		return
	}
	short := flag.Bool("short", false, "less of everything")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := show(ctx, *short); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// show runs the whole story and prints the verdict.
func show(ctx context.Context, short bool) error {
	dir, err := os.MkdirTemp("", "peercache-chaos-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report, err := chaos.Run(ctx, chaos.Options{Dir: dir, Out: os.Stdout, Errors: os.Stderr, Short: short})
	if err != nil {
		return err
	}
	fmt.Println()
	for _, p := range report.Phases {
		fmt.Printf("%-18s all agreed after %v\n", p.Name, p.Agreed.Round(time.Millisecond))
	}
	fmt.Printf("\n%d Gets, the slowest %v; %d Sets and Deletes, the slowest %v\n", report.Gets, report.SlowestGet, report.Sets, report.SlowestSet)
	if report.ReturnFailed > 0 {
		fmt.Printf("%d calls failed on a peer that had just been stopped\n", report.ReturnFailed)
	}
	if broken := report.Broken(); len(broken) > 0 {
		return fmt.Errorf("not as promised: %s", strings.Join(broken, "; "))
	}
	fmt.Println("All is as promised.")
	return nil
}
