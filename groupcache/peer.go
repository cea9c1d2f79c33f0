package groupcache

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	pb "github.com/golang/groupcache/groupcachepb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// A peerURL is the base URL of a peer, as [HTTPPool.Set] gets it.
type peerURL struct {
	addr   string // host:port
	secure bool   // https
	prefix string // path before the pool's base path; no slash at its end
}

// parsePeer reads a base URL. ok is false when s is none.
func parsePeer(s string) (p peerURL, ok bool) {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" {
		return p, false
	}
	port := "80"
	switch strings.ToLower(u.Scheme) {
	case "http":
	case "https":
		p.secure, port = true, "443"
	default:
		return p, false
	}
	if u.Port() != "" {
		port = u.Port()
	}
	p.addr = net.JoinHostPort(u.Hostname(), port)
	p.prefix = strings.TrimSuffix(u.EscapedPath(), "/")
	return p, true
}

// dial makes the connections of the pool's node: as the program's Transport
// would make those for requests, where that is an [http.Transport].
func (p *HTTPPool) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	p.mu.Lock()
	transport := p.transport
	secure, known := p.secure[addr]
	if !known {
		secure = p.secureElse
	}
	dial, tlsConfig := p.dialBase, p.tlsBase
	p.mu.Unlock()

	var like *http.Transport
	if transport != nil {
		like, _ = transport(ctx).(*http.Transport)
	} else {
		like, _ = http.DefaultTransport.(*http.Transport)
	}
	if like != nil {
		if secure && like.DialTLSContext != nil && dial == nil && tlsConfig == nil {
			return like.DialTLSContext(ctx, network, addr)
		}
		if dial == nil {
			dial = like.DialContext
		}
		if tlsConfig == nil {
			tlsConfig = like.TLSClientConfig
		}
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, addr)
	if err != nil || !secure {
		return conn, err
	}
	return shakeHands(ctx, conn, tlsConfig, addr)
}

// shakeHands speaks TLS on a connection to addr.
func shakeHands(ctx context.Context, conn net.Conn, config *tls.Config, addr string) (net.Conn, error) {
	if config == nil {
		config = new(tls.Config)
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // HTTP/2 cannot be upgraded
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("groupcache: TLS with %s: %w", addr, err)
	}
	return secured, nil
}

// A peerGetter asks one peer by the original's protocol.
type peerGetter struct {
	base      string // URL up to the group
	transport func(context.Context) http.RoundTripper
}

// Get implements [ProtoGetter].
func (g *peerGetter) Get(ctx context.Context, in *pb.GetRequest, out *pb.GetResponse) error {
	address := g.base + url.QueryEscape(in.GetGroup()) + "/" + url.QueryEscape(in.GetKey())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("groupcache: %w", err)
	}
	transport := http.DefaultTransport
	if g.transport != nil {
		transport = g.transport(ctx)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("groupcache: ask a peer: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("groupcache: a peer answered: %s", response.Status)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("groupcache: read a peer's answer: %w", err)
	}
	if err := proto.Unmarshal(body, protoadapt.MessageV2Of(out)); err != nil {
		return fmt.Errorf("groupcache: a peer's answer is malformed: %w", err)
	}
	return nil
}
