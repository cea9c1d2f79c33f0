package mux

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

// Bounds that both ends rely on. They are part of the protocol.
const (
	// MaxWhole is the largest body that travels in one frame.
	MaxWhole = 256 << 10
	// DefaultMaxBody is what Options.MaxBody is unless it is given.
	DefaultMaxBody = 17 << 20
	// maxStreams is the most bodies that are sent in chunks at a time; others
	// wait. A receiver makes room for as many.
	maxStreams = 4
)

// Options say how a Conn behaves. The zero value is a Conn that serves
// nothing. The functions must not call the Conn's Close or Drain, which wait
// for them; Abort they may call. A panic in one of them does not reach the
// host: in Serve and Fast it becomes an error reply, in others it breaks the
// connection.
type Options struct {
	// MaxFrame bounds a frame that is received, header included. Default: what
	// a peer with default options may send, MaxWhole + wire.MaxOverhead.
	MaxFrame int
	// MaxBody bounds a body, sent or received. Default 17 MiB. Bodies being
	// received take up to four times as much per direction (requests, replies),
	// those above largeBody twice as much.
	MaxBody int
	// Bodies, if not nil, returns the bound in the place of MaxBody, which may
	// change while the connection lasts. It must not block.
	Bodies func() int
	// ChunkAbove is the largest body sent in one frame; beyond, it travels in
	// chunks. Default and maximum: MaxWhole.
	ChunkAbove int
	// ChunkSize is the size of a chunk. Default 64 KiB, maximum MaxWhole.
	ChunkSize int
	// MaxInFlight bounds the peer's requests that are received or served at a
	// time; requests beyond are answered wire.CodeBusy. Default 4096.
	MaxInFlight int
	// MaxQueue bounds the bytes that wait to be written; who wants to send more
	// waits. Default 1 MiB.
	MaxQueue int
	// MaxPackets bounds the packets that wait to be written. Default 64.
	MaxPackets int
	// WriteTimeout bounds the time a Write may block; then the connection is
	// closed. Default 10 s. It may strike after three quarters of that.
	WriteTimeout time.Duration
	// Silence bounds how long nothing may come from the peer while it owes an
	// answer to a call or packets are sent to it; then the connection is closed
	// with ErrSilent. The peer is asked for a sign of life meanwhile. Zero: no
	// bound.
	Silence time.Duration

	// Serve answers a request, in a goroutine of its own. Its ctx ends at the
	// request's deadline, when the caller leaves, and with the connection.
	// Request.Body is valid until Serve returns and the reply's body may be
	// part of it. The reply's body must not change after Serve has returned.
	// progress sends an interim reply; it never blocks, may be called by any
	// goroutine, and returns false when the reply was not taken: the queue is
	// full, the body is beyond 64 KiB, or the call has ended.
	// Nil: every request that Fast does not take is refused.
	Serve func(ctx context.Context, req Request, progress func(Reply) bool) Reply
	// Fast answers a request on the reading goroutine, or returns false and
	// leaves it to Serve. It must not block. All of req is valid until Fast
	// returns; the reply's body is copied then and may be part of req.Body or
	// built in req.Scratch. It is not asked about bodies that came in chunks.
	Fast func(req *Request) (Reply, bool)
	// Packet takes a one-way datagram, on the reading goroutine: it must not
	// block. The packet is valid until Packet returns; digest is what the
	// other side's PacketDigest returned, or zero.
	Packet func(packet []byte, digest uint64)
	// PacketDigest returns the digest of this side's table, which is sent with
	// each packet. It must not block. Nil: none is sent.
	PacketDigest func() uint64
	// Heard is called after bytes came from the socket and before what is in
	// them is handled, on the reading goroutine. An error breaks the connection.
	Heard func() error
	// Closed is called once, after the connection broke or was closed and all
	// calls have failed, with the reason.
	Closed func(err error)
	// Panicked is told of a panic in one of the functions above.
	Panicked func(value any, stack []byte)
}

// fill returns o with defaults filled in and bounds kept.
func (o Options) fill() Options {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.MaxFrame, MaxWhole+wire.MaxOverhead)
	def(&o.MaxBody, DefaultMaxBody)
	def(&o.ChunkAbove, MaxWhole)
	def(&o.ChunkSize, 64<<10)
	def(&o.MaxInFlight, 4096)
	def(&o.MaxQueue, 1<<20)
	def(&o.MaxPackets, 64)
	o.ChunkAbove = min(o.ChunkAbove, MaxWhole)
	o.ChunkSize = min(o.ChunkSize, MaxWhole)
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = 10 * time.Second
	}
	return o
}

// Request asks the peer for something.
type Request struct {
	// Op is the operation.
	Op uint8
	// Fields travel in the frame's header. In a Call, Deadline is taken from
	// ctx when that has one; BodySize is the package's own.
	Fields wire.Fields
	// Body and Tail, one after the other, are the request's body: two, so that
	// a value need not be copied behind its header. They must not change until
	// Call has returned, and those beyond Options.ChunkAbove never: they are
	// written from where they lie. A request received has no Tail.
	Body, Tail []byte
	// Written, if not nil, is set just before the first byte of the request may
	// reach the socket. While it is false the peer cannot have seen the request.
	Written *atomic.Bool
	// Scratch is, in Fast, an empty buffer with some room to build a reply in.
	Scratch []byte
}

// Reply is an answer. Of a Reply that Call returned the caller owns Body, and
// Tail is empty.
type Reply struct {
	// Code is the application's own.
	Code uint8
	// Fields travel in the frame's header; BodySize is the package's own.
	Fields wire.Fields
	// Body and Tail, one after the other, are the reply's body.
	Body, Tail []byte
	// Free, in what Serve returns, is called once, when nothing reads Body and
	// Tail any more. Nil: nobody wants to know.
	Free func()
	// Took is, in a Reply that Call returned, how long the peer took, from
	// when the request was handed over until the read that brought the reply's
	// first frame.
	Took time.Duration
	// Interim says that interim replies came before.
	Interim bool
}
