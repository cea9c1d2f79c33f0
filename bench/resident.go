package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// residentBytes returns the resident memory of this process after the collector gave back what it does not need. It is
// 0 where there is no /proc.
func residentBytes() int64 {
	debug.FreeOSMemory()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
