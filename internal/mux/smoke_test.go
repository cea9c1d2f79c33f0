package mux

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSmoke(t *testing.T) {
	a, b := tcpPair(t)
	s := New(b, Options{Serve: func(_ context.Context, r Request, p func(Reply) bool) Reply { return Reply{Code: r.Op, Body: r.Body} }})
	defer s.Close()
	c := New(a, Options{})
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			body := make([]byte, i*3000)
			r, err := c.Call(t.Context(), Request{Op: 7, Body: body[:i], Tail: body[i:]}, nil)
			require.NoError(t, err)
			require.Equal(t, len(r.Body), len(body))
		})
	}
	wg.Wait()
}
