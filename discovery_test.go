package peercache

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSameFault(t *testing.T) {
	read := func(port int, err error) error {
		return fmt.Errorf("join: %w", &net.OpError{
			Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 7600}, Err: err,
		})
	}
	lookup := func(port int) error {
		return &net.DNSError{Name: "cache", Server: "10.0.0.3:53", Err: fmt.Sprintf("read udp 10.0.0.1:%d->10.0.0.3:53: i/o timeout", port)}
	}
	for _, c := range []struct {
		a, b error
		same bool
	}{
		{nil, nil, true},
		{nil, io.EOF, false},
		{io.EOF, nil, false},
		{io.EOF, errors.New("EOF"), true},
		{read(40000, os.ErrDeadlineExceeded), read(40001, os.ErrDeadlineExceeded), true},
		{read(40000, os.ErrDeadlineExceeded), read(40000, io.ErrUnexpectedEOF), false},
		{lookup(40000), lookup(50000), true},
		{lookup(40000), &net.DNSError{Name: "cache", Err: "no such host"}, false},
		{errors.Join(read(1, io.EOF), lookup(2)), errors.Join(read(3, io.EOF), lookup(4)), true},
		{errors.Join(read(1, io.EOF), lookup(2)), read(1, io.EOF), false},
	} {
		require.Equal(t, c.same, sameFault(c.a, c.b), "%v, %v", c.a, c.b)
	}
}
