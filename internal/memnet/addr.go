package memnet

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
)

// namedAddr is the address of a host that is not named by an IP address: "node-1:7600".
type namedAddr string

func (a namedAddr) Network() string { return "tcp" }
func (a namedAddr) String() string  { return string(a) }

// makeAddr returns a *net.TCPAddr where the host is an IP address, else a namedAddr.
func makeAddr(host string, port int) net.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port)))
	}
	return namedAddr(net.JoinHostPort(host, strconv.Itoa(port)))
}

// splitAddr splits host:port. The host may be empty, the port is a number.
func splitAddr(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, &net.AddrError{Err: "invalid port", Addr: address}
	}
	return canonical(host), int(n), nil
}

// hostName returns the name of a host from the name itself or from host:port.
func hostName(s string) string {
	if host, _, err := net.SplitHostPort(s); err == nil {
		s = host
	}
	return canonical(s)
}

// canonical gives every spelling of an IP address one name.
func canonical(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().String()
	}
	return host
}

func unspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func checkNetwork(op, network string) error {
	switch network {
	case "tcp", "tcp4", "tcp6":
		return nil
	}
	return &net.OpError{Op: op, Net: network, Err: net.UnknownNetworkError(network)}
}

// opError returns the error that package net would return for err.
func opError(op string, source, addr net.Addr, err error) error {
	if number, ok := err.(syscall.Errno); ok {
		call := op
		switch op {
		case "dial":
			call = "connect"
		case "listen":
			call = "bind"
		}
		err = os.NewSyscallError(call, number)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: source, Addr: addr, Err: err}
}
