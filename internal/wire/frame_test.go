package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files of frames that have none")

const testMax = 1 << 20

// goldenFrames are v1: their bytes in testdata must stay readable for ever, so
// none is ever changed.
var goldenFrames = map[string]Frame{
	"request": {Header{Kind: KindRequest, Code: 7, Call: 0x01020304050607, Fields: Fields{
		Deadline: 1500 * time.Microsecond, Digest: 0xd1, Clock: 0xc1, Operation: 0x01}}, []byte("body")},
	"request_bare":  {Header{Kind: KindRequest, Code: 1, Call: 1}, nil},
	"request_large": {Header{Kind: KindRequest, Code: 2, Call: 2, Fields: Fields{BodySize: 1 << 24}}, nil},
	"reply":         {Header{Kind: KindReply, Code: 3, Call: MaxCall, Fields: Fields{Clock: 1<<64 - 1}}, []byte("value")},
	"error":         {Header{Kind: KindError, Code: uint8(CodeBusy), Call: 4}, []byte("too much")},
	"progress":      {Header{Kind: KindProgress, Code: 5, Call: 5}, nil},
	"cancel":        {Header{Kind: KindCancel, Call: 6}, nil},
	"packet":        {Header{Kind: KindPacket}, []byte{0, 1, 2, 255}},
	"chunk":         {Header{Kind: KindChunk, Call: 8}, []byte("piece")},
	"chunk_reply":   {Header{Kind: KindChunk, Flags: FlagReply, Call: 8}, []byte("piece")},
	"goaway":        {Header{Kind: KindGoaway}, nil},
	"goaway_ack":    {Header{Kind: KindGoaway, Flags: FlagAck}, nil},
	"void":          {Header{Kind: KindVoid, Call: 9}, []byte("withdrawn")},
	"data":          {Header{Kind: KindData, Code: 1}, []byte("record")},
}

func TestGolden(t *testing.T) {
	kinds := map[Kind]bool{}
	for name, f := range goldenFrames {
		t.Run(name, func(t *testing.T) {
			encoded := AppendFrame(nil, &f.Header, f.Body, nil)
			file := filepath.Join("testdata", "frames", name+".hex")
			if _, err := os.Stat(file); *update && os.IsNotExist(err) {
				require.NoError(t, os.WriteFile(file, []byte(hex.EncodeToString(encoded)+"\n"), 0o644))
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			golden, err := hex.DecodeString(strings.TrimSpace(string(text)))
			require.NoError(t, err)
			require.Equal(t, golden, encoded, "v1 is written otherwise than it was")
			requireFrame(t, f, golden)
		})
		kinds[f.Kind] = true
	}
	for k := Kind(1); k.Valid(); k++ {
		require.True(t, kinds[k], "no golden file for %v", k)
	}
}

// requireFrame checks that b is exactly the frame want.
func requireFrame(t testing.TB, want Frame, b []byte) {
	t.Helper()
	var got Frame
	n, err := Parse(b, testMax, &got)
	require.NoError(t, err)
	require.Equal(t, len(b), n)
	require.Equal(t, want.Header, got.Header)
	require.True(t, bytes.Equal(want.Body, got.Body))
	require.Equal(t, Size(&want.Header, len(want.Body)), n)
}

func TestBodyAndTail(t *testing.T) {
	h := Header{Kind: KindReply, Call: 3}
	requireFrame(t, Frame{h, []byte("headvalue")}, AppendFrame(nil, &h, []byte("head"), []byte("value")))
}

func TestParseNeedsAllOfAFrame(t *testing.T) {
	f := goldenFrames["request"]
	b := AppendFrame(nil, &f.Header, f.Body, nil)
	for i := range b {
		n, err := Parse(b[:i], testMax, new(Frame))
		require.NoError(t, err)
		require.Zero(t, n)
	}
}

// raw makes a frame with the given fields, whatever they are.
func raw(kind Kind, fields, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(minLength+len(fields)+len(body)))
	b = append(b, byte(kind), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(fields)))
	b = append(b, make([]byte, 8)...)
	return append(append(b, fields...), body...)
}

