package peercache

import (
	"bytes"
	"compress/flate"
	"context"
	"io"
	"sync"
	"time"

	"github.com/peercache/peercache/internal/wire"
)

const (
	idlePace     = 256 << 20              // bytes a second that a node gives to those who copy its shards
	busyPace     = 32 << 20               // the same, while it serves many requests
	busyRequests = 32                     // under way
	busyRate     = 5000                   // or answered in a second
	rateTime     = 100 * time.Millisecond // over which those are counted, at least

	signPause = time.Second // between two signs that whoever waits is not forgotten

	leastDeflate = 4 << 10 // pages below are sent as they are
	deflateProbe = 4 << 10 // how much of a page tells whether it pays
)

// A pace spreads what a node sends for copies over time. The zero pace is
// ready. It may be used concurrently.
type pace struct {
	mu      sync.Mutex
	free    time.Time // guarded by mu; when what was sent so far is worked off
	counted time.Time // guarded by mu; when served was read
	served  int64     // guarded by mu; requests answered until then
	rate    float64   // guarded by mu; requests a second before that
}

// busy reports whether a node is, which has so many requests under way and has
// answered so many since it started.
func (p *pace) busy(underWay, served int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if took := now.Sub(p.counted); took >= rateTime {
		p.rate = float64(served-p.served) / took.Seconds()
		p.counted, p.served = now, served
	}
	return underWay > busyRequests || p.rate > busyRate
}

// wait waits until size bytes may be sent, or ctx ends. Now and then it calls sign.
func (p *pace) wait(ctx context.Context, size int, busy bool, sign func()) {
	rate := idlePace
	if busy {
		rate = busyPace
	}
	p.mu.Lock()
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	wait := p.free.Sub(now)
	p.free = p.free.Add(time.Duration(size) * time.Second / time.Duration(rate))
	p.mu.Unlock()
	for ; wait > 0 && ctx.Err() == nil; wait -= signPause {
		sleep(ctx, min(wait, signPause))
		sign()
	}
}

const (
	bodyPlain    uint8 = 0
	bodyDeflated uint8 = 1 // the length of what it inflates to follows
)

// deflate compresses a body when it pays.
func deflate(body []byte) []byte {
	if len(body) >= leastDeflate && pays(body[:min(len(body), deflateProbe)]) {
		b := wire.AppendByte(make([]byte, 0, len(body)/2), bodyDeflated)
		b = deflateTo(wire.AppendUvarint(b, uint64(len(body))), body)
		if len(b) < len(body) {
			return b
		}
	}
	return append(wire.AppendByte(make([]byte, 0, len(body)+1), bodyPlain), body...)
}

// pays reports whether a part of a body shrinks by a quarter.
func pays(part []byte) bool { return len(deflateTo(nil, part)) < len(part)*3/4 }

// compressors are kept because a new one clears more than a megabyte.
var compressors = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(nil, flate.BestSpeed) // fails for another level only
	return w
}}

func deflateTo(dst, body []byte) []byte {
	buf := bytes.NewBuffer(dst)
	w := compressors.Get().(*flate.Writer)
	defer compressors.Put(w)
	w.Reset(buf)
	w.Write(body) // never fails, like the buffer
	w.Close()
	w.Reset(nil) // keeps nothing of the buffer
	return buf.Bytes()
}

// inflate undoes deflate for a body of at most most bytes.
func inflate(body []byte, most int) ([]byte, error) {
	r := wire.NewReader(body)
	switch kind := r.Byte(); {
	case r.Err() != nil:
		return nil, errSyncPage
	case kind == bodyPlain:
		return r.Rest(), nil
	case kind == bodyDeflated:
		size := r.Uvarint()
		deflated := r.Rest()
		if r.End() != nil {
			return nil, errSyncPage
		}
		if size > uint64(most) {
			return nil, errSyncSize
		}
		var buf bytes.Buffer
		n, err := io.Copy(&buf, io.LimitReader(flate.NewReader(bytes.NewReader(deflated)), int64(size)+1))
		if err != nil || n != int64(size) {
			return nil, errSyncPage
		}
		return buf.Bytes(), nil
	default:
		return nil, errSyncPage
	}
}
