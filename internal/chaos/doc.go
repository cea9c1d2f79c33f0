// Package chaos runs peers as processes of their own on this machine, lets all
// of them read and write all the time, kills, stops, restarts and adds some of
// them meanwhile, and counts what their users would notice.
//
// What is counted lies in memory that all processes share, a mapped file, so
// that it survives a kill -9: before a read, the reader looks there how far a
// key had been written and acknowledged, whoever wrote it.
package chaos
