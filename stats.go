package peercache

import (
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// Stats is what a node knows of itself at one moment. Counters begin at zero
// with the node and never go back.
type Stats struct {
	State       MemberState
	TableDigest uint64 // equal on all members that see the same cluster
	Bytes       int64  // memory held by all caches
	MaxBytes    int64  // its bound

	Shards        int // of the whole cluster, always 4,096
	ShardsOwned   int // shards that this node holds a copy of
	ShardsPrimary int // those of them whose first owner it is
	ShardsFilled  int // owned shards whose entries have all arrived

	ShardsSyncing int   // shards that are being filled, or of which something was missed and is being copied
	SyncBytes     int64 // received to fill and mend shards
	SyncBytesSent int64 // sent to others for that
	SyncOmitted   int64 // entries that were too large to be copied to another holder, and shards that another one could not give; each is logged
	HintsPending  int   // shards, counted for each other holder, of which that one may lack something that this node has
	PartialWrites int64 // writes of this node of which an owner that may be living did not confirm its copy in time
	Merges        int64 // how often this node met members of another side of a split
	Hedges        int64 // requests that went to a second owner because the first took longer than usual

	Views          uint64        // how often members or tables changed
	LastViewChange time.Time     // by this node's clock
	ClockOff       bool          // this node's clock is too far from the others': it stays out of the tables
	ClockOffset    time.Duration // how far this node's clock is ahead of the median of all members' clocks that it knows
	ClocksRefused  int64         // stamps and readings of others that were too far ahead to be followed
	Pauses         uint64        // how often this process did not run for a while
	Refused        uint64        // connections of others that were refused or failed before they were of use
	EventsDropped  uint64        // calls of Events that a slow callback kept from being made
	Seeds          []SeedStats   // in the order of their addresses, once the first round is over
	DiscoverErr    error         // why Config.Discover failed last; nil: it did not
	AnnounceErr    error         // why a node that the caller serves is not announced yet; nil: it is, was not tried, or need not be
	Peers          []PeerStats   // the other members
}

// PeerStats is what a node knows of another member.
type PeerStats struct {
	Member
	Connected      bool          // there is a connection for calls to it
	Through        string        // the member that requests to it go through while the link to it is cut; empty: they go directly
	Err            error         // why the last attempt to connect failed; nil: it did not
	LastHeard      time.Time     // when anything last came from it over the present connections, its own included; zero: there are none
	ClockOffset    time.Duration // how far its wall clock is ahead of this node's; 0 also when not known
	BytesIn        int64         // over the present connections made by this node
	BytesOut       int64
	DroppedPackets int64 // heartbeats that were dropped because the connection was full

	Requests int           // to it, under way or waiting for room
	Latency  time.Duration // smoothed time of a request to it that needs no load; 0: not measured
	Patience time.Duration // how long a read may take before another owner is asked as well
	Load     int           // requests of all members that it was working on when it last answered
	Silent   bool          // it owes answers and says nothing: reads go to others meanwhile, or also
	Silences int64         // how often that was so
}

// Stats returns the node's counters and state. It is cheap enough to be
// called every second.
func (n *Node) Stats() Stats {
	v := n.view.Load()
	copies, primaries := v.current.count(n.incarnation)
	s := Stats{
		State:          MemberState(n.state.Load()),
		TableDigest:    v.digest,
		MaxBytes:       n.maxSize.Load(),
		Shards:         shardCount,
		ShardsOwned:    copies,
		ShardsPrimary:  primaries,
		ShardsFilled:   max(copies-n.handoff.syncingCount(), 0),
		Bytes:          n.store.lru.Bytes(),
		ShardsSyncing:  n.handoff.syncingCount(),
		SyncBytes:      n.handoff.received.Load(),
		SyncBytesSent:  n.handoff.sent.Load(),
		SyncOmitted:    n.omitted.Load(),
		HintsPending:   int(n.compares.pending.Load()),
		PartialWrites:  n.partialWrites.Load(),
		Merges:         n.handoff.merges.Load(),
		Hedges:         n.hedges.Load(),
		Views:          v.serial + 1,
		LastViewChange: v.since,
		ClockOff:       n.skew.off(),
		ClockOffset:    n.skew.offset(),
		ClocksRefused:  n.hlc.refused.Load(),
		Pauses:         n.pauses.look(),
		Refused:        n.inbound.refusedCount(),
		EventsDropped:  n.events.droppedCount(),
	}
	s.Seeds, s.DiscoverErr = n.discovery.stats()
	if err := n.unreached.Load(); err != nil {
		s.AnnounceErr = *err
	}
	for _, f := range n.faces() {
		_, bytes := f.nearStats()
		s.Bytes += bytes
	}
	heard := n.inbound.heard()
	for _, m := range v.members {
		if m.Incarnation == n.incarnation {
			continue
		}
		p := n.peers.stats(m.Member)
		if at := heard[m.Incarnation]; at.After(p.LastHeard) {
			p.LastHeard = at
		}
		s.Peers = append(s.Peers, p)
	}
	return s
}

// stats returns what is known of the connections to a member.
func (p *peers) stats(m Member) PeerStats {
	s := PeerStats{Member: m}
	s.ClockOffset, _ = p.n.skew.of(m.Incarnation)
	p.mu.Lock()
	r := p.byIncarnation[m.Incarnation]
	p.mu.Unlock()
	if r == nil {
		return s
	}
	for _, c := range []*connector{&r.calls, &r.bulk, &r.gossip} {
		conn, err := c.state()
		if err != nil {
			s.Err = err
		}
		if conn != nil {
			s.add(conn)
		}
	}
	conn, _ := r.calls.state()
	s.Connected = conn != nil
	if through := r.route.through.Load(); through != nil {
		s.Through = through.String()
	}
	s.Requests = int(r.gate.inside() + r.gate.wait.Load())
	s.Latency = time.Duration(r.health.latency.Load())
	s.Patience = r.health.patience()
	s.Load = int(r.health.load.Load())
	s.Silent = r.health.silent.Load() || r.isStuck()
	s.Silences = r.health.trips.Load()
	return s
}

// heard returns when something last came from each peer over its connections.
func (in *inbound) heard() map[uint64]time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	last := make(map[uint64]time.Time)
	for c := range in.conns {
		if c.conn == nil {
			continue
		}
		if at := c.conn.LastHeard(); at.After(last[c.peer.Incarnation]) {
			last[c.peer.Incarnation] = at
		}
	}
	return last
}

func (s *PeerStats) add(conn *mux.Conn) {
	stats := conn.Stats()
	s.BytesIn += stats.BytesIn
	s.BytesOut += stats.BytesOut
	s.DroppedPackets += stats.PacketsDropped
	if heard := conn.LastHeard(); heard.After(s.LastHeard) {
		s.LastHeard = heard
	}
}

// tableChange compares the current tables of two views for this node.
func (n *Node) tableChange(before, after *view) TableChange {
	var was *table
	if before != nil {
		was = before.current
	}
	diff := diffTables(was, after.current)
	return TableChange{
		Digest:   after.digest,
		Gained:   len(diff.gained(n.incarnation)),
		Lost:     len(diff.lost(n.incarnation)),
		Promoted: len(diff.promoted(n.incarnation)),
	}
}
