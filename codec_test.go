package peercache

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

type (
	namedBytes  []byte
	namedString string
	plain       struct {
		Name string
		Tags []string
		Next *plain // recursive
		Any  any
	}
	sealed   struct{ _ int }
	onlyDash struct {
		A int `json:"-"`
	}
	withChan  struct{ Deep []struct{ C chan int } }
	skipsChan struct {
		A int
		C chan int `json:"-"`
	}
	withMutex   struct{ Mu sync.Mutex }
	embedsMutex struct {
		sync.Mutex
		A int
	}
	oneName struct {
		A int
		B int `json:"A"`
	}
	selfPointer *selfPointer
	selfSlice   []selfSlice
	loop        struct {
		M map[string]loop
		P **loop
	}
	hidden        struct{ A int }
	embedsHidden  struct{ hidden }
	pointsHidden  struct{ *hidden }
	twoMarshalers struct {
		time.Time
		big.Int
	}
	borrowed struct {
		time.Time
		Note string
	}
	borrowedJSON struct {
		*big.Float
		Note string
	}
	alone struct{ time.Time }

	writeOnly  int
	byPointer  struct{ n int }
	textKey    struct{ a, b int }
	badKey     struct{ A int }
	protoLike  struct{ A int }
	binPointer struct{ s string }
	oldStyle   struct {
		time.Time
		Note string
	} // has AppendBinary, of time.Time
)

func (writeOnly) MarshalText() ([]byte, error)          { return []byte("x"), nil }
func (b *byPointer) MarshalJSON() ([]byte, error)       { return json.Marshal(b.n) }
func (b *byPointer) UnmarshalJSON(data []byte) error    { return json.Unmarshal(data, &b.n) }
func (k textKey) MarshalText() ([]byte, error)          { return []byte{byte('0' + k.a), byte('0' + k.b)}, nil }
func (k *textKey) UnmarshalText(b []byte) error         { k.a, k.b = int(b[0]-'0'), int(b[1]-'0'); return nil }
func (*protoLike) ProtoReflect() int                    { return 0 }
func (b *binPointer) MarshalBinary() ([]byte, error)    { return []byte(b.s), nil }
func (b *binPointer) UnmarshalBinary(data []byte) error { b.s = string(data); return nil }
func (o oldStyle) MarshalBinary() ([]byte, error)       { return []byte(o.Note), nil }
func (o *oldStyle) UnmarshalBinary(data []byte) error   { o.Note = string(data); return nil }

func refusal[V any]() string {
	if _, _, err := codecFor[V](nil); err != nil {
		return err.Error()
	}
	return ""
}

