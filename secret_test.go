package peercache_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
	"github.com/peercache/peercache/peercachetest"
)

// upgraded connects to a peer's port and upgrades the connection, as a peer
// does, and no more.
func upgraded(t testing.TB, dial func(context.Context, string, string) (net.Conn, error), addr string) net.Conn {
	t.Helper()
	conn, err := dial(context.Background(), "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	_, err = fmt.Fprintf(conn, "GET /_peercache/%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		peercache.ConnectPath, peercache.UpgradeToken)
	require.NoError(t, err)
	br := bufio.NewReader(conn)
	response, err := http.ReadResponse(br, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	require.Zero(t, br.Buffered())
	return conn
}

// strangersLocal is what a stranger brings to a handshake: right in all but what it cannot know.
func strangersLocal(secret string) mux.Local {
	return mux.Local{
		Self:   mux.Identity{Cluster: "/_peercache/", Name: "stranger", Incarnation: 4711, Addr: "10.9.9.9:1", Shards: peercache.ShardCount},
		Secret: secret,
	}
}

// question is a frame that asks for the members.
func question() []byte {
	return wire.AppendFrame(nil, &wire.Header{Kind: wire.KindRequest, Code: 1, Call: 1}, wire.AppendUint64(nil, 0), nil)
}

func TestStrangerWithoutTheSecretLearnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "of the cluster"
		var book logbook
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) {
			cfg.Name, cfg.Secret, cfg.Logger = "told-to-members", secret, book.logger()
		})
		dial := c.Network.Host("10.9.9.9").DialContext
		for _, theirs := range []string{"", "another", secret + " ", secret[:len(secret)-1]} {
			for _, purpose := range []mux.Purpose{mux.PurposeCalls, mux.PurposeGossip, mux.PurposeStream, mux.PurposeBulk, mux.PurposeProbe} {
				conn := upgraded(t, dial, c.Addr(0))
				_, err := mux.ClientHandshake(conn, time.Time{}, strangersLocal(theirs), purpose, 0)
				var refusal *mux.HandshakeError
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, mux.RefusedSecret, refusal.Code, "%q, %v: %v", theirs, purpose, err)

				// Whatever it goes on to say is not heard.
				conn.SetDeadline(time.Now().Add(time.Minute))
				conn.Write(question())
				answer, _ := io.ReadAll(conn)
				require.Empty(t, answer)
			}
		}
		// It asks without any handshake.
		conn := upgraded(t, dial, c.Addr(0))
		conn.Write(question())
		answer, _ := io.ReadAll(conn)
		require.Empty(t, answer)

		client := startNode(t, peercache.Config{Client: true, Join: []string{c.Addr(0)}, DialContext: dial})
		time.Sleep(time.Minute)
		require.Empty(t, client.Members())
		require.Empty(t, client.Owners("users", "42"))
		require.Error(t, client.AskView(t.Context(), c.Nodes[0].Self()))

		// The same question of somebody who knows it is answered.
		conn = upgraded(t, dial, c.Addr(0))
		_, err := mux.ClientHandshake(conn, time.Time{}, strangersLocal(secret), mux.PurposeCalls, 0)
		require.NoError(t, err)
		conn.Write(question())
		answer = make([]byte, 1<<10)
		size, err := conn.Read(answer)
		require.NoError(t, err)
		require.Contains(t, string(answer[:size]), "told-to-members")
		conn.Close()

		knowing := c.StartClient(func(cfg *peercache.Config) { cfg.Secret = secret })
		require.Len(t, knowing.Members(), 3)
		require.NoError(t, knowing.AskView(t.Context(), c.Nodes[0].Self()))

		require.Zero(t, c.WaitAgree())
		require.NotContains(t, book.text(), secret, "it is not logged")
	})
}

// A node tells nothing to somebody who answers at a seed's address and does
// not know the secret.
func TestNodeTellsNothingToAServerWithoutTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nw := peercachetest.NewNetwork()
		defer nw.Close()
		listener, err := nw.Host("10.0.0.2").Listen("10.0.0.2:7600")
		require.NoError(t, err)
		var mu sync.Mutex
		var heard []byte
		upgrades(func(conn net.Conn) {
			_, err := mux.ServerHandshake(conn, time.Time{}, strangersLocal("another"), nil)
			if err == nil {
				panic("it let a stranger in")
			}
			more, _ := io.ReadAll(conn)
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, more...)
		})(t, listener)
		n := startNode(t, at(t, nw, "10.0.0.1:7600", peercache.Config{Secret: "right", Join: []string{"10.0.0.2:7600"}}))
		time.Sleep(time.Minute)
		require.ErrorContains(t, n.Stats().Seeds[0].Err, "secrets differ")
		mu.Lock()
		defer mu.Unlock()
		require.Empty(t, heard)
	})
}

// The secret of a cluster is changed by rolling restarts. At each step all
// agree, and nobody takes a running member for a dead one.
func TestSecretIsRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lost []uint64 // incarnations that somebody saw leave
		current := peercache.Config{Secret: "old"}
		c := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) {
			cfg.Secret, cfg.AcceptSecrets = current.Secret, current.AcceptSecrets
			cfg.Events = &peercache.Events{MemberLeft: func(m peercache.Member) {
				mu.Lock()
				defer mu.Unlock()
				lost = append(lost, m.Incarnation)
			}}
		})
		stopped := make(map[uint64]bool)
		for _, step := range []peercache.Config{
			{Secret: "old", AcceptSecrets: []string{"new"}},
			{Secret: "new", AcceptSecrets: []string{"old"}},
			{Secret: "new"},
		} {
			for i := range c.Nodes {
				stopped[c.Nodes[i].Self().Incarnation] = true
				c.Shutdown(i)
				c.WaitAgree()
				current = step
				c.Start(i)
				c.WaitAgree()
				time.Sleep(20 * time.Second) // heartbeats and seeds go on
				require.Zero(t, c.WaitAgree(), "node %d with %v", i, step)
				for _, n := range c.Nodes {
					for _, s := range n.Stats().Seeds {
						require.NoError(t, s.Err)
					}
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		require.NotEmpty(t, lost)
		for _, incarnation := range lost {
			require.True(t, stopped[incarnation], "%016x was running", incarnation)
		}
		stale, err := peercache.Start(t.Context(), peercache.Config{
			Client: true, Secret: "old", Join: []string{c.Addr(0)}, DialContext: c.Network.Host("10.9.9.9").DialContext,
		})
		require.NoError(t, err)
		defer stale.Close()
		require.ErrorContains(t, stale.Stats().Seeds[0].Err, "secrets differ", "the old secret is worth nothing any more")
	})
}
