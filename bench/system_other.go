//go:build !unix

package main

import (
	"os"
	"time"
)

// stopSignal stops a process; nil: that cannot be done here.
var stopSignal os.Signal

// processTime is not known here.
func processTime() (used time.Duration, known bool) { return 0, false }