func TestCodecRefuses(t *testing.T) {
	const head = "peercache: values of type "
	for _, c := range []struct{ got, want string }{
		{refusal[chan int](), "chan int need Options.Codec: JSON has no form for it"},
		{refusal[func()](), "func() need Options.Codec: JSON has no form for it"},
		{refusal[complex128](), "complex128 need Options.Codec: JSON has no form for it"},
		{refusal[unsafe.Pointer](), "unsafe.Pointer need Options.Codec: JSON has no form for it"},
		{refusal[any](), "interface {} need Options.Codec: it is an interface, and which type a value had cannot be told from its bytes"},
		{refusal[error](), "error need Options.Codec: it is an interface, and which type a value had cannot be told from its bytes"},
		{refusal[sealed](), "peercache.sealed need Options.Codec: it has no exported field, and JSON would keep nothing of it"},
		{refusal[**sealed](), "**peercache.sealed need Options.Codec: it has no exported field, and JSON would keep nothing of it"},
		{refusal[onlyDash](), "peercache.onlyDash need Options.Codec: it has no exported field, and JSON would keep nothing of it"},
		{refusal[map[string][]sealed](), "map[string][]peercache.sealed need Options.Codec: [][] of type peercache.sealed: it has no exported field, and JSON would keep nothing of it"},
		{refusal[withChan](), "peercache.withChan need Options.Codec: Deep[].C of type chan int: JSON has no form for it"},
		{refusal[withMutex](), "peercache.withMutex need Options.Codec: Mu of type sync.Mutex: it has no exported field, and JSON would keep nothing of it"},
		{refusal[struct{ E error }](), "struct { E error } need Options.Codec: E of type error: JSON cannot read an interface back"},
		{refusal[struct{ R io.Reader }](), "struct { R io.Reader } need Options.Codec: R of type io.Reader: JSON cannot read an interface back"},
		{refusal[map[badKey]int](), "map[peercache.badKey]int need Options.Codec: JSON has no map keys of type peercache.badKey"},
		{refusal[map[bool]int](), "map[bool]int need Options.Codec: JSON has no map keys of type bool"},
		{refusal[map[any]int](), "map[interface {}]int need Options.Codec: JSON has no map keys of type interface {}"},
		{refusal[map[writeOnly]int](), "map[peercache.writeOnly]int need Options.Codec: JSON has no map keys of type peercache.writeOnly"},
		{refusal[writeOnly](), "peercache.writeOnly need Options.Codec: it has MarshalText but no method to read that back"},
		{refusal[map[string]byPointer](), "map[string]peercache.byPointer need Options.Codec: [] of type peercache.byPointer: JSON does not call its MarshalJSON, which needs a pointer; make the map's values pointers"},
		{refusal[*protoLike](), "*peercache.protoLike need Options.Codec: it is a protobuf message; write a Codec that uses proto.Marshal and proto.Unmarshal"},
		{refusal[struct{ M []*protoLike }](), "struct { M []*peercache.protoLike } need Options.Codec: M[] of type peercache.protoLike: it is a protobuf message; write a Codec that uses proto.Marshal and proto.Unmarshal"},
		{refusal[struct{ U url.URL }](), "struct { U url.URL } need Options.Codec: U.User of type url.Userinfo: it has no exported field, and JSON would keep nothing of it"},
		{refusal[oneName](), "peercache.oneName need Options.Codec: the fields A and B have one name in JSON"},
		{refusal[pointsHidden](), "peercache.pointsHidden need Options.Codec: JSON cannot set the embedded *peercache.hidden"},
		{refusal[borrowed](), "peercache.borrowed need Options.Codec: its MarshalBinary is that of the embedded time.Time, and the other fields would be lost"},
		{refusal[*borrowed](), "*peercache.borrowed need Options.Codec: its MarshalBinary is that of the embedded time.Time, and the other fields would be lost"},
		{refusal[borrowedJSON](), "peercache.borrowedJSON need Options.Codec: its MarshalText is that of the embedded *big.Float, and the other fields would be lost"},
		{refusal[[]borrowed](), "[]peercache.borrowed need Options.Codec: [] of type peercache.borrowed: its MarshalJSON is that of the embedded time.Time, and the other fields would be lost"},
		{refusal[[]twoMarshalers](), "[]peercache.twoMarshalers need Options.Codec: [] of type peercache.twoMarshalers: JSON keeps nothing of the embedded time.Time"},
	} {
		require.Equal(t, head+c.want, c.got)
	}
}

func codecID[V any](t *testing.T) uint16 {
	t.Helper()
	_, id, err := codecFor[V](nil)
	require.NoError(t, err)
	return id
}

