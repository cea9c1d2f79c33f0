package peercache_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

func TestConfigDefaults(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)

	c, err := peercache.Config{}.Complete()
	require.NoError(t, err)
	require.Equal(t, hostname, c.Name)
	require.Equal(t, "/_peercache/", c.Path)
	require.Equal(t, 1, c.Weight)
	require.Equal(t, 2, c.Copies)
	require.Equal(t, int64(256<<20), c.MaxBytes)
	require.Equal(t, 16<<20, c.MaxValueBytes)
	require.Equal(t, peercache.Heartbeat{Interval: 200 * time.Millisecond, Timeout: 2 * time.Second}, c.Heartbeat)
	require.NotNil(t, c.Logger)
	require.Nil(t, c.TLS)

	c, err = peercache.Config{Heartbeat: peercache.Heartbeat{Interval: time.Second}}.Complete()
	require.NoError(t, err)
	require.Equal(t, 10*time.Second, c.Heartbeat.Timeout, "ten intervals where that is longer")
	c, err = peercache.Config{Heartbeat: peercache.Heartbeat{Timeout: time.Second}}.Complete()
	require.NoError(t, err)
	require.Equal(t, peercache.Heartbeat{Interval: 200 * time.Millisecond, Timeout: time.Second}, c.Heartbeat)
}

