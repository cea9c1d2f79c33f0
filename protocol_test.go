package peercache

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// A node answers whatever a member may ask, with a code of the protocol, and
// goes on serving.
func FuzzServe(f *testing.F) {
	ctx := context.Background()
	n, err := Start(ctx, Config{MaxBytes: 1 << 20})
	require.NoError(f, err)
	f.Cleanup(func() { _ = n.Close() })
	cache, err := New(n, "c", Options[string]{Load: func(_ context.Context, key string) (string, error) { return "value of " + key, nil }})
	require.NoError(f, err)
	require.NoError(f, cache.Set(ctx, "here", "value"))
	require.NoError(f, cache.Delete(ctx, "gone"))

	sp, err := n.store.space("c")
	require.NoError(f, err)
	w := &write{key: "here", op: 9, value: []byte("later"), cond: true, ttl: time.Minute}
	get := getRequest{mode: getLoad, canLoad: true, cache: "c", key: "here"}
	lent := lentResult{cache: "c", key: "here", flight: 7, loaded: loaded{value: []byte("lent")}}
	many := wire.AppendString(wire.AppendBool(nil, true), "c")
	many = wire.AppendString(wire.AppendString(wire.AppendUvarint(many, 2), "here"), "absent")
	for op, body := range map[uint8][]byte{
		opView:    {},
		opPing:    {},
		opGet:     get.append(nil),
		opLent:    lent.encode(),
		opGetMany: many,
		opWrite:   encodeWrites(sp, []*write{w}, 1<<62),
		opApply:   {},
		opPrepare: encodePrepare(sp, w, order{}, Version{1, 2}),
		opClear:   encodeShards("c", Version{}, []int{3}),
		opFloor:   encodeShards("c", Version{1, 2}, []int{3}),
		opSync:    encodeSync([]shardHave{{1, []uint64{2, 3}}}, 0, false),
		opSettled: {},
		opCompare: wire.AppendUvarint(nil, 0),
		opHot:     wire.AppendUint64(nil, 5),
		opForward: append((&forward{to: n.incarnation, from: Member{Incarnation: 7, Name: "a", Addr: "b:1"}, op: opGet}).append(nil), get.append(nil)...),
		opPacket:  {1, 2, 3},
		opLimits:  wire.AppendUvarint(wire.AppendString([]byte{1}, "other"), 1<<20),
	} {
		f.Add(op, n.incarnation, body)
	}
	f.Fuzz(func(t *testing.T, op uint8, from uint64, body []byte) {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		req := mux.Request{Op: op, Body: body}
		n.serveFast(&req)
		reply := n.serve(ctx, mux.Identity{Incarnation: from}, req, func(mux.Reply) bool { return true })
		require.LessOrEqual(t, reply.Code, uint8(replyUnreached))
		_, err := cache.Get(context.Background(), "other")
		require.NoError(t, err)
	})
}
