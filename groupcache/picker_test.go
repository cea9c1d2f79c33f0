package groupcache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	pb "github.com/golang/groupcache/groupcachepb"
	"github.com/stretchr/testify/require"
)

// fakePeer is a peer that a program's own PeerPicker names.
type fakePeer struct {
	hits int
	fail bool
}

func (p *fakePeer) Get(_ context.Context, in *pb.GetRequest, out *pb.GetResponse) error {
	p.hits++
	if p.fail {
		return errors.New("simulated error from peer")
	}
	out.Value = []byte("got:" + in.GetGroup() + ":" + in.GetKey())
	return nil
}

type fakePeers []*fakePeer

func (p fakePeers) PickPeer(key string) (ProtoGetter, bool) {
	n := crc32.ChecksumIEEE([]byte(key)) % uint32(len(p))
	if p[n] == nil {
		return nil, false
	}
	return p[n], true
}

// With a PeerPicker of the program's own there is no cluster: what it picks is
// asked, one in ten answers is kept, and where it picks nobody or the peer
// fails the getter runs here and its value is kept.
func TestPeerPicker(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		peers := fakePeers{{}, {}, {}, nil}
		asked := 0
		r.registerPicker(func(group string) PeerPicker {
			asked++
			require.Equal(t, "picked", group)
			return peers
		})
		local := 0
		g := r.newGroup("picked", 8<<20, GetterFunc(func(_ context.Context, key string, dest Sink) error {
			local++
			return dest.SetString("got:picked:" + key)
		}), GroupOptions{})
		run := func(prefix string) (hits int) {
			t.Helper()
			local = 0
			for _, p := range peers[:3] {
				p.hits = 0
			}
			for i := range 1000 {
				key := fmt.Sprint(prefix, i)
				require.Equal(t, "got:picked:"+key, getString(t, g, key))
			}
			return peers[0].hits + peers[1].hits + peers[2].hits
		}
		hits := run("a")
		require.Equal(t, 1000, hits+local)
		require.InDelta(t, 250, local, 60)
		require.EqualValues(t, hits, g.Stats.PeerLoads.Get())
		require.Equal(t, 1, asked)

		again := run("a")
		require.Zero(t, local, "own values are kept")
		require.Less(t, again, hits, "some of the peers' are")
		require.Greater(t, again, hits*8/10, "but not all")

		peers[0].fail = true
		run("b")
		require.InDelta(t, 500, local, 80)
		require.Positive(t, g.Stats.PeerErrors.Get())
		require.Len(t, g.Node().Members(), 1, "a node alone")
	})
}

// A picker that is nil for a group means that it has no peers.
func TestPickerWithoutPeers(t *testing.T) {
	inWorld(t, func(t *testing.T, r *registry) {
		r.registerPicker(func(string) PeerPicker { return nil })
		origin := new(echo)
		g := r.newGroup("g", 1<<20, origin, GroupOptions{})
		for range 3 {
			getString(t, g, "k")
		}
		require.EqualValues(t, 1, origin.loads.Load())
		_, ok := NoPeers{}.PickPeer("k")
		require.False(t, ok)
	})
}
