package peercache

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

const (
	// upgradeToken is what an HTTP connection is upgraded to. The protocol's
	// version is agreed on by the handshake that follows.
	upgradeToken = "peercache/1"
	connectPath  = "v1/connect"

	maxResponseHeader = 8 << 10
	maxRefusalText    = 256
	refusalTextTime   = 250 * time.Millisecond // what follows a refusal's header later is not waited for
)

// dialUpgraded connects to addr, speaks TLS where configured, and upgrades the
// connection. ctx bounds all of it.
func (c *Config) dialUpgraded(ctx context.Context, addr string) (net.Conn, error) {
	dial := c.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stepped(ctx)
	boundUnacknowledged(conn, c.Heartbeat.Timeout)
	if c.TLS != nil {
		conn = tls.Client(conn, c.clientTLS(addr))
	}
	// Ends whatever the connection is doing when ctx ends.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	upgraded, err := c.upgrade(ctx, conn, addr)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil && isTimeout(err) {
			err = fmt.Errorf("no answer: %w", ctx.Err())
		}
		return nil, err
	}
	return upgraded, nil
}

func (c *Config) clientTLS(addr string) *tls.Config {
	t := c.TLS
	if t.ServerName != "" {
		return t
	}
	t = t.Clone()
	t.ServerName, _, _ = net.SplitHostPort(addr)
	return t
}

func (c *Config) upgrade(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	if t, ok := conn.(*tls.Conn); ok {
		if err := t.Handshake(); err != nil {
			return nil, explainNoAnswer(err)
		}
		stepped(ctx)
	}
	request := "GET " + c.Path + connectPath + " HTTP/1.1\r\nHost: " + addr +
		"\r\nConnection: Upgrade\r\nUpgrade: " + upgradeToken + "\r\n\r\n"
	// Who refuses may close before it has read, and has said why before that.
	_, _ = io.WriteString(conn, request)
	limited := &io.LimitedReader{R: conn, N: maxResponseHeader}
	br := bufio.NewReader(limited)
	if first, _ := br.Peek(1); len(first) == 1 && first[0] == tlsAlert && c.TLS == nil {
		return nil, errPeerHasTLS
	}
	response, err := http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	if err != nil && limited.N == 0 {
		return nil, fmt.Errorf("no HTTP answer: its header is longer than %d bytes", maxResponseHeader)
	}
	if err != nil {
		return nil, explainNoAnswer(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(response.Header.Get("Upgrade"), upgradeToken) {
		conn.SetReadDeadline(time.Now().Add(refusalTextTime))
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxRefusalText))
		return nil, c.explainStatus(response, strings.TrimSpace(string(text)))
	}
	if br.Buffered() == 0 {
		return conn, nil
	}
	early, _ := br.Peek(br.Buffered())
	return &prefixedConn{Conn: conn, prefix: bytes.NewReader(early)}, nil
}

// tlsAlert is the first byte of what TLS says to those who do not speak it.
const tlsAlert = 21

var errPeerHasTLS = errors.New("the other end speaks TLS and this node does not (Config.TLS)")

// explainNoAnswer says what it means when there was no answer of HTTP.
func explainNoAnswer(err error) error {
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &header):
		return fmt.Errorf("the other end does not speak TLS and this node does (Config.TLS): %w", err)
	case isHangup(err):
		return errHangup
	default:
		return fmt.Errorf("no HTTP answer: %w", err)
	}
}

var errHangup = errors.New("the other end closed the connection")

// isHangup reports whether err says that the other end closed the connection.
// In which of its ways it does so depends on chance.
func isHangup(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (c *Config) explainStatus(response *http.Response, text string) error {
	switch {
	case response.StatusCode == http.StatusBadRequest && c.TLS == nil && strings.Contains(text, "HTTPS"):
		return errPeerHasTLS
	case response.StatusCode == http.StatusNotFound:
		return fmt.Errorf("no peer answers at %s%s there (Config.Path): %s: %q", c.Path, connectPath, status(response), text)
	default:
		return fmt.Errorf("the other end did not upgrade to %s: %s: %q", upgradeToken, status(response), text)
	}
}

// status is a response's status in words that are not the other end's.
func status(response *http.Response) string {
	return strings.TrimSpace(fmt.Sprint(response.StatusCode, " ", http.StatusText(response.StatusCode)))
}

// prefixedConn is a connection of which some bytes were read already.
type prefixedConn struct {
	net.Conn
	prefix *bytes.Reader
}

// Read implements [net.Conn].
func (c *prefixedConn) Read(p []byte) (int, error) {
	if c.prefix.Len() > 0 {
		return c.prefix.Read(p)
	}
	return c.Conn.Read(p)
}

// NetConn returns the connection below TLS, as [tls.Conn] does.
func (c *prefixedConn) NetConn() net.Conn {
	if t, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c.Conn
}

// breakConn closes a connection without saying goodbye: TLS would wait for
// room to do so, up to seconds where the other end does not read.
func breakConn(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		t.NetConn().Close()
	}
	conn.Close()
}

// acceptUpgrade answers a request to upgrade and takes the connection over.
// An error was told to the client already.
func acceptUpgrade(w http.ResponseWriter, r *http.Request) (net.Conn, error) {
	if r.ProtoMajor != 1 {
		http.Error(w, "peercache: peers connect with HTTP/1.1", http.StatusNotImplemented)
		return nil, errors.New("asked over " + r.Proto)
	}
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "peercache: GET only", http.StatusMethodNotAllowed)
		return nil, errors.New("method " + r.Method)
	}
	if !strings.EqualFold(r.Header.Get("Upgrade"), upgradeToken) {
		w.Header().Set("Upgrade", upgradeToken)
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "peercache: this node speaks "+upgradeToken, http.StatusUpgradeRequired)
		return nil, errors.New("asked for another protocol")
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "peercache: the server that this node is mounted in does not let go of connections (http.Hijacker)", http.StatusNotImplemented)
		return nil, fmt.Errorf("%w: %w", errNoHijack, err)
	}
	// The server's timeouts were for a request; this is a connection now.
	conn.SetDeadline(time.Time{})
	if n := buffered.Reader.Buffered(); n > 0 {
		early, _ := buffered.Reader.Peek(n)
		conn = &prefixedConn{Conn: conn, prefix: bytes.NewReader(bytes.Clone(early))}
	}
	return conn, nil
}

var errNoHijack = errors.New("the HTTP server does not let go of connections; mount the node outside of wrappers such as http.TimeoutHandler")

// confirmUpgrade sends the answer after which both ends speak frames.
func confirmUpgrade(conn net.Conn) error {
	_, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeToken+"\r\n\r\n")
	return err
}
