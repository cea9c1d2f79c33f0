package peercache_test

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
)

func TestListen(t *testing.T) {
	for _, listen := range []string{":0", "0.0.0.0:0", "[::]:0", "127.0.0.1:0", "localhost:0", "[::1]:0"} {
		t.Run(listen, func(t *testing.T) {
			probe, err := net.Listen("tcp", listen)
			if err != nil {
				t.Skip("this machine has no such address: ", err)
			}
			probe.Close()

			first := startNode(t, peercache.Config{Listen: listen})
			host, port, err := net.SplitHostPort(first.Addr())
			require.NoError(t, err)
			require.NotEqual(t, "0", port)
			ip := net.ParseIP(host)
			require.NotNil(t, ip, host)
			require.False(t, ip.IsUnspecified(), "peers could not dial %s", host)
			require.Equal(t, first.Addr(), first.Self().Addr)

			second := startNode(t, peercache.Config{Listen: listen, Join: []string{first.Addr()}})
			waitAgreed(t, first, second)
			require.NoError(t, second.Stats().Seeds[0].Err)
		})
	}
}

func TestListenerThatIsGiven(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	first := startNode(t, peercache.Config{Listener: listener})
	require.Equal(t, listener.Addr().String(), first.Addr())
	second := startNode(t, peercache.Config{Listen: "127.0.0.1:0", Join: []string{first.Addr()}})
	waitAgreed(t, first, second)

	require.NoError(t, first.Close())
	require.ErrorIs(t, listener.Close(), net.ErrClosed, "the node closes it")
}

func TestListenOnAPortThatIsTaken(t *testing.T) {
	back := goroutinesBack(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	n, err := peercache.Start(context.Background(), peercache.Config{Listen: taken.Addr().String(), Join: []string{"127.0.0.1:1"}})
	require.Nil(t, n)
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.Equal(t, "peercache: Listen: listen tcp "+taken.Addr().String()+": bind: address already in use", err.Error())
	back()
}

func TestListenOnAHostThatIsNotThis(t *testing.T) {
	_, err := peercache.Start(context.Background(), peercache.Config{Listen: "192.0.2.1:7600"})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	require.ErrorContains(t, err, "192.0.2.1:7600")
}

func TestAdvertise(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	first := startNode(t, peercache.Config{Listener: listener, Advertise: "localhost:" + port})
	require.Equal(t, "localhost:"+port, first.Addr())
	second := startNode(t, peercache.Config{Listen: ":0", Join: []string{"127.0.0.1:" + port}})
	waitAgreed(t, first, second)
	for _, m := range second.Members() {
		if m.Incarnation == first.Self().Incarnation {
			require.Equal(t, "localhost:"+port, m.Addr, "what others are told")
		}
	}
	require.NoError(t, second.AskView(context.Background(), first.Self()), "what they dial")
}

func TestPortIsFreeAfterClose(t *testing.T) {
	addr := freeAddr(t)
	var last uint64
	for range 3 {
		n, err := peercache.Start(context.Background(), peercache.Config{Listen: addr})
		require.NoError(t, err)
		require.Equal(t, addr, n.Addr())
		require.Greater(t, n.Self().Incarnation, last, "a later start has a greater incarnation")
		last = n.Self().Incarnation
		require.NoError(t, n.Close())
		time.Sleep(20 * time.Millisecond) // starts are told apart by 8 ms
		_, err = net.Dial("tcp", addr)
		require.True(t, err != nil && strings.Contains(err.Error(), "refused"), "%v", err)
	}
}
