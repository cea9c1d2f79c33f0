//go:build unix

package main

import (
	"os"
	"syscall"
	"time"
)

// stopSignal stops a process.
var stopSignal os.Signal = syscall.SIGSTOP

// processTime returns the processor time that this process has used, and whether the system tells.
func processTime() (used time.Duration, known bool) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
