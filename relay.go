package peercache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// A node that is no part of the cluster, a client or one that has not yet
// announced itself, learns who is from a member: it asks one of them, which
// answers when its view differs from what the asker has, or after relayHold.

const (
	relayHold    = time.Second     // how long a member keeps the question when nothing changes
	relayTimeout = 3 * time.Second // how long the asker waits before it asks another member
	relayRetry   = 200 * time.Millisecond
	relayRounds  = 2 // how often all members that the asker knows are asked in vain before it forgets them

	maxRelayed = 1 << 14 // members in one answer
)

// encodeMembers is a view as it is relayed.
func encodeMembers(members []announcement) []byte {
	b := wire.AppendUvarint(nil, uint64(len(members)))
	for _, m := range members {
		b = wire.AppendUint64(b, m.Incarnation)
		b = wire.AppendBytes(b, m.encode())
	}
	return b
}

func decodeMembers(b []byte) ([]announcement, error) {
	r := wire.NewReader(b)
	count := r.Count(maxRelayed, 9)
	members := make([]announcement, 0, count)
	for range count {
		incarnation := r.Uint64()
		encoded := r.Bytes(maxAnnouncement)
		if r.Err() != nil {
			break
		}
		a, err := decodeAnnouncement(incarnation, encoded)
		if err != nil {
			return nil, err
		}
		members = append(members, a)
	}
	return members, r.End()
}

// serveView answers a question for the view: the hash of what the asker has.
func (n *Node) serveView(ctx context.Context, req mux.Request) mux.Reply {
	r := wire.NewReader(req.Body)
	known := r.Uint64()
	if err := r.End(); err != nil {
		return mux.Reply{Code: replyMalformed}
	}
	hold := time.NewTimer(relayHold)
	defer hold.Stop()
	for {
		changed := n.viewSignal.next()
		body := encodeMembers(n.view.Load().members)
		if xxhash.Sum64(body) != known {
			return mux.Reply{Body: body}
		}
		select {
		case <-changed:
		case <-hold.C:
			return mux.Reply{Code: replySame}
		case <-ctx.Done():
			return mux.Reply{Code: replySame}
		}
	}
}

// askView asks over conn and keeps the answer. It returns the hash of what
// this node knows then.
func (n *Node) askView(ctx context.Context, conn *mux.Conn, known uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, relayTimeout)
	defer cancel()
	reply, err := conn.Call(ctx, mux.Request{Op: opView, Body: wire.AppendUint64(nil, known)}, nil)
	switch {
	case err != nil:
		return 0, err
	case reply.Code == replySame:
		return known, nil
	case reply.Code != replyOK:
		return 0, fmt.Errorf("peercache: question for the members: %v", replyText(reply.Code))
	}
	members, err := decodeMembers(reply.Body)
	if err != nil {
		return 0, err
	}
	n.relayed.Store(&members)
	n.wake()
	return xxhash.Sum64(reply.Body), nil
}

// joinRelayed fetches the members from whoever answers at addr.
func (n *Node) joinRelayed(ctx context.Context, addr string) error {
	conn, _, err := n.dialCalls(ctx, mux.PurposeCalls, 0, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = n.askView(ctx, conn, 0)
	return err
}

// followRelayed keeps the members up to date through one of them after the
// other, until ctx ends or the node announced itself.
func (n *Node) followRelayed(ctx context.Context) {
	failed := make(map[uint64]bool) // those asked in this round, until the connection broke
	rounds := 0                     // in which nobody answered
	for ctx.Err() == nil && !n.announced.Load() {
		changed := n.viewSignal.next()
		members := n.peers.members()
		if len(members) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		members = slices.DeleteFunc(members, func(m Member) bool { return failed[m.Incarnation] })
		if len(members) == 0 {
			clear(failed)
			if rounds++; rounds > relayRounds {
				// Nobody whom this node knows is there: begin again with the seeds.
				rounds = 0
				n.relayed.Store(nil)
				n.refreshed(ctx)
				n.Rediscover()
			}
			continue
		}
		m := members[rand.N(len(members))]
		if err := n.followMember(ctx, m); err != nil {
			n.log.Info("member does not tell of the others", "member", m.String(), "err", err)
		} else {
			rounds = 0
			clear(failed)
		}
		failed[m.Incarnation] = true
		sleep(ctx, jitter(relayRetry))
	}
}

// followMember asks one member again and again until it fails or is gone. It
// returns nil when it answered at least once.
func (n *Node) followMember(ctx context.Context, m Member) error {
	var known uint64
	for answers := 0; ; answers++ {
		conn, err := n.peers.conn(ctx, m)
		if err == nil {
			known, err = n.askView(ctx, conn, known)
		}
		if conn != nil && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && conn.SinceHeard() >= relayTimeout {
			conn.Abort(err) // it is silent: a new connection may do better
		}
		if ctx.Err() != nil || n.announced.Load() {
			return nil
		}
		if err != nil && answers > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