// The numbers are on the wire: what is changed here makes old entries misses.
func TestCodecNumbers(t *testing.T) {
	for want, got := range map[uint16][]uint16{
		1: {codecID[[]byte](t), codecID[namedBytes](t), codecID[json.RawMessage](t)},
		2: {codecID[string](t), codecID[namedString](t)},
		3: {codecID[time.Time](t), codecID[netip.Addr](t), codecID[url.URL](t), codecID[binPointer](t), codecID[alone](t), codecID[oldStyle](t)},
		4: {codecID[*time.Time](t), codecID[*url.URL](t), codecID[*binPointer](t)},
		5: {
			codecID[int](t), codecID[*string](t), codecID[uintptr](t), codecID[plain](t), codecID[*plain](t), codecID[struct{}](t),
			codecID[map[string]any](t), codecID[[]any](t), codecID[*big.Int](t), codecID[big.Int](t), codecID[map[string]*big.Int](t),
			codecID[byPointer](t), codecID[[]byPointer](t), codecID[map[string]*byPointer](t), codecID[map[int][]byPointer](t),
			codecID[map[textKey]int](t), codecID[map[netip.Addr]time.Time](t), codecID[skipsChan](t), codecID[embedsMutex](t),
			codecID[embedsHidden](t), codecID[loop](t), codecID[selfSlice](t), codecID[selfPointer](t), codecID[[4]float64](t),
			codecID[**time.Time](t),
		},
	} {
		for i, id := range got {
			require.Equal(t, want, id, i)
		}
	}
}

func roundTrip[V any](t *testing.T, values ...V) {
	t.Helper()
	c, _, err := codecFor[V](nil)
	require.NoError(t, err)
	for _, v := range values {
		prefix := []byte("prefix\n")
		data, err := encode(c, prefix, v)
		require.NoError(t, err)
		require.Equal(t, "prefix\n", string(data[:len(prefix)]))
		data = data[len(prefix):]
		got, err := decode(c, data)
		require.NoError(t, err)
		for i := range data {
			data[i] = 0xaa // what Decode returned must not feel it
		}
		require.Equal(t, v, got)
	}
}

func TestCodecRoundTrips(t *testing.T) {
	roundTrip(t, []byte("abc"), []byte{}, []byte{0, 0xff, '\n'})
	roundTrip(t, namedBytes("abc"), namedBytes{})
	roundTrip(t, "abc", "", "\xff\xfe not UTF-8 \n")
	roundTrip(t, namedString("abc"), "", "\xff\xfe")
	roundTrip(t, json.RawMessage(`{"a":1}`))
	roundTrip(t, 0, math.MaxInt, -1)
	roundTrip(t, plain{}, plain{Name: "<&>\u2028", Tags: []string{}, Next: &plain{Tags: []string{"\n"}}, Any: "x"})
	roundTrip(t, (*plain)(nil), &plain{Name: "x"})
	roundTrip(t, []string(nil), []string{}, []string{""})
	roundTrip(t, map[string]int(nil), map[string]int{}, map[string]int{"": 1})
	roundTrip(t, map[textKey]int{{1, 2}: 3})
	roundTrip(t, struct{}{})
	roundTrip(t, byPointer{4})
	roundTrip(t, []byPointer{{4}})
	roundTrip(t, map[string]*byPointer{"a": {4}, "b": nil})
	roundTrip(t, *big.NewInt(77))
	roundTrip(t, time.Time{}, time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC))
	when := time.Date(2024, 1, 2, 3, 4, 5, 6, time.UTC)
	roundTrip(t, &when, nil)
	roundTrip(t, alone{when})
	roundTrip(t, netip.MustParseAddr("10.0.0.1"), netip.Addr{})
	roundTrip(t, binPointer{"x"}, binPointer{})
	roundTrip(t, &binPointer{"x"}, nil, &binPointer{})
	roundTrip(t, oldStyle{Note: "its own MarshalBinary, not the AppendBinary of time.Time"})
	roundTrip(t, &oldStyle{Note: "x"})
	roundTrip(t, embedsHidden{hidden{4}})

	c, _, err := codecFor[[]byte](nil)
	require.NoError(t, err)
	v, err := decode(c, nil)
	require.NoError(t, err)
	require.Equal(t, []byte{}, v, "a nil slice comes back as an empty one")
}

