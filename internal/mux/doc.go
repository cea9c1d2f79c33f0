// Package mux carries many concurrent calls over one connection between two
// peers, and opens such a connection with a handshake that says who is there.
//
// A caller appends its frame to a buffer that all callers share; one goroutine
// writes whatever has gathered with one Write. One goroutine reads. Requests
// are served on the reading goroutine when Options.Fast takes them and in a
// goroutine each otherwise. Bodies beyond Options.ChunkAbove travel in chunks
// between which other frames go first, so that a large value delays no small
// call.
//
// Both ends are equal: each may call the other. Words: a call is a request and
// what comes back; a packet is a one-way datagram; a stream is a large body
// being sent, an assembly one being received; a batch is what one Write takes.
//
// Everything that comes from the network is bounded before room is made for
// it. Nothing here blocks but on channels and on the net.Conn given, and no
// lock is held meanwhile, so all of it works in a testing/synctest bubble.
package mux
