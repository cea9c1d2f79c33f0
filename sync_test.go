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
	require.ErrorIs(t, err, errSyncPage, "it says that it is too large")
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
