package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// accuse gives the members that we suspect the chance to object.
//
// Memberlist tells a suspect that it is one by gossip, once, and when it next
// probes it, which among ten members may be after the time to object. If the
// gossip of a suspicion was lost, with everything else that one of the two sent
// in that moment, a member that is well dies for a pause of somebody else. So
// a suspicion of ours is sent to the suspect each Interval. (What others accuse
// it of, it is told when it is heard from: see heard.)
func (g *Gossip) accuse() {
	tick := time.NewTicker(g.pace.interval)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
			for name, accusation := range g.table.suspects() {
				g.suspected(name)
				g.send(name, accusation)
			}
		}
	}
}

func (g *Gossip) suspected(name string) {
	if g.calls.enter() {
		defer g.calls.leave()
		g.cfg.Suspected(name)
	}
}

// meet brings back members that are there but not in the list.
//
// Memberlist probes the live only. A member that was dead for a while (frozen,
// cut off) would learn of it by its own next full exchange with somebody; one
// that counts all others dead as well, never. So an exchange is started by us,
// in which the other reads what is said of it and objects:
//
//   - with a member that is heard of though it is dead or unknown, after an
//     interval in which gossip may have told us;
//   - with one of the dead, at random, now and then, as long as the table
//     remembers them.
//
// Those that left on purpose are left alone.
func (g *Gossip) meet() {
	due := make(map[string]time.Time) // of those heard of
	tick := time.NewTimer(g.tryAgain())
	defer tick.Stop()
	soon := time.NewTimer(time.Hour)
	soon.Stop()
	defer soon.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case name := <-g.lost:
			// A member that every other one hears of at once need not talk to
			// them all in one moment.
			if _, ok := due[name]; !ok && len(due) < MaxStreams {
				due[name] = time.Now().Add(g.pace.interval + rand.N(g.pace.interval))
			}
		case <-soon.C:
			for name, at := range due {
				if time.Now().Before(at) {
					continue
				}
				delete(due, name)
				g.meetOne(name)
			}
		case <-tick.C:
			g.table.forget(g.pace.remember)
			if name := g.table.someLost(); name != "" {
				g.meetOne(name)
			}
			tick.Reset(g.tryAgain())
		}
		next := time.Time{}
		for _, at := range due {
			if next.IsZero() || at.Before(next) {
				next = at
			}
		}
		if !next.IsZero() {
			soon.Reset(time.Until(next))
		}
	}
}

// tryAgain returns the time until the next try.
func (g *Gossip) tryAgain() time.Duration { return g.pace.reconnect + rand.N(g.pace.reconnect) }

// meetOne exchanges lists with a member, unless it has come back or we go.
func (g *Gossip) meetOne(name string) {
	if g.gone.Load() || !g.table.lost(name) {
		return
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.cfg.Timeout)
	defer cancel()
	if err := g.pushPull(ctx, Peer{Name: name, Addr: g.table.addr(name)}); errors.Is(err, ErrReplaced) {
		g.table.replaced(name)
	}
}
