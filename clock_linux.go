package peercache

import (
	"time"

	"golang.org/x/sys/unix"
)

// timeSuspended tells how long the machine has slept since it was started:
// the boot-time clock counts the sleep, the monotonic one does not.
func timeSuspended() time.Duration {
	var boot, monotonic unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil ||
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &monotonic) != nil {
		return 0
	}
	return time.Duration(boot.Nano() - monotonic.Nano()).Round(time.Millisecond)
}
