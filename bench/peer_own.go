package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"time"

	"github.com/peercache/peercache"
)

// ownFetches are peercache with and without TLS.
func ownFetches() []Fetch {
	return []Fetch{
		{Name: "peercache", Serve: serveOwn(false), Dial: dialOwn(false)},
		{Name: "peercache, TLS", Serve: serveOwn(true), Dial: dialOwn(true)},
	}
}

func serveOwn(encrypted bool) func(Data, func(string, int)) error {
	return func(d Data, ready func(string, int)) error {
		return serveOwnWith(d, encrypted, func(context.Context, *peercache.Cache[[]byte]) error { return nil }, ready)
	}
}

// serveOwnWith serves values with peercache, and more that fill puts in.
func serveOwnWith(d Data, encrypted bool, fill func(context.Context, *peercache.Cache[[]byte]) error, ready func(string, int)) error {
	conf, err := peerTLS(encrypted)
	if err != nil {
		return err
	}
	ctx := context.Background()
	node, err := peercache.Start(ctx, peercache.Config{Listen: "127.0.0.1:0", Secret: peerSecret, TLS: conf})
	if err != nil {
		return err
	}
	defer node.Close()
	cache, err := peercache.New(node, "bench", peercache.Options[[]byte]{})
	if err != nil {
		return err
	}
	value := d.value()
	for _, key := range d.Keys {
		if err := cache.Set(ctx, key, value); err != nil {
			return err
		}
	}
	if err := fill(ctx, cache); err != nil {
		return err
	}
	ready(node.Addr(), os.Getpid())
	untilTold()
	return nil
}

type ownGetter struct {
	node  *peercache.Node
	cache *peercache.Cache[[]byte]
}

func dialOwn(encrypted bool) func(Data, string) (Getter, error) {
	return func(_ Data, addr string) (Getter, error) {
		conf, err := peerTLS(encrypted)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		node, err := peercache.Start(ctx, peercache.Config{Client: true, Join: []string{addr}, Secret: peerSecret, TLS: conf})
		if err != nil {
			return nil, err
		}
		if err := node.WaitReady(ctx); err != nil {
			node.Close()
			return nil, err
		}
		cache, err := peercache.New(node, "bench", peercache.Options[[]byte]{})
		if err != nil {
			node.Close()
			return nil, err
		}
		return &ownGetter{node, cache}, nil
	}
}

func (g *ownGetter) Get(ctx context.Context, key string) (int, error) {
	v, err := g.cache.Get(ctx, key)
	return len(v), err
}

func (g *ownGetter) Close() { g.node.Close() }

// peerTLS makes a configuration for both ends. The certificate is made anew by each process, so it is not verified: what is
// measured is the encryption.
func peerTLS(encrypted bool) (*tls.Config, error) {
	if !encrypted {
		return nil, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{cert}, PrivateKey: key}},
		InsecureSkipVerify: true,
	}, nil
}
