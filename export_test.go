package peercache

import (
	"context"
	"fmt"

	"github.com/peercache/peercache/internal/gossip"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// What tests may know of the inside.
const (
	MaxStrangers    = maxStrangers
	MaxPerPeer      = maxPerPeer
	MaxAnnouncement = maxAnnouncement
	ShardCount      = shardCount
	UpgradeToken    = upgradeToken
	ConnectPath     = connectPath
)

// Complete returns c with its defaults, or what is wrong with it.
func (c Config) Complete() (Config, error) { return c.complete() }

// AskView asks a member for its view, over the node's connection for calls,
// and leaves the answer.
func (n *Node) AskView(ctx context.Context, m Member) error {
	conn, err := n.peers.conn(ctx, m)
	if err != nil {
		return err
	}
	reply, err := conn.Call(ctx, mux.Request{Op: opView, Body: wire.AppendUint64(nil, 0)}, nil)
	if err == nil && reply.Code != replyOK {
		err = fmt.Errorf("code %d", reply.Code)
	}
	return err
}

// Inbound returns how many connections of others there are: those that have
// not proved themselves, and all that were taken over from HTTP.
func (n *Node) Inbound() (strangers, all int) {
	n.inbound.mu.Lock()
	defer n.inbound.mu.Unlock()
	return n.inbound.strangers + int(n.inbound.unasked.Load()), len(n.inbound.conns)
}

// SendPacket sends a packet that says nothing to a member, as gossip does. An
// error is proof that the member is gone.
func (n *Node) SendPacket(m Member) error {
	return n.peers.Send(gossip.Peer{Name: gossipName(m.Incarnation), Addr: m.Addr}, nil)
}

// PushEvent queues a call for the goroutine that calls Events.
func (n *Node) PushEvent(call func()) { n.events.push(call) }

// PeerCount returns how many other processes the node keeps connections to, or
// would make them again.
func (n *Node) PeerCount() int { return len(n.peers.all()) }

// SetMaxBody makes a node take what is larger for too large to be sent to others
// who lack something.
func SetMaxBody(n *Node, most int) { n.handoff.maxBody = func() int { return most } }

// BoundOf returns the bound that a node has for its part of a cache, and the
// bytes that it holds of it.
func BoundOf(n *Node, cache string) (most, held int64) {
	sp, err := n.store.space(cache)
	if err != nil {
		return 0, 0
	}
	st := n.store.lru.SpaceStats(sp.id)
	return st.MaxBytes, st.Bytes
}