func TestConfigFaults(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	discover := func(context.Context) ([]string, error) { return nil, nil }
	long := strings.Repeat("x", 300)
	const listen = "127.0.0.1:0"

	for _, c := range []struct {
		is    string
		c     peercache.Config
		fault string // empty: none
	}{
		{"listen twice", peercache.Config{Listen: listen, Listener: listener}, "Listen: given together with Listener"},
		{"listen without a port", peercache.Config{Listen: "127.0.0.1"}, "Listen: address 127.0.0.1: missing port in address"},
		{"listen on a port that is none", peercache.Config{Listen: ":cache-port"}, `Listen: bad port "cache-port"`},
		{"listen on a port too high", peercache.Config{Listen: ":65536"}, `Listen: bad port "65536"`},
		{"listen on a named port", peercache.Config{Listen: ":http"}, ""},

		{"advertise without a port", peercache.Config{Listen: listen, Advertise: "a"}, "Advertise: address a: missing port in address"},
		{"advertise no host", peercache.Config{Listen: listen, Advertise: ":7600"}, "Advertise: address :7600: no host"},
		{"advertise port 0", peercache.Config{Listen: listen, Advertise: "a:0"}, `Advertise: address a:0: bad port "0"`},
		{"advertise a named port", peercache.Config{Listen: listen, Advertise: "a:http"}, `Advertise: address a:http: bad port "http"`},
		{"advertise any address", peercache.Config{Listen: listen, Advertise: "0.0.0.0:7600"}, "Advertise: address 0.0.0.0:7600: stands for any address"},
		{"advertise any IPv6 address", peercache.Config{Listen: listen, Advertise: "[::]:7600"}, "Advertise: address [::]:7600: stands for any address"},
		{"advertise two lines", peercache.Config{Listen: listen, Advertise: "a\r\nb:7600"}, `Advertise: address "a\r\nb:7600": bad host`},
		{"advertise too much", peercache.Config{Listen: listen, Advertise: long + ":7600"}, `Advertise: address "xxxxxxxxxxxxxxxxxxxx"...: 305 bytes, more than a host of 253 bytes and a port`},
		{"advertise too long a host", peercache.Config{Listen: listen, Advertise: long[:254] + ":1"}, `Advertise: address "xxxxxxxxxxxxxxxxxxxx"...: a host of 254 bytes, at most 253 are possible`},
		{"advertise a long host", peercache.Config{Listen: listen, Advertise: long[:253] + ":65535"}, ""},
		{"join too long a host", peercache.Config{Listen: listen, Join: []string{"a:1", long[:254] + ":1"}}, `Join[1]: address "xxxxxxxxxxxxxxxxxxxx"...: a host of 254 bytes, at most 253 are possible`},
		{"join a long host", peercache.Config{Listen: listen, Join: []string{long[:253] + ":65535"}}, ""},
		{"advertise a name", peercache.Config{Listen: listen, Advertise: "a.example:7600"}, ""},
		{"advertise IPv6", peercache.Config{Listen: listen, Advertise: "[2001:db8::1]:7600"}, ""},

		{"a long name", peercache.Config{Name: strings.Repeat("x", 128)}, ""},
		{"too long a name", peercache.Config{Name: strings.Repeat("x", 129)}, "Name: 129 bytes, at most 128 are possible"},
		{"a long zone", peercache.Config{Zone: strings.Repeat("x", 64)}, ""},
		{"too long a zone", peercache.Config{Zone: strings.Repeat("x", 65)}, "Zone: 65 bytes, at most 64 are possible"},

		{"path without a slash before", peercache.Config{Path: "cache/"}, `Path: "cache/" does not begin and end with a slash`},
		{"path without a slash behind", peercache.Config{Path: "/cache"}, `Path: "/cache" does not begin and end with a slash`},
		{"path with a space", peercache.Config{Path: "/a b/"}, `Path: "/a b/" has a character that needs escaping`},
		{"path with a query", peercache.Config{Path: "/a?b/"}, `Path: "/a?b/" has a character that needs escaping`},
		{"path with two lines", peercache.Config{Path: "/a\r\nb/"}, `Path: "/a\r\nb/" has a character that needs escaping`},
		{"path with a control character", peercache.Config{Path: "/a\x01/"}, `Path: "/a\x01/" has a character that needs escaping`},
		{"path of another alphabet", peercache.Config{Path: "/ä/"}, `Path: "/ä/" has a character that needs escaping`},
		{"path that is a pattern", peercache.Config{Path: "/{a}/"}, `Path: "/{a}/" has a character that needs escaping`},
		{"path that a mux redirects", peercache.Config{Path: "/a//b/"}, `Path: "/a//b/" is not the shortest way to write that path`},
		{"path with dots", peercache.Config{Path: "/a/../b/"}, `Path: "/a/../b/" is not the shortest way to write that path`},
		{"path too long", peercache.Config{Path: "/" + long + "/"}, "Path: 302 bytes, at most 255 are possible"},
		{"path of all", peercache.Config{Path: "/"}, ""},
		{"path of parts", peercache.Config{Path: "/cache/of-users_1.0/"}, ""},

		{"join without a port", peercache.Config{Listen: listen, Join: []string{"a:1", "b"}}, "Join[1]: address b: missing port in address"},
		{"join alone", peercache.Config{Join: []string{"a:1"}}, "Listen: Join or Discover given, but peers could not reach this node: give Listen, Listener or Advertise, or make it a Client"},
		{"discover alone", peercache.Config{Discover: discover}, "Listen: Join or Discover given, but peers could not reach this node"},
		{"a client that listens", peercache.Config{Client: true, Listen: listen, Join: []string{"a:1"}}, "Client: a Client is not reached by others: give no Listen, Listener or Advertise"},
		{"a client that advertises", peercache.Config{Client: true, Advertise: "b:1", Join: []string{"a:1"}}, "Client: a Client is not reached by others"},
		{"a client of nobody", peercache.Config{Client: true}, "Client: a Client needs Join or Discover"},
		{"a client that joins", peercache.Config{Client: true, Join: []string{"a:1"}}, ""},
		{"a client that discovers", peercache.Config{Client: true, Discover: discover}, ""},
		{"a mounted node", peercache.Config{Advertise: "a:1", Join: []string{"b:1"}}, ""},

		{"weight below 0", peercache.Config{Weight: -1}, "Weight: -1 is not between 1 and 65536"},
		{"weight too great", peercache.Config{Weight: 65537}, "Weight: 65537 is not between 1 and 65536"},
		{"greatest weight", peercache.Config{Weight: 65536}, ""},
		{"copies below 0", peercache.Config{Copies: -1}, "Copies: -1 is not between 1 and 16"},
		{"too many copies", peercache.Config{Copies: 17}, "Copies: 17 is not between 1 and 16"},
		{"most copies", peercache.Config{Copies: 16}, ""},
		{"memory below 0", peercache.Config{MaxBytes: -1}, "MaxBytes: -1 is less than 65536"},
		{"too little memory", peercache.Config{MaxBytes: 65535}, "MaxBytes: 65535 is less than 65536"},
		{"least memory", peercache.Config{MaxBytes: 65536}, ""},
		{"values below 0", peercache.Config{MaxValueBytes: -1}, "MaxValueBytes: -1 is not between 1 and 1073741824"},
		{"values too large", peercache.Config{MaxValueBytes: 1<<30 + 1}, "MaxValueBytes: 1073741825 is not between 1 and 1073741824"},

		{"accepted secrets alone", peercache.Config{AcceptSecrets: []string{"a"}}, "AcceptSecrets: given without Secret"},
		{"an empty accepted secret", peercache.Config{Secret: "s", AcceptSecrets: []string{"a", ""}}, "AcceptSecrets[1]: empty"},
		{"TLS without a certificate", peercache.Config{Listen: listen, TLS: &tls.Config{}}, "TLS: no certificate to show to peers that connect"},
		{"a client's TLS without a certificate", peercache.Config{Client: true, Join: []string{"a:1"}, TLS: &tls.Config{}}, ""},

		{"interval below 0", peercache.Config{Heartbeat: peercache.Heartbeat{Interval: -time.Second}}, "Heartbeat.Interval: -1s is not between 10ms and 1m0s"},
		{"interval too short", peercache.Config{Heartbeat: peercache.Heartbeat{Interval: 9 * time.Millisecond}}, "Heartbeat.Interval: 9ms is not between 10ms and 1m0s"},
		{"interval too long", peercache.Config{Heartbeat: peercache.Heartbeat{Interval: 1 << 62}}, "Heartbeat.Interval: "},
		{"timeout below 0", peercache.Config{Heartbeat: peercache.Heartbeat{Timeout: -1}}, "Heartbeat.Timeout: -1ns is not between five intervals, 1s, and 1h0m0s"},
		{"timeout too short", peercache.Config{Heartbeat: peercache.Heartbeat{Interval: time.Second, Timeout: 4 * time.Second}}, "Heartbeat.Timeout: 4s is not between five intervals, 5s, and 1h0m0s"},
		{"timeout too long", peercache.Config{Heartbeat: peercache.Heartbeat{Timeout: 2 * time.Hour}}, "Heartbeat.Timeout: 2h0m0s is not between"},
	} {
		t.Run(c.is, func(t *testing.T) {
			_, err := c.c.Complete()
			if c.fault == "" {
				require.NoError(t, err)
				return
			}
			var bad *peercache.ConfigError
			require.ErrorAs(t, err, &bad)
			require.Len(t, bad.Faults, 1, "%q", bad.Faults)
			require.True(t, strings.HasPrefix(bad.Faults[0], c.fault), "%s", bad.Faults[0])
		})
	}
}

