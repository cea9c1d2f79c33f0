package peercache

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

func TestDeflate(t *testing.T) {
	random := make([]byte, 64<<10)
	chance := rand.NewChaCha8([32]byte{1})
	chance.Read(random)
	for name, body := range map[string][]byte{
		"empty": {}, "small": []byte("hello"), "even": bytes.Repeat([]byte("value "), 10_000), "random": random,
	} {
		t.Run(name, func(t *testing.T) {
			sent := deflate(body)
			require.LessOrEqual(t, len(sent), len(body)+1, "what does not shrink is sent as it is")
			got, err := inflate(sent, len(body))
			require.NoError(t, err)
			require.Equal(t, body, append([]byte{}, got...))
		})
	}
	require.Less(t, len(deflate(bytes.Repeat([]byte("value "), 10_000))), 1000)
}

// What comes from a peer is bounded before memory is taken for it.
func TestInflateIsBounded(t *testing.T) {
	body := make([]byte, 1<<20)
	sent := deflate(body)
	_, err := inflate(sent, len(body)-1)
	require.ErrorIs(t, err, errSyncSize, "it says that it is too large")
	lying := append(wire.AppendUvarint([]byte{bodyDeflated}, 1000), sent[4:]...)
	_, err = inflate(lying, len(body))
	require.ErrorIs(t, err, errSyncPage, "it is more than it says")
	_, err = inflate([]byte{7}, 100)
	require.ErrorIs(t, err, errSyncPage)
	_, err = inflate(nil, 100)
	require.ErrorIs(t, err, errSyncPage)
}

func FuzzInflate(f *testing.F) {
	f.Add(deflate(bytes.Repeat([]byte("value "), 2000)))
	f.Add(deflate([]byte("hello")))
	f.Fuzz(func(t *testing.T, body []byte) {
		const most = 1 << 16
		if got, err := inflate(body, most); err == nil && body[0] == bodyDeflated {
			require.LessOrEqual(t, len(got), most)
		}
	})
}

func FuzzDecodeSync(f *testing.F) {
	f.Add(encodeSync([]shardHave{{1, []uint64{2, 3}}, {4095, nil}}, 7, true))
	f.Fuzz(func(t *testing.T, body []byte) {
		asked, after, hot, err := decodeSync(body)
		if err != nil {
			return
		}
		again, after2, hot2, err := decodeSync(encodeSync(asked, after, hot))
		require.NoError(t, err)
		require.Equal(t, after, after2)
		require.Equal(t, hot, hot2)
		require.Len(t, again, len(asked))
	})
}

// TestPagesOfAShard: no page is larger than it may be, whatever the sizes of
// the entries, and each entry is on one of them.
func TestPagesOfAShard(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		type item struct {
			place uint64
			size  int
		}
		var items []item
		for range 1 + chance.IntN(150) {
			size := 1 + chance.IntN(100<<10)
			if chance.IntN(20) == 0 {
				size = 1 + chance.IntN(6<<20)
			}
			items = append(items, item{1 + chance.Uint64N(syncPlaces-1), size})
		}
		seen := make(map[uint64]int)
		for after, pages := uint64(0), 0; ; pages++ {
			require.LessOrEqual(t, pages, len(items))
			c := shardCut{room: syncBytes, one: true}
			for _, it := range items {
				if it.place >= after && c.wants(it.place) {
					c.add(it.place, append(c.records, make([]byte, it.size)...))
				}
			}
			c.cut()
			size := 0
			for _, p := range c.parts {
				require.True(t, c.limit == 0 || p.place < c.limit)
				require.GreaterOrEqual(t, p.place, after)
				seen[p.place] = p.size
				size += p.size
			}
			require.Len(t, c.records, size)
			require.True(t, size <= syncBytes || len(c.parts) == 1)
			if c.limit == 0 {
				break
			}
			require.NotEmpty(t, c.parts)
			after = c.limit
		}
		for _, it := range items {
			require.Equal(t, it.size, seen[it.place])
		}
	}
}
