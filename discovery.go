package peercache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/peercache/peercache/internal/mux"
)

const (
	seedsEvery    = 10 * time.Second       // a regular round, with jitter of a half both ways
	seedsSoon     = 100 * time.Millisecond // the first repetition while no peer is known, or after some were lost; it doubles up to seedsEvery
	seedsAlone    = time.Second            // the longest while no peer has been known for less than aloneTime
	aloneTime     = 30 * time.Second
	seedTimeout   = 2 * time.Second // for one address
	seedsAtOnce   = 16              // addresses asked at the same time
	lookupTimeout = 3 * time.Second
)

// SeedStats says how one address of Join or Discover does.
type SeedStats struct {
	Addr        string    // as it was given
	LastContact time.Time // when a member last answered there, or was known to live there; zero: never
	Err         error     // why the last attempt failed; nil: it did not
}

// A resolver looks host names up. A listener may bring its own, as the
// in-memory network's does.
type resolver interface {
	LookupHost(ctx context.Context, host string) (addrs []string, err error)
}

// discovery asks the seeds for the cluster, at the start and then for ever:
// two halves that have forgotten each other find together again only so.
type discovery struct {
	n       *Node
	resolve func(ctx context.Context, host string) ([]string, error) // nil: names are for DialContext
	again   chan struct{}                                            // holds a token when a round is wanted now
	joined  atomic.Int64                                             // how often somebody else answered
	lost    chan struct{}                                            // holds a token when members are lost

	mu       sync.Mutex
	seeds    []SeedStats         // guarded by mu, like all below; those of the last round
	found    []string            // what Discover said last
	foundErr error               // why it failed last; nil: it did not
	calling  *discoverCall       // the call under way; nil: none is
	meeting  map[string]struct{} // addresses at which another process was found, while it is joined
}

func newDiscovery(n *Node, listener net.Listener) *discovery {
	d := &discovery{n: n, again: make(chan struct{}, 1), lost: make(chan struct{}, 1), meeting: make(map[string]struct{})}
	if r, ok := listener.(resolver); ok {
		d.resolve = r.LookupHost
	} else if n.cfg.DialContext == nil {
		d.resolve = net.DefaultResolver.LookupHost
	}
	for _, addr := range n.cfg.Join {
		if !slices.ContainsFunc(d.seeds, func(s SeedStats) bool { return s.Addr == addr }) {
			d.seeds = append(d.seeds, SeedStats{Addr: addr})
		}
	}
	return d
}

func (d *discovery) wakeUp() { token(d.again) }

// lostSome is called when members are lost. Those that are started in their
// place may know nobody here, and are found at the seeds.
func (d *discovery) lostSome() { token(d.lost) }

// token puts a token into a channel that has room for one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (d *discovery) stats() (seeds []SeedStats, discoverErr error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.seeds), d.foundErr
}

// run repeats rounds until ctx ends. While this node knows nobody, and when
// members were lost, the next follows soon, else with long jittered pauses, so
// that members started together do not ask together.
func (d *discovery) run(ctx context.Context) {
	pace := roundPace{soon: seedsSoon, alone: time.Now()}
	for {
		timer := time.NewTimer(pace.next(len(d.n.peers.members()) == 0))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.lost:
			timer.Stop()
			pace.hurry()
			continue
		case <-d.again:
			timer.Stop()
		case <-timer.C:
		}
		d.round(ctx)
		d.n.peers.prune()
	}
}

// A roundPace says when the next round of seeds is due.
type roundPace struct {
	soon  time.Duration // until the next, while rounds follow soon
	hasty bool          // they do though this node knows somebody
	alone time.Time     // since when it has known nobody; zero: it knows somebody
}

// hurry makes the next rounds follow soon.
func (p *roundPace) hurry() { p.soon, p.hasty = seedsSoon, true }

// next returns the time until the next round.
func (p *roundPace) next(alone bool) time.Duration {
	switch {
	case !alone:
		p.alone = time.Time{}
	case p.alone.IsZero():
		p.alone = time.Now()
		p.hurry()
	}
	if !alone && !p.hasty {
		p.soon = seedsSoon
	} else if p.soon < seedsEvery {
		wait := p.soon
		p.soon *= 2
		if alone && time.Since(p.alone) < aloneTime {
			wait, p.soon = min(wait, seedsAlone), min(p.soon, 2*seedsAlone)
		}
		return jitter(wait)
	}
	p.hasty = false
	return jitter(seedsEvery)
}

// jitter returns something between half of d and one and a half.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// round asks every seed once. It returns when all answered or failed.
func (d *discovery) round(ctx context.Context) {
	addrs := d.addrs(ctx)
	results := make([]SeedStats, len(addrs))
	var g errgroup.Group
	g.SetLimit(seedsAtOnce)
	for i, addr := range addrs {
		g.Go(func() error {
			results[i] = SeedStats{Addr: addr, Err: d.ask(ctx, addr)}
			if results[i].Err == nil {
				results[i].LastContact = d.n.clock.Now()
			}
			return nil
		})
	}
	g.Wait()
	if d.n.life.Err() == nil {
		d.record(results)
	}
}