func TestConfigErrorHasAllFaults(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n, err := peercache.Start(context.Background(), peercache.Config{
		Listen: "nowhere", Listener: listener, Advertise: ":1", Path: "x", Client: true, Join: []string{"y"},
		Zone: strings.Repeat("z", 65), Weight: -1, Copies: -2, MaxBytes: 3, MaxValueBytes: -4,
		AcceptSecrets: []string{"do-not-print"}, Heartbeat: peercache.Heartbeat{Interval: -5},
	})
	require.Nil(t, n)
	var bad *peercache.ConfigError
	require.ErrorAs(t, err, &bad)
	var fields []string
	for _, fault := range bad.Faults {
		field, _, ok := strings.Cut(fault, ": ")
		require.True(t, ok, fault)
		fields = append(fields, field)
		require.Contains(t, err.Error(), fault)
	}
	require.Equal(t, []string{
		"Listen", "Listen", "Advertise", "Join[0]", "Client", "Path", "Zone", "Weight", "Copies", "MaxBytes", "MaxValueBytes",
		"AcceptSecrets", "Heartbeat.Interval",
	}, fields)
	require.True(t, strings.HasPrefix(err.Error(), "peercache: bad Config: "), err.Error())
	require.NotContains(t, err.Error(), "do-not-print")
	require.ErrorIs(t, listener.Close(), net.ErrClosed, "the listener is the node's, also when Start fails")
}

