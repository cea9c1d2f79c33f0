//go:build !linux

package peercache

import (
	"net"
	"time"
)

// boundUnacknowledged does nothing: the bound is mux.Options.Silence here.
func boundUnacknowledged(net.Conn, time.Duration) {}