// addrs returns what Join and Discover name, each once.
func (d *discovery) addrs(ctx context.Context) []string {
	addrs := slices.Clone(d.n.cfg.Join)
	if d.n.cfg.Discover != nil {
		found, err := d.discover(ctx)
		if ctx.Err() == nil {
			d.recordFound(found, err)
		}
		d.mu.Lock()
		addrs = append(addrs, d.found...)
		d.mu.Unlock()
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// A discoverCall is one call of Config.Discover.
type discoverCall struct {
	done  chan struct{} // closed when it has returned
	found []string
	err   error
}

// discover asks Config.Discover. It does not wait longer than ctx and
// lookupTimeout say for a function that does not heed its context: such a
// call goes on, and no other is made until it has returned.
func (d *discovery) discover(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	d.mu.Lock()
	call := d.calling
	if call == nil {
		call = &discoverCall{done: make(chan struct{})}
		if !d.n.spawn(func(ctx context.Context) { d.callDiscover(ctx, call) }) {
			d.mu.Unlock()
			return nil, ErrClosed
		}
		d.calling = call
	}
	d.mu.Unlock()
	select {
	case <-call.done:
		return call.found, call.err
	case <-ctx.Done():
		return nil, fmt.Errorf("peercache: Discover has not returned: %w", ctx.Err())
	}
}

func (d *discovery) callDiscover(ctx context.Context, call *discoverCall) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			call.err = fmt.Errorf("peercache: Discover: panic: %v", r)
		}
		d.mu.Lock()
		d.calling = nil
		d.mu.Unlock()
		close(call.done)
	}()
	found, err := d.n.cfg.Discover(ctx)
	if err != nil {
		call.err = fmt.Errorf("peercache: Discover: %w", err)
		return
	}
	call.found = slices.Clone(found)
}

// recordFound keeps what Discover said and logs what is new about its failing.
func (d *discovery) recordFound(found []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.foundErr
	d.foundErr = err
	if err == nil {
		d.found = found
	} else if !sameFault(before, err) {
		d.n.log.Warn("Discover failed", "err", err)
	}
}

// record keeps the results of a round and logs what is new about them.
func (d *discovery) record(results []SeedStats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range results {
		r := &results[i]
		var before SeedStats
		if j := slices.IndexFunc(d.seeds, func(s SeedStats) bool { return s.Addr == r.Addr }); j >= 0 {
			before = d.seeds[j]
		}
		if r.Err == nil {
			if before.Err != nil {
				d.n.log.Info("seed answers now", "seed", r.Addr)
			}
			continue
		}
		r.LastContact = before.LastContact
		if !sameFault(before.Err, r.Err) {
			d.n.log.Warn("seed does not answer", "seed", r.Addr, "err", r.Err)
		}
	}
	d.seeds = results
}

// localEnd matches this end of a connection in the text of a network error.
var localEnd = regexp.MustCompile(`\S+->`)

// sameFault reports whether two errors say the same; that the system picked
// another port for this end of a connection is no difference.
func sameFault(a, b error) bool {
	if a == nil || b == nil {
		return a == b
	}
	return localEnd.ReplaceAllString(a.Error(), "") == localEnd.ReplaceAllString(b.Error(), "")
}

// ask joins whoever is at one seed. A name is asked at all of its addresses;
// one that answers is enough for the seed to be well.
func (d *discovery) ask(ctx context.Context, seed string) error {
	if err := checkHostPort(seed); err != nil {
		return fmt.Errorf("peercache: join: %w", err)
	}
	addrs, err := d.lookup(ctx, seed)
	if err != nil {
		return fmt.Errorf("peercache: join %s: %w", seed, err)
	}
	errs := make([]error, len(addrs))
	var g errgroup.Group
	for i, addr := range addrs {
		g.Go(func() error {
			errs[i] = d.askAddr(ctx, addr)
			return nil
		})
	}
	g.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}

// lookup returns the host:port of all addresses of a seed.
func (d *discovery) lookup(ctx context.Context, seed string) ([]string, error) {
	host, port, err := net.SplitHostPort(seed)
	if err != nil {
		return nil, err
	}
	if d.resolve == nil || net.ParseIP(host) != nil {
		return []string{seed}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	slices.Sort(ips) // an answer in another order is no other answer
	addrs := make([]string, len(ips))
	for i, ip := range ips {
		addrs[i] = net.JoinHostPort(ip, port)
	}
	return addrs, nil
}

// askAddr joins the member at one address, unless it is in the view already
// or is this node. After a pause the view says nothing: another process may live
// at the address by now.
func (d *discovery) askAddr(ctx context.Context, addr string) error {
	// A node that is being announced knows the members by the word of one of
	// them only, and gossip does not.
	announcing := d.n.gossip.Load() != nil && !d.n.announced.Load()
	if addr == d.n.addr || d.n.peers.knowsAddr(addr) && !announcing && !d.n.handoff.alone.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, seedTimeout)
	defer cancel()
	err := d.n.join(ctx, addr)
	switch {
	case err == nil:
		d.joined.Add(1)
		return nil
	case isSelf(err):
		return nil
	case isTimeout(err): // whichever of the timeouts on the way was first
		return fmt.Errorf("peercache: join %s: no answer: %w", addr, context.DeadlineExceeded)
	default:
		return fmt.Errorf("peercache: join %s: %w", addr, err)
	}
}

// replaced is called with the error of a handshake that expected a certain
// process. Another one that is met at its address is joined: it may be of a
// cluster that was started in the place of the one that this node knows, and
// know nobody here.
func (d *discovery) replaced(addr string, err error) {
	var refusal *mux.HandshakeError
	if !errors.As(err, &refusal) || refusal.Code != mux.RefusedIncarnation || addr == d.n.addr {
		return
	}
	if _, known := d.n.view.Load().find(refusal.Peer.Incarnation); known {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.meeting[addr]; ok {
		return
	}
	if d.n.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, seedTimeout)
		defer cancel()
		if d.n.join(ctx, addr) == nil {
			d.joined.Add(1)
		}
		d.mu.Lock()
		delete(d.meeting, addr)
		d.mu.Unlock()
	}) {
		d.meeting[addr] = struct{}{}
	}
}

// isTimeout reports whether err says that a time was over.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}
