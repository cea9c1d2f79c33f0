package gossip

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// stream is a connection as memberlist sees it: it writes one message, with
// one call, and reads one. It puts a length before what is written, and hands
// out what is read only when the whole message is there and checked.
//
// Memberlist closes each stream when it has done all that it does with it, so
// the set's wait is a wait for memberlist's goroutine too.
type stream struct {
	net.Conn
	g     *Gossip
	peer  logAddr
	close func() error // closes the connection and takes the stream out of its set

	// Used by the one goroutine that reads.
	loaded bool
	in     []byte // the message, as far as it is not read
	err    error  // what ends it
}

func (s *stream) Read(p []byte) (int, error) {
	if !s.loaded {
		s.loaded = true
		s.in, s.err = readMessage(s.Conn)
		if s.err == nil {
			s.err = io.EOF
			if err := checkStream(s.in, s.g.table.learn); err != nil {
				s.g.refused.Add(1)
				s.in, s.err = nil, err
			}
		}
	}
	if len(s.in) == 0 {
		return 0, s.err
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}

// readMessage reads a length and as many bytes. It allocates as they come.
func readMessage(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size > MaxStream {
		return nil, fmt.Errorf("%w: %d bytes in a stream", errRefused, size)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, size); err != nil {
		return nil, err
	}
	return body.Bytes(), nil
}

func (s *stream) Write(p []byte) (int, error) {
	if len(p) > MaxStream {
		return 0, fmt.Errorf("gossip: state of %d bytes is too large to send", len(p))
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(p)), uint32(len(p)))
	if _, err := s.Conn.Write(append(b, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close closes the connection and takes the stream out of its set.
func (s *stream) Close() error { return s.close() }

// RemoteAddr is what memberlist logs; it would panic on a nil address.
func (s *stream) RemoteAddr() net.Addr {
	if a := s.Conn.RemoteAddr(); a != nil {
		return a
	}
	return s.peer
}

// logAddr is a peer as it stands in memberlist's log.
type logAddr string

func (p Peer) logAddr() logAddr { return logAddr(p.Name + "@" + p.Addr) }

func (logAddr) Network() string  { return "gossip" }
func (a logAddr) String() string { return string(a) }

// streamSet holds the open streams.
type streamSet struct {
	mu     sync.Mutex
	open   map[*stream]struct{} // guarded by mu; nil once closed
	closed bool                 // guarded by mu
	all    sync.WaitGroup       // added to under mu
}

// add returns conn as a stream, or closes it and returns false when there are
// too many or the set is closed.
func (ss *streamSet) add(g *Gossip, conn net.Conn, peer logAddr) (*stream, bool) {
	s := &stream{Conn: conn, g: g, peer: peer}
	s.close = sync.OnceValue(func() error {
		defer ss.remove(s)
		return conn.Close()
	})
	ss.mu.Lock()
	ok := !ss.closed && len(ss.open) < MaxStreams
	if ok {
		if ss.open == nil {
			ss.open = make(map[*stream]struct{})
		}
		ss.open[s] = struct{}{}
		ss.all.Add(1)
	}
	ss.mu.Unlock()
	if !ok {
		conn.Close()
	}
	return s, ok
}

func (ss *streamSet) remove(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	delete(ss.open, s)
	ss.all.Done()
}

// cut closes the connection under every stream, and lets no more in. Those who
// use the streams notice and close them.
func (ss *streamSet) cut() {
	ss.mu.Lock()
	ss.closed = true
	conns := make([]net.Conn, 0, len(ss.open))
	for s := range ss.open {
		conns = append(conns, s.Conn)
	}
	ss.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

// wait waits until every stream is closed by its user.
func (ss *streamSet) wait() { ss.all.Wait() }
