package peercache

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boundUnacknowledged bounds how long what is written to a connection may stay
// unacknowledged before the kernel breaks it, where conn is a socket or is made
// of one. Else the kernel would send it again for a quarter of an hour, at times
// that are farther and farther apart.
func boundUnacknowledged(conn net.Conn, d time.Duration) {
	if below, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = below.NetConn()
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	// Where it cannot be set, mux.Options.Silence does as well, if not in all cases.
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(d.Milliseconds(), 1)))
	})
}
