package memnet_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/memnet"
)

// serve runs an HTTP server on the listener until the end of the test.
func serve(t *testing.T, ln net.Listener, handler http.Handler) *http.Server {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	served := start(func() error { return srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		require.ErrorIs(t, served.wantDone(t), http.ErrServerClosed)
	})
	return srv
}

func client(t *testing.T, h *memnet.Host) *http.Client {
	transport := &http.Transport{DialContext: h.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	w.Header().Set("From", r.RemoteAddr)
	w.Write(body)
}

func TestHTTP(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		nw.DelayAll(time.Millisecond)
		serve(t, listen(t, nw, addrB), http.HandlerFunc(echo))
		c := client(t, nw.Host(hostA))
		for _, size := range []int{0, 10, 1 << 20} {
			body := bytes.Repeat([]byte{'x'}, size)
			res, err := c.Post("http://"+addrB+"/", "text/plain", bytes.NewReader(body))
			require.NoError(t, err)
			got, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.True(t, bytes.Equal(body, got))
			require.True(t, strings.HasPrefix(res.Header.Get("From"), hostA+":"))
		}
		require.Equal(t, 1, nw.Open())
	})
}

func TestHTTPRequestIsCancelledWhileTheServerIsPaused(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		serve(t, listen(t, nw, addrB), http.HandlerFunc(echo))
		c := client(t, nw.Host(hostA))
		nw.Host(hostB).Pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addrB+"/", nil)
		require.NoError(t, err)
		_, err = c.Do(req)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		nw.Host(hostB).Resume()
		res, err := c.Get("http://" + addrB + "/")
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	})
}

// A server may be ended while its host is paused, or cut off.
func TestHTTPServerEndsUnderFaults(t *testing.T) {
	for name, fault := range map[string]func(*memnet.Network){
		"pause":  func(nw *memnet.Network) { nw.Host(hostB).Pause() },
		"cut":    func(nw *memnet.Network) { nw.Cut(hostA, hostB) },
		"crash":  func(nw *memnet.Network) { nw.Host(hostB).Crash() },
		"vanish": func(nw *memnet.Network) { nw.Host(hostB).Vanish() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, nw *memnet.Network) {
				srv := &http.Server{Handler: http.HandlerFunc(echo)}
				served := start(func() error { return srv.Serve(listen(t, nw, addrB)) })
				synctest.Wait()
				c := client(t, nw.Host(hostA))
				res, err := c.Get("http://" + addrB + "/")
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				fault(nw)
				srv.Close()
				require.Error(t, served.wantDone(t))
				c.CloseIdleConnections()
				synctest.Wait()
				require.Zero(t, nw.Open())
			})
		})
	}
}

func TestHijack(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		serve(t, listen(t, nw, addrB), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: upper\r\n\r\n")
			for {
				line, err := rw.ReadString('\n')
				if err != nil {
					return
				}
				io.WriteString(c, strings.ToUpper(line))
			}
		}))
		c := dial(t, nw.Host(hostA), addrB)
		write(t, c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: upper\r\n\r\n")
		r := bufio.NewReader(c)
		res, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		for range 3 {
			time.Sleep(time.Minute)
			write(t, c, "hello\n")
			line, err := r.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "HELLO\n", line)
		}
		require.NoError(t, c.Close())
		synctest.Wait()
		require.Zero(t, nw.Open())
	})
}

func TestTLS(t *testing.T) {
	bubble(t, func(t *testing.T, nw *memnet.Network) {
		cert, pool := certificate(t)
		ln := tls.NewListener(listen(t, nw, addrB), &tls.Config{Certificates: []tls.Certificate{cert}})
		serve(t, ln, http.HandlerFunc(echo))
		transport := &http.Transport{
			DialContext:     nw.Host(hostA).DialContext,
			TLSClientConfig: &tls.Config{RootCAs: pool},
		}
		t.Cleanup(transport.CloseIdleConnections)
		body := bytes.Repeat([]byte("secret "), 100_000)
		res, err := (&http.Client{Transport: transport}).Post("https://"+addrB+"/", "text/plain", bytes.NewReader(body))
		require.NoError(t, err)
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.True(t, bytes.Equal(body, got))
	})
}

// certificate returns one for hostB that signs itself and is valid at the time of a bubble.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "memnet"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.ParseIP(hostB)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
