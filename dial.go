package peercache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/peercache/peercache/internal/mux"
)

// local is what this node brings to a handshake.
func (n *Node) local() mux.Local {
	return mux.Local{
		Self: mux.Identity{
			Cluster:     n.cfg.Path,
			Name:        n.cfg.Name,
			Incarnation: n.incarnation,
			Addr:        n.addr,
			Shards:      shardCount,
		},
		Secret:        n.cfg.Secret,
		AcceptSecrets: n.cfg.AcceptSecrets,
		Now:           n.clock.Now,
	}
}

// dial connects to addr for a purpose. incarnation is who must be there, 0
// for whoever answers. A ctx without a deadline gets dialTimeout.
func (n *Node) dial(ctx context.Context, purpose mux.Purpose, incarnation uint64, addr string) (net.Conn, *mux.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := n.cfg.dialUpgraded(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	stepped(ctx)
	local := n.local()
	local.Heard = func() { stepped(ctx) }
	deadline, _ := ctx.Deadline()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	session, err := mux.ClientHandshake(conn, deadline, local, purpose, incarnation)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		n.discovery.replaced(addr, err)
		return nil, nil, explainRefusal(err)
	}
	if purpose != mux.PurposeProbe {
		n.peers.reached(session.Peer.Incarnation)
		n.compareClock(gossipName(session.Peer.Incarnation), session.ClockOffset, session.RTT)
	}
	return conn, session, nil
}

// explainRefusal says what to look at when two ends do not agree.
func explainRefusal(err error) error {
	var refusal *mux.HandshakeError
	if !errors.As(err, &refusal) {
		return err
	}
	switch refusal.Code {
	case mux.Broken:
		if isHangup(err) {
			return fmt.Errorf("handshake: %w", errHangup)
		}
		return err
	case mux.RefusedSecret:
		return fmt.Errorf("%w (Config.Secret, AcceptSecrets)", err)
	case mux.RefusedCluster:
		return fmt.Errorf("%w (Config.Path)", err)
	case mux.RefusedIncarnation:
		return fmt.Errorf("%w (another process lives at that address, or another member advertises it)", err)
	default:
		return err
	}
}

// dialCalls makes a connection for calls, small or large.
func (n *Node) dialCalls(ctx context.Context, purpose mux.Purpose, incarnation uint64, addr string) (*mux.Conn, *mux.Session, error) {
	options := mux.Options{Heard: n.pauses.guard()}
	conn, session, err := n.dial(ctx, purpose, incarnation, addr)
	if err != nil {
		return nil, nil, err
	}
	return n.newConn(conn, options), session, nil
}

// dialGossip makes a connection for gossip's packets to a member. The member
// uses one of its own to answer.
func (n *Node) dialGossip(ctx context.Context, incarnation uint64, addr string) (*mux.Conn, error) {
	options := mux.Options{
		Heard:        n.pauses.guard(),
		PacketDigest: func() uint64 { return n.view.Load().digest },
	}
	conn, _, err := n.dial(ctx, mux.PurposeGossip, incarnation, addr)
	if err != nil {
		return nil, err
	}
	return n.newConn(conn, options), nil
}

// newConn starts the frames on a connection past its handshake.
func (n *Node) newConn(conn net.Conn, options mux.Options) *mux.Conn {
	options.Panicked = func(value any, stack []byte) {
		n.log.Error("panic while serving a peer", "panic", fmt.Sprint(value), "stack", string(stack))
	}
	options.Silence = n.cfg.Heartbeat.Timeout
	options.Bodies = n.maxBody
	return mux.New(conn, options)
}
