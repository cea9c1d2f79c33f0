package lru_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/lru"
)

func TestTouchHash(t *testing.T) {
	now := time.Duration(0)
	s := lru.New(lru.Options{MaxBytes: 1 << 20, Now: func() time.Duration { return now }})
	require.False(t, s.TouchHash(7), "nothing is there")
	for _, name := range []string{"a", "b"} {
		require.NoError(t, s.Put(lru.Key{Hash: 7, Name: name}, lru.Meta{Expires: time.Second}, nil))
	}
	require.NoError(t, s.Put(lru.Key{Hash: 8, Name: "c"}, lru.Meta{}, nil))
	for i := range 5000 { // they are young no more
		require.NoError(t, s.Put(lru.Key{Hash: uint64(1000 + i), Name: "other"}, lru.Meta{}, nil))
	}
	heat := func(k lru.Key) uint8 { return s.Stat(k).Heat }
	before := heat(lru.Key{Hash: 7, Name: "a"})
	require.True(t, s.TouchHash(7))
	require.Greater(t, heat(lru.Key{Hash: 7, Name: "a"}), before)
	require.Greater(t, heat(lru.Key{Hash: 7, Name: "b"}), before)
	require.Equal(t, before, heat(lru.Key{Hash: 8, Name: "c"}))
	now = time.Second
	require.False(t, s.TouchHash(7), "they have expired")
}