func TestConfigTooLongToBeAnnounced(t *testing.T) {
	cfg := peercache.Config{
		Listen: "127.0.0.1:0", Name: strings.Repeat("n", 128), Zone: strings.Repeat("z", 64),
		Advertise: strings.Repeat("a", 150) + ":7600",
	}
	n, err := peercache.Start(context.Background(), cfg)
	require.NoError(t, err, "the greatest of each fit together")
	require.NoError(t, n.Close())
}

func TestStartWithAContextThatHasEnded(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := peercache.Start(ended, peercache.Config{Listen: "127.0.0.1:0"})
	require.ErrorIs(t, err, context.Canceled)
}

// secrets is a configuration with secrets and all the words that must not be
// printed of it.
func secrets() (peercache.Config, []string) {
	return peercache.Config{Name: "n", Secret: "s3cret-one", AcceptSecrets: []string{"s3cret-two", "s3cret-three"}}, []string{"s3cret"}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	cfg, words := secrets()
	type outer struct {
		Config  peercache.Config
		Pointer *peercache.Config
	}
	node := startNode(t, cfg)
	var out strings.Builder
	for _, v := range []any{
		cfg, &cfg, outer{cfg, &cfg}, []peercache.Config{cfg}, map[string]peercache.Config{"c": cfg}, any(cfg),
		node, []*peercache.Node{node}, struct{ Node *peercache.Node }{node}, node.Stats(), node.Members(),
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Error("m", "v", v, slog.Group("g", "v", v))
		}
		b, err := json.Marshal(v)
		fmt.Fprintf(&out, "%s %v\n", b, err)
		b, err = json.MarshalIndent(v, "", " ")
		fmt.Fprintf(&out, "%s %v\n", b, err)
	}
	for _, word := range words {
		require.NotContains(t, out.String(), word)
		require.NotContains(t, out.String(), fmt.Sprintf("%x", word), "in hexadecimal")
	}
	require.Contains(t, fmt.Sprintf("%#v", cfg), "Secret:set")
	require.Contains(t, peercache.Config{}.String(), "Secret:none")
}

func TestStartLeavesTheConfigAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		nw := peercachetest.NewNetwork()
		cfg := at(t, nw, "10.0.0.1:7600", peercache.Config{
			Join: []string{"10.0.0.2:7600"}, Secret: "a", AcceptSecrets: []string{"b"}, TLS: ca.mutual(t, "10.0.0.1"),
		})
		cfg.TLS.NextProtos = []string{"h2", "mine"}
		before := cfg
		n := startNode(t, cfg)

		require.Equal(t, []string{"h2", "mine"}, cfg.TLS.NextProtos)
		require.Same(t, before.TLS, cfg.TLS)
		require.Equal(t, before.Join, cfg.Join)
		require.Empty(t, cfg.Name+cfg.Path)
		require.Zero(t, cfg.Weight+cfg.Copies+cfg.MaxValueBytes)
		require.Nil(t, cfg.Logger)

		// Changes of what the caller gave are not seen.
		cfg.Join[0], cfg.AcceptSecrets[0] = "10.0.0.3:7600", "c"
		cfg.TLS.Certificates = nil
		cfg.TLS.RootCAs = nil
		n.Rediscover()
		synctest.Wait()
		require.Equal(t, "10.0.0.2:7600", n.Stats().Seeds[0].Addr)
		other := startNode(t, at(t, nw, "10.0.0.2:7600", peercache.Config{
			Join: []string{"10.0.0.1:7600"}, Secret: "b", AcceptSecrets: []string{"a"}, TLS: ca.mutual(t, "10.0.0.2"),
		}))
		waitAgreed(t, n, other)
	})
}

