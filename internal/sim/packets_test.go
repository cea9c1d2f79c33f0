package sim

import (
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
	"github.com/peercache/peercache/internal/mux"
)

// Only what is written on a connection for gossip after its handshake gets
// lost.
func TestOnlyPacketsGetLost(t *testing.T) {
	for purpose, want := range map[mux.Purpose]string{mux.PurposeGossip: "second third", mux.PurposeCalls: "first second third"} {
		t.Run(purpose.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nw := memnet.New()
				listener, err := nw.Listen("b:1")
				require.NoError(t, err)
				p := &packets{random: rand.New(rand.NewPCG(1, 1))}
				conn, err := p.dialer(nw.Host("a").DialContext)(context.Background(), "tcp", "b:1")
				require.NoError(t, err)
				accepted, err := listener.Accept()
				require.NoError(t, err)

				p.lost.Store(100)
				request := "GET / HTTP/1.1"
				_, err = io.WriteString(conn, request)
				require.NoError(t, err)
				_, err = io.ReadFull(accepted, make([]byte, len(request)))
				require.NoError(t, err)
				ended := make(chan error, 1)
				go func() {
					_, err := mux.ServerHandshake(accepted, time.Time{}, mux.Local{Self: mux.Identity{Incarnation: 2}}, nil)
					ended <- err
				}()
				_, err = mux.ClientHandshake(conn, time.Time{}, mux.Local{Self: mux.Identity{Incarnation: 1}}, purpose, 0)
				require.NoError(t, err)
				require.NoError(t, <-ended)

				for _, s := range []string{"first ", "second ", "third"} {
					_, err = io.WriteString(conn, s)
					require.NoError(t, err)
					p.lost.Store(0)
				}
				conn.Close()
				got, err := io.ReadAll(accepted)
				require.NoError(t, err)
				require.Equal(t, want, string(got))
			})
		})
	}
}