func TestCodecBadInput(t *testing.T) {
	ints, _, err := codecFor[int](nil)
	require.NoError(t, err)
	_, err = decode(ints, []byte(`"x"`))
	require.ErrorContains(t, err, "peercache: decode int: json: ")
	pointers, _, err := codecFor[*time.Time](nil)
	require.NoError(t, err)
	for _, data := range []string{"", "\x00\x00", "\x02", "\x01bad"} {
		v, err := decode(pointers, []byte(data))
		require.Error(t, err)
		require.Nil(t, v)
	}
	floats, _, err := codecFor[float64](nil)
	require.NoError(t, err)
	out, err := encode(floats, []byte("before\n"), math.NaN())
	require.ErrorContains(t, err, "peercache: encode float64: json: unsupported value: NaN")
	require.Equal(t, "before\n", string(out))
}

type oddCodec[V any] struct{ append, decode func() error }

func (c oddCodec[V]) Append(dst []byte, _ V) ([]byte, error) { return nil, c.append() }
func (c oddCodec[V]) Decode([]byte) (v V, err error)         { return v, c.decode() }

func TestCodecGiven(t *testing.T) {
	given := oddCodec[chan int]{}
	c, id, err := codecFor[chan int](given)
	require.NoError(t, err)
	require.Equal(t, given, c.(oddCodec[chan int]).same())
	require.GreaterOrEqual(t, id, codecGiven)
	require.EqualValues(t, 0x44c2, id, "made from the name, the same in every process")
	_, pointer, _ := codecFor[chan int](&given)
	require.Equal(t, id, pointer)
	_, other, _ := codecFor[chan string](oddCodec[chan string]{})
	require.NotEqual(t, id, other)
	_, unnamed, _ := codecFor[chan int](struct{ Codec[chan int] }{given})
	require.NotEqual(t, id, unnamed)
}

func (c oddCodec[V]) same() oddCodec[V] { return c }

func TestCodecPanicsAndErrors(t *testing.T) {
	sentinel := errors.New("sentinel")
	panics := oddCodec[int]{func() error { panic("oops") }, func() error { panic(sentinel) }}
	fails := oddCodec[int]{func() error { return sentinel }, func() error { return sentinel }}
	short := oddCodec[int]{func() error { return nil }, nil}

	out, err := encode(panics, []byte("dst"), 1)
	require.EqualError(t, err, "peercache: encode int: panic: oops")
	require.Equal(t, "dst", string(out))
	_, err = decode(panics, nil)
	require.EqualError(t, err, "peercache: decode int: panic: sentinel")

	out, err = encode(fails, []byte("dst"), 1)
	require.ErrorIs(t, err, sentinel)
	require.Equal(t, "dst", string(out))
	_, err = decode(fails, nil)
	require.ErrorIs(t, err, sentinel)

	_, err = encode(short, []byte("dst"), 1)
	require.EqualError(t, err, "peercache: encode int: the Codec's Append returned less than it was given")
}

func TestCodecAllocations(t *testing.T) {
	dst := make([]byte, 0, 1024)
	value := bytes.Repeat([]byte("v"), 500)
	raw, _, err := codecFor[[]byte](nil)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = encode(raw, dst, value) }))
	text, _, err := codecFor[string](nil)
	require.NoError(t, err)
	s := string(value)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = encode(text, dst, s) }))
	require.EqualValues(t, 1, testing.AllocsPerRun(100, func() { _, _ = decode(raw, value) }))
}

func FuzzCodecBytesAndStrings(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\xff\x00\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if b == nil {
			b = []byte{}
		}
		roundTrip(t, bytes.Clone(b))
		roundTrip(t, namedBytes(bytes.Clone(b)))
		roundTrip(t, string(b))
		roundTrip(t, namedString(b))
	})
}

// No bytes, whoever sent them, may panic or be read as something half.
func FuzzCodecDecode(f *testing.F) {
	f.Add([]byte(`{"Name":"x","Tags":null,"Next":{},"Any":[1]}`))
	f.Add([]byte{1, 2, 3})
	structs, _, _ := codecFor[plain](nil)
	pointers, _, _ := codecFor[*time.Time](nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decode(structs, b); err == nil {
			_, err = encode(structs, nil, v)
			require.NoError(t, err)
		}
		if v, err := decode(pointers, b); err == nil && v != nil {
			_, _ = encode(pointers, nil, v)
		}
	})
}
