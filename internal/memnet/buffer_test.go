package memnet

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBufferIsAQueue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var b buffer
	var model []byte
	next := byte(0)
	scratch := make([]byte, 100_000)
	for range 5000 {
		size := random.IntN(1000)
		if random.IntN(50) == 0 {
			size *= 100
		}
		p := scratch[:size]
		if random.IntN(2) == 0 {
			for i := range p {
				next++
				p[i] = next
			}
			b.write(p)
			model = append(model, p...)
		} else {
			limit := random.IntN(len(model) + 1)
			n := b.read(p, limit)
			require.Equal(t, min(limit, size), n)
			require.True(t, bytes.Equal(model[:n], p[:n]))
			model = model[n:]
			drop := random.IntN(min(len(model), 500) + 1)
			b.drop(drop)
			model = model[drop:]
		}
		require.Equal(t, len(model), b.n)
	}
	b.drop(b.n)
	require.LessOrEqual(t, len(b.ring), keepBuffer)
}

func TestEmptyBuffer(t *testing.T) {
	var b buffer
	b.write(nil)
	b.drop(0)
	require.Zero(t, b.read(make([]byte, 1), 0))
}
