package peercache_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/peercachetest"
)

// An authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes an authority whose certificates are good in virtual time
// as well, which begins in the year 2000.
func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := validCertificate("authority")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert: cert, key: key}
}

func validCertificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// certificate makes a certificate for hosts, names or addresses.
func (a *authority) certificate(t testing.TB, hosts ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := validCertificate(hosts[0])
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// oneWay is the TLS of a node whose certificate peers check, and which checks
// theirs only when it dials.
func (a *authority) oneWay(t testing.TB, hosts ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.certificate(t, hosts...)}, RootCAs: a.pool()}
}

// mutual is the TLS of a node that checks every peer's certificate.
func (a *authority) mutual(t testing.TB, hosts ...string) *tls.Config {
	c := a.oneWay(t, hosts...)
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, a.pool()
	return c
}

// handshakes notes the connections that a TLS configuration makes.
type handshakes struct {
	mu     sync.Mutex
	states []tls.ConnectionState
}

func (h *handshakes) watch(c *tls.Config) *tls.Config {
	c.VerifyConnection = func(s tls.ConnectionState) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.states = append(h.states, s)
		return nil
	}
	return c
}

func (h *handshakes) all() []tls.ConnectionState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.states
}

// hostOf returns the host that a node of a cluster in memory listens on.
func hostOf(t testing.TB, cfg *peercache.Config) string {
	host, _, err := net.SplitHostPort(cfg.Listener.Addr().String())
	require.NoError(t, err)
	return host
}

func TestClusterOverTLS(t *testing.T) {
	for _, c := range []struct {
		is     string
		config func(*authority, testing.TB, ...string) *tls.Config
		mutual bool
	}{
		{"one way", (*authority).oneWay, false},
		{"mutual", (*authority).mutual, true},
	} {
		t.Run(c.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca := newAuthority(t)
				var seen handshakes
				cluster := peercachetest.NewCluster(t, 3, func(_ int, cfg *peercache.Config) {
					cfg.TLS = seen.watch(c.config(ca, t, hostOf(t, cfg)))
					cfg.TLS.NextProtos = []string{"h2", "http/1.1"} // HTTP/2 cannot be upgraded
				})
				require.NotEmpty(t, seen.all())
				for _, s := range seen.all() {
					require.Equal(t, "http/1.1", s.NegotiatedProtocol)
					require.Equal(t, uint16(tls.VersionTLS13), s.Version)
					if c.mutual {
						require.NotEmpty(t, s.PeerCertificates)
					}
				}
				cluster.Kill(1)
				cluster.WaitAgree()
				cluster.Start(1)
				cluster.WaitAgree()

				client := cluster.StartClient(func(cfg *peercache.Config) { cfg.TLS = c.config(ca, t, "client") })
				require.Len(t, client.Members(), 3)
			})
		})
	}
}

func TestTLSThatDoesNotMatch(t *testing.T) {
	for _, c := range []struct {
		is           string
		mine, theirs func(ours, others *authority, t *testing.T) *tls.Config
		text         string // what the seed's error says
	}{
		{
			"another authority",
			func(ours, _ *authority, t *testing.T) *tls.Config { return ours.mutual(t, "10.0.0.1") },
			func(_, others *authority, t *testing.T) *tls.Config { return others.mutual(t, "10.0.0.2") },
			"certificate signed by unknown authority",
		}, {
			"an authority that only the other end does not know",
			func(ours, others *authority, t *testing.T) *tls.Config {
				c := ours.mutual(t, "10.0.0.1")
				c.RootCAs = others.pool()
				return c
			},
			func(_, others *authority, t *testing.T) *tls.Config { return others.mutual(t, "10.0.0.2") },
			"tls: ",
		}, {
			"no certificate where one is asked for",
			func(ours, _ *authority, t *testing.T) *tls.Config {
				c := ours.oneWay(t, "10.0.0.1")
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
				return c
			},
			func(ours, _ *authority, t *testing.T) *tls.Config { return ours.mutual(t, "10.0.0.2") },
			"certificate required",
		}, {
			"a certificate for another host",
			func(ours, _ *authority, t *testing.T) *tls.Config { return ours.mutual(t, "10.0.0.1") },
			func(ours, _ *authority, t *testing.T) *tls.Config { return ours.mutual(t, "10.0.0.3") },
			"certificate is valid for 10.0.0.3, not 10.0.0.2",
		},
	} {
		t.Run(c.is, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, others := newAuthority(t), newAuthority(t)
				nw := peercachetest.NewNetwork()
				var book logbook
				other := startNode(t, at(t, nw, "10.0.0.2:7600", peercache.Config{TLS: c.theirs(ours, others, t)}))
				n := startNode(t, at(t, nw, "10.0.0.1:7600", peercache.Config{
					Join: []string{other.Addr()}, TLS: c.mine(ours, others, t), Logger: book.logger(),
				}))
				err := n.Stats().Seeds[0].Err
				require.ErrorContains(t, err, "peercache: join 10.0.0.2:7600: ")
				require.ErrorContains(t, err, c.text)
				time.Sleep(5 * time.Minute)
				require.Len(t, n.Members(), 1)
				require.Len(t, other.Members(), 1)
				require.Len(t, book.told("seed does not answer"), 1, "once, not per round")
			})
		})
	}
}

// A node closes at once also where TLS would wait until the other end has room
// for a goodbye.
func TestCloseDoesNotWaitForAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newAuthority(t)
		c := peercachetest.NewCluster(t, 1, func(_ int, cfg *peercache.Config) {
			cfg.TLS = ca.oneWay(t, "10.0.0.1")
			cfg.TLS.SessionTicketsDisabled = true
		})
		const host = "10.9.9.9"
		ask := func() {
			conn := upgraded(t, func(ctx context.Context, network, addr string) (net.Conn, error) {
				raw, err := c.Network.Host(host).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return tls.Client(raw, &tls.Config{RootCAs: ca.pool(), ServerName: "10.0.0.1"}), nil
			}, c.Addr(0))
			_, err := mux.ClientHandshake(conn, time.Time{}, strangersLocal(""), mux.PurposeCalls, 0)
			require.NoError(t, err)
			synctest.Wait()
			before := c.Network.Bytes(c.Host(0), host)
			_, err = conn.Write(question())
			require.NoError(t, err)
			synctest.Wait()
			c.Network.SetBuffer(int(c.Network.Bytes(c.Host(0), host)-before) + 10)
		}
		ask() // to see how long the answer is
		ask() // there is room for it and for little more
		began := time.Now()
		require.NoError(t, c.Nodes[0].Close())
		require.Less(t, time.Since(began), time.Second, "of virtual time")
	})
}