func TestFields(t *testing.T) {
	u64 := []byte{0, 0, 0, 0, 0, 0, 0, 5}
	for name, c := range map[string]struct {
		fields []byte
		want   Fields
		err    error
	}{
		"none":                      {},
		"known":                     {append([]byte{tagDigest, 8}, u64...), Fields{Digest: 5}, nil},
		"known, marked critical":    {append([]byte{tagDigest | tagCritical, 8}, u64...), Fields{Digest: 5}, nil},
		"unknown optional":          {[]byte{77, 3, 1, 2, 3}, Fields{}, nil},
		"unknown optional, then":    {append([]byte{77, 1, 9, tagClock, 8}, u64...), Fields{Clock: 5}, nil},
		"reserved: epoch":           {append([]byte{tagEpoch, 8}, u64...), Fields{}, nil},
		"reserved: trace, 300 long": {append([]byte{tagTrace, 0xac, 2}, make([]byte, 300)...), Fields{}, nil},
		"unknown critical":          {[]byte{77 | tagCritical, 0}, Fields{}, ErrCritical},
		"reserved, critical":        {append([]byte{tagEpoch | tagCritical, 8}, u64...), Fields{}, ErrCritical},
		"size beyond the fields":    {[]byte{77, 4, 1, 2, 3}, Fields{}, ErrMalformed},
		"no size":                   {[]byte{77}, Fields{}, ErrMalformed},
		"size never ends":           {[]byte{77, 0x80, 0x80}, Fields{}, ErrMalformed},
		"known of another size":     {[]byte{tagDigest, 1, 1}, Fields{}, ErrMalformed},
		"twice":                     {[]byte{77, 0, 77, 0}, Fields{}, ErrMalformed},
		"too many":                  {append([]byte{tagTrace, 0xfe, 7}, make([]byte, 1022)...), Fields{}, ErrMalformed},
		"deadline beyond int64": {[]byte{tagDeadline, 8, 255, 255, 255, 255, 255, 255, 255, 255},
			Fields{Deadline: time.Duration(maxDeadline) * time.Microsecond}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := raw(KindRequest, c.fields, []byte("body"))
			var f Frame
			n, err := Parse(b, testMax, &f)
			require.ErrorIs(t, err, c.err)
			if c.err == nil || c.err == ErrCritical {
				require.Equal(t, len(b), n, "the frame after it is lost")
				require.Equal(t, "body", string(f.Body))
			} else {
				require.Zero(t, n)
			}
			if err == nil {
				require.Equal(t, c.want, f.Fields)
			}
		})
	}
	var critical *CriticalError
	_, err := Parse(raw(KindRequest, []byte{77 | tagCritical, 0}, nil), testMax, new(Frame))
	require.ErrorAs(t, err, &critical)
	require.Equal(t, byte(77|tagCritical), critical.Tag)
}

func TestParseRefuses(t *testing.T) {
	long := raw(KindRequest, nil, nil)
	binary.BigEndian.PutUint32(long, testMax-3)
	short := raw(KindRequest, nil, nil)
	binary.BigEndian.PutUint32(short, minLength-1)
	fields := raw(KindRequest, nil, []byte("body"))
	binary.BigEndian.PutUint16(fields[6:], 5)
	for name, c := range map[string]struct {
		frame []byte
		err   error
	}{
		"longer than the bound":     {long[:4], ErrTooLarge},
		"shorter than a header":     {short[:4], ErrMalformed},
		"fields beyond the frame":   {fields, ErrMalformed},
		"no kind":                   {raw(0, nil, nil), ErrMalformed},
		"a kind that is not known":  {raw(kindEnd, nil, nil), ErrMalformed},
		"as long as possible, HTTP": {[]byte("GET / HTTP/1.1\r\n"), ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := Parse(c.frame, testMax, new(Frame))
			require.ErrorIs(t, err, c.err)
			require.Zero(t, n)
		})
	}
}

func TestDeadline(t *testing.T) {
	for _, c := range []struct{ in, out time.Duration }{
		{-time.Second, time.Microsecond},
		{1, time.Microsecond},
		{time.Microsecond, time.Microsecond},
		{time.Microsecond + 1, 2 * time.Microsecond},
		{time.Hour, time.Hour},
	} {
		h := Header{Kind: KindRequest, Fields: Fields{Deadline: c.in, Digest: 1}}
		b := AppendFrame(nil, &h, nil, nil)
		h.Fields.Deadline = c.out
		requireFrame(t, Frame{Header: h}, b)
		PatchDeadline(b, c.in+time.Minute)
		h.Fields.Deadline = time.Duration(micros(c.in+time.Minute)) * time.Microsecond
		requireFrame(t, Frame{Header: h}, b)
	}
}

func TestVoid(t *testing.T) {
	f := goldenFrames["request"]
	b := AppendFrame(nil, &f.Header, f.Body, nil)
	Void(b)
	f.Kind = KindVoid
	requireFrame(t, f, b)
}

func TestParseAllocatesNothing(t *testing.T) {
	f := goldenFrames["request"]
	b := AppendFrame(nil, &f.Header, f.Body, nil)
	var got Frame
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b = AppendFrame(b[:0], &f.Header, f.Body, nil)
		_, _ = Parse(b, testMax, &got)
	}))
}

func TestNames(t *testing.T) {
	require.Equal(t, "request", KindRequest.String())
	require.Equal(t, "data", KindData.String())
	require.Equal(t, "kind 0", Kind(0).String())
	require.Equal(t, "kind 99", Kind(99).String())
	require.Equal(t, "closing", CodeClosing.String())
	require.Equal(t, "code 200", ErrorCode(200).String())
}
