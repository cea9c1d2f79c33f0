package peercache

import "sync"

// A signal wakes everybody who waits for the next change of something. The
// zero signal is ready. It may be used concurrently.
type signal struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu; closed by the next fire; nil: nobody waits
}

// next returns a channel that the next fire closes. To miss no change, take
// it first and look at the state after that.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}