func TestNodeAlone(t *testing.T) {
	back := goroutinesBack(t)
	n, err := peercache.Start(context.Background(), peercache.Config{})
	require.NoError(t, err)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, n.WaitReady(ended), "at once")
	require.Empty(t, n.Addr())

	self := n.Self()
	require.Equal(t, peercache.MemberActive, self.State)
	require.NotZero(t, self.Incarnation)
	require.Equal(t, []peercache.Member{self}, n.Members())
	require.Equal(t, []peercache.Member{self}, n.Owners("users", "42"))
	require.Equal(t, []peercache.Member{self}, n.Owners("", ""))

	s := n.Stats()
	require.Equal(t, peercache.MemberActive, s.State)
	require.Equal(t, peercache.ShardCount, s.Shards)
	require.Equal(t, s.Shards, s.ShardsOwned)
	require.Equal(t, s.Shards, s.ShardsPrimary)
	require.Equal(t, s.Shards, s.ShardsFilled)
	require.Empty(t, s.Seeds)
	require.Empty(t, s.Peers)

	n.Rediscover() // of nobody
	require.NoError(t, n.Shutdown(context.Background()))
	require.NoError(t, n.Shutdown(ended))
	require.NoError(t, n.Close())
	require.NoError(t, n.Close())
	back()
}

func TestNodeAloneTakesNoConnections(t *testing.T) {
	n := startNode(t, peercache.Config{})
	w := get(n, "/_peercache/v1/connect", upgradeHeader)
	require.Equal(t, 404, w.Code)
	require.Contains(t, w.Body.String(), "this node is not reached by others")
}

func TestSetMaxBytes(t *testing.T) {
	n := startNode(t, peercache.Config{})
	require.Equal(t, int64(256<<20), n.Stats().MaxBytes)
	require.ErrorContains(t, n.SetMaxBytes(65535), "peercache: SetMaxBytes: 65535 is less than 65536")
	require.Equal(t, int64(256<<20), n.Stats().MaxBytes)
	require.NoError(t, n.SetMaxBytes(65536))
	require.Equal(t, int64(65536), n.Stats().MaxBytes)
}

// A listener whose address is none that could be dialed.
type oddListener struct{ net.Listener }

func (oddListener) Addr() net.Addr { return &net.UnixAddr{Name: "/run/cache.sock", Net: "unix"} }

func TestListenerThatIsNotTCP(t *testing.T) {
	for _, advertise := range []string{"", "cache.example:7600"} {
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		n, err := peercache.Start(context.Background(), peercache.Config{Listener: oddListener{inner}, Advertise: advertise})
		if advertise != "" {
			require.NoError(t, err)
			require.Equal(t, advertise, n.Addr())
			require.NoError(t, n.Close())
			continue
		}
		var bad *peercache.ConfigError
		require.True(t, errors.As(err, &bad), "%v", err)
		require.Contains(t, bad.Faults[0], "Advertise: not given")
		require.Contains(t, bad.Faults[0], "/run/cache.sock")
		require.ErrorIs(t, inner.Close(), net.ErrClosed)
	}
}

func TestConfigStringNamesTheFields(t *testing.T) {
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("starting", "config", peercache.Config{Listen: ":7600", Zone: "z"})
	require.Contains(t, b.String(), `Listen:\":7600\"`)
	require.Contains(t, b.String(), `Zone:\"z\"`)
}
