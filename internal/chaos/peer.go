//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/peercache/peercache"
)

// peerEnv, in the environment, makes a process a peer: its number, the file of
// the board, the address to listen on and those of all.
const peerEnv = "PEERCACHE_CHAOS_PEER"

const (
	copies      = 3
	readers     = 4
	pace        = 4 * time.Millisecond // between two reads of a reader
	writePace   = 20 * time.Millisecond
	getTime     = time.Second
	setTime     = 10 * time.Second
	returnGrace = 3 * time.Second // in which a peer that was stopped finds the others again
	tellEvery   = 10 * time.Millisecond
)

// IsPeer reports whether this process is to be a peer.
func IsPeer() bool { return os.Getenv(peerEnv) != "" }

// A peer is this process's part in the cluster.
type peer struct {
	number int
	board  *board
	mine   *peerBoard
	node   *peercache.Node
	loads  *peercache.Cache[string] // with a loader
	writes *peercache.Cache[string] // without one
}

// BePeer is the life of a peer. It ends when its standard input does.
func BePeer() error {
	words := strings.Fields(os.Getenv(peerEnv))
	if len(words) < 4 {
		return errors.New(peerEnv + " is not what a parent sets")
	}
	number, err := strconv.Atoi(words[0])
	if err != nil || number < 0 || number >= maxPeers {
		return fmt.Errorf("peer %q", words[0])
	}
	board, err := openBoard(words[1])
	if err != nil {
		return err
	}
	p := &peer{number: number, board: board, mine: &board.peers[number]}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.node, err = peercache.Start(ctx, peercache.Config{Name: fmt.Sprint("peer-", number), Listen: words[2], Join: words[3:], Copies: copies})
	if err != nil {
		return err
	}
	defer p.node.Close()
	if p.loads, err = peercache.New(p.node, "loads", peercache.Options[string]{Load: p.load}); err != nil {
		return err
	}
	if p.writes, err = peercache.New(p.node, "writes", peercache.Options[string]{}); err != nil {
		return err
	}
	var wait sync.WaitGroup
	wait.Go(func() { p.tell(ctx) })
	for range readers {
		wait.Go(func() { p.read(ctx) })
	}
	wait.Go(func() { p.write(ctx) })
	_, _ = io.Copy(io.Discard, os.Stdin)
	err = p.node.Shutdown(context.Background())
	cancel()
	wait.Wait()
	return err
}

func loadedKey(i int) string { return fmt.Sprint("loaded-", i) }

func loadedValue(key string) string { return "value of " + key }

func (p *peer) load(_ context.Context, key string) (string, error) {
	if i, err := strconv.Atoi(strings.TrimPrefix(key, "loaded-")); err == nil && i >= 0 && i < loadedKeys {
		if times := p.board.loads[i].Add(1); times > 1 {
			p.complain("%s is loaded for the %d. time", key, times)
		}
	}
	return loadedValue(key), nil
}

// tell keeps the board up to date.
func (p *peer) tell(ctx context.Context) {
	now, cancel := context.WithCancel(ctx)
	cancel()
	p.mine.incarnation.Store(p.node.Self().Incarnation)
	for ctx.Err() == nil {
		p.mine.digest.Store(p.node.Stats().TableDigest)
		p.mine.members.Store(uint64(len(p.node.Members())))
		ready := uint64(0)
		if p.node.WaitReady(now) == nil {
			ready = 1
		}
		p.mine.ready.Store(ready)
		sleep(ctx, tellEvery)
	}
}

// read reads keys of both kinds until ctx ends.
func (p *peer) read(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, time.Duration(rand.Int64N(int64(2*pace))))
		if p.board.quiet.Load() {
			continue
		}
		if rand.IntN(4) == 0 {
			p.readWritten(ctx, rand.IntN(writeKeys))
		} else {
			p.readLoaded(ctx, rand.IntN(loadedKeys))
		}
	}
}

// timed makes a call and reports whether it counts: one during which the
// process was stopped says nothing, nor does one of a process that ends.
func (p *peer) timed(ctx context.Context, most time.Duration, call func(context.Context) error) (took time.Duration, err error, counts bool) {
	stops := p.mine.stops.Load()
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	began := time.Now()
	err = call(limited)
	took = time.Since(began)
	counts = stops == p.mine.stops.Load() && stops%2 == 0 && ctx.Err() == nil && !errors.Is(err, peercache.ErrClosed)
	return took, err, counts
}

func (p *peer) readLoaded(ctx context.Context, i int) {
	key := loadedKey(i)
	var v string
	took, err, counts := p.timed(ctx, getTime, func(ctx context.Context) (err error) {
		v, err = p.loads.Get(ctx, key)
		return err
	})
	if !counts {
		return
	}
	p.mine.got(took)
	if err != nil {
		p.failed(&p.mine.failedGets, "Get", key, err)
	} else if v != loadedValue(key) {
		p.mine.wrong.Add(1)
	}
}

// readWritten reads a written key, which must not be older than what was
// acknowledged before.
func (p *peer) readWritten(ctx context.Context, i int) {
	acked := p.board.acked[i].Load()
	var v string
	key := fmt.Sprint("written-", i)
	took, err, counts := p.timed(ctx, getTime, func(ctx context.Context) (err error) {
		v, err = p.writes.Get(ctx, key)
		return err
	})
	if counts {
		p.mine.got(took)
	}
	tried := p.board.tried[i].Load()
	switch {
	case errors.Is(err, peercache.ErrNotFound):
		if !mayBeAbsent(acked, tried) {
			p.mine.lost.Add(1)
			p.complain("%s is absent, %d was acknowledged", key, acked)
		}
	case err != nil:
		if counts {
			p.failed(&p.mine.failedGets, "Get", key, err)
		}
	default:
		number, bad := strconv.ParseUint(v, 10, 64)
		if bad != nil || number > tried {
			p.mine.wrong.Add(1)
		} else if number < acked {
			p.mine.stale.Add(1)
			p.complain("%s is %d, %d was acknowledged before", key, number, acked)
		}
	}
}

// write writes the keys of this peer until ctx ends.
func (p *peer) write(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, writePace)
		if p.board.quiet.Load() {
			continue
		}
		i := rand.IntN(writeKeys/maxPeers)*maxPeers + p.number
		number := p.board.tried[i].Add(1)
		key := fmt.Sprint("written-", i)
		took, err, counts := p.timed(ctx, setTime, func(ctx context.Context) error {
			if deletes(number) {
				return p.writes.Delete(ctx, key)
			}
			return p.writes.Set(ctx, key, strconv.FormatUint(number, 10))
		})
		if err == nil {
			raise(&p.board.acked[i], number)
		}
		if !counts {
			continue
		}
		p.mine.sets.Add(1)
		raise(&p.mine.slowestSet, uint64(took.Microseconds()))
		if err != nil {
			p.failed(&p.mine.failedSets, "Set", key, err)
		}
	}
}

// failed counts a call that failed. One that this process made shortly after
// it had been stopped is counted apart: it has to find the others again.
func (p *peer) failed(counter interface{ Add(uint64) uint64 }, what, key string, err error) {
	if p.mine.returned() {
		p.mine.returnFailed.Add(1)
		return
	}
	counter.Add(1)
	p.complain("%s %s: %v", what, key, err)
}

// complain says on standard error what was noticed.
func (p *peer) complain(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "peer %d: %s\n", p.number, fmt.Sprintf(format, args...))
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
