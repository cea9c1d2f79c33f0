//go:build unix

package mux

import (
	"net"
	"syscall"
)

// direct writes to a socket without waiting. One goroutine at a time uses it.
type direct struct {
	raw syscall.RawConn
	buf []byte
	n   int
	try func(fd uintptr) bool
}

// newDirect returns nil for connections that are no sockets, such as TLS.
func newDirect(nc net.Conn) *direct {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{raw: raw}
	d.try = func(fd uintptr) bool {
		d.n, _ = syscall.Write(int(fd), d.buf)
		return true
	}
	return d
}

// write returns how many bytes of b the socket took. What keeps it from taking
// all is for the next writer to find out.
func (d *direct) write(b []byte) int {
	d.buf, d.n = b, 0
	err := d.raw.Write(d.try)
	d.buf = nil
	if err != nil {
		return 0
	}
	return max(d.n, 0)
}
