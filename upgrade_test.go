package peercache

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scripted is a connection on which the other end says what was written down,
// whatever it is told.
type scripted struct {
	net.Conn // nil: nothing else is asked of it
	says     *bytes.Reader
	heard    bytes.Buffer
}

func (s *scripted) Read(p []byte) (int, error)      { return s.says.Read(p) }
func (s *scripted) Write(p []byte) (int, error)     { return s.heard.Write(p) }
func (s *scripted) SetReadDeadline(time.Time) error { return nil }

func TestUpgradeKeepsWhatFollows(t *testing.T) {
	c, err := Config{Path: "/a/b/"}.complete()
	require.NoError(t, err)
	conn := &scripted{says: bytes.NewReader([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: PeerCache/1\r\n\r\nhello"))}
	upgraded, err := c.upgrade(t.Context(), conn, "a:1")
	require.NoError(t, err)
	rest, err := io.ReadAll(upgraded)
	require.NoError(t, err)
	require.Equal(t, "hello", string(rest))
	require.Equal(t, "GET /a/b/v1/connect HTTP/1.1\r\nHost: a:1\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\n\r\n", conn.heard.String())
}

func TestUpgradeReadsNoEndlessHeader(t *testing.T) {
	c, err := Config{}.complete()
	require.NoError(t, err)
	conn := &scripted{says: bytes.NewReader([]byte("HTTP/1.1 101 x\r\n" + strings.Repeat("A: b\r\n", maxResponseHeader)))}
	size := conn.says.Len()
	_, err = c.upgrade(t.Context(), conn, "a:1")
	require.ErrorContains(t, err, "its header is longer than 8192 bytes")
	require.LessOrEqual(t, size-conn.says.Len(), maxResponseHeader)
}

func FuzzUpgradeAnswer(f *testing.F) {
	const good = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: peercache/1\r\n\r\n"
	for _, answer := range []string{
		good, good + "more", "", "\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhello", "HTTP/1.0 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n", "\x15\x03\x01\x00\x02\x02\x46",
		"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 101\r\nUpgrade: peercache/1\r\nContent-Length: 3\r\n\r\nabc",
		"HTTP/1.1 100 Continue\r\n\r\n" + good, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n",
	} {
		f.Add([]byte(answer))
	}
	c, err := Config{}.complete()
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, answer []byte) {
		conn := &scripted{says: bytes.NewReader(answer)}
		upgraded, err := c.upgrade(t.Context(), conn, "a:1")
		require.LessOrEqual(t, len(answer)-conn.says.Len(), maxResponseHeader, "no more is read than a header may have")
		if err != nil {
			require.Nil(t, upgraded)
			require.LessOrEqual(t, len(err.Error()), 4*maxResponseHeader)
			return
		}
		// What follows the header, and nothing but that, is the peer's.
		end := bytes.Index(bytes.ReplaceAll(answer, []byte("\r\n"), []byte("\n")), []byte("\n\n"))
		require.NotEqual(t, -1, end)
		rest, err := io.ReadAll(upgraded)
		require.NoError(t, err)
		require.True(t, bytes.HasSuffix(answer, rest))
		header := answer[:len(answer)-len(rest)]
		require.True(t, bytes.HasSuffix(header, []byte("\n\r\n")) || bytes.HasSuffix(header, []byte("\n\n")), "%q", header)
		require.Contains(t, strings.ToLower(string(header)), "peercache/1")
	})
}
