package peercache

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// A Codec turns values into bytes and back. A cache uses its codec from many
// goroutines at once.
//
// Members that share a cache must read each other's bytes. Every entry
// carries a number made from the name of the Go type that implements the
// Codec: package path, name and type arguments, not its fields. When a new
// version of a program writes other bytes, give the type another name, and old
// entries are misses instead of being misread.
type Codec[V any] interface {
	// Append appends the encoded value to dst and returns the extended
	// slice. It does not change v, and keeps neither dst nor the result.
	Append(dst []byte, v V) ([]byte, error)
	// Decode returns the value that data encodes. It keeps nothing of data,
	// which is used again after it returned, and does not change it. An
	// error makes the entry a miss where there is a loader.
	Decode(data []byte) (V, error)
}

// The numbers of the built-in codecs. They travel between members and never
// change. Those of given codecs are above.
const (
	codecBytes         uint16 = 1
	codecString        uint16 = 2
	codecBinary        uint16 = 3
	codecBinaryPointer uint16 = 4
	codecJSON          uint16 = 5
	codecGiven         uint16 = 256
)

// codecFor returns the codec of a cache and the number that its entries carry.
//
// With none given it is for []byte, string and types made from them their
// bytes as they are (a nil slice comes back as an empty one); for a type that
// has encoding.BinaryMarshaler and BinaryUnmarshaler what these make of it;
// for all others JSON. JSON leaves out unexported fields and those tagged "-",
// and what an `any` inside a value holds comes back as JSON has it: a number
// as float64, a struct as a map. Types of which JSON would keep nothing, or
// which it cannot read back, are refused.
//
// The number tells one way of encoding from another, not one V from another: a
// struct with a field more is still read.
func codecFor[V any](given Codec[V]) (codec Codec[V], id uint16, err error) {
	if given != nil {
		return given, givenCodecID(reflect.TypeOf(given)), nil
	}
	t := reflect.TypeFor[V]()
	switch {
	case t == reflect.TypeFor[[]byte]():
		return any(bytesCodec{}).(Codec[V]), codecBytes, nil
	case t == reflect.TypeFor[string]():
		return any(stringCodec{}).(Codec[V]), codecString, nil
	case t.Kind() == reflect.Slice && t.Elem() == reflect.TypeFor[byte]():
		return namedBytesCodec[V]{}, codecBytes, nil
	case t.Kind() == reflect.String:
		return namedStringCodec[V]{}, codecString, nil
	}
	reason := ""
	switch {
	case t.Kind() == reflect.Interface:
		reason = "it is an interface, and which type a value had cannot be told from its bytes"
	case t.Implements(binaryMarshaler) && t.Implements(binaryUnmarshaler) && t.Kind() == reflect.Pointer:
		if reason = promoted(t.Elem(), "MarshalBinary"); reason == "" {
			return binaryPointerCodec[V]{t.Elem(), appendsBinary(t.Elem())}, codecBinaryPointer, nil
		}
	case reflect.PointerTo(t).Implements(binaryMarshaler) && reflect.PointerTo(t).Implements(binaryUnmarshaler):
		if reason = promoted(t, "MarshalBinary"); reason == "" {
			return binaryCodec[V]{appendsBinary(t)}, codecBinary, nil
		}
	default:
		// A value is encoded through a pointer to it.
		if reason = (&jsonCheck{}).refusal(t, true); reason == "" {
			return jsonCodec[V]{}, codecJSON, nil
		}
	}
	return nil, 0, fmt.Errorf("peercache: values of type %v need Options.Codec: %s", t, reason)
}

// givenCodecID makes a number from the full name of a codec's type, the same
// for a type and a pointer to it.
func givenCodecID(t reflect.Type) uint16 {
	for t.Kind() == reflect.Pointer && t.Name() == "" {
		t = t.Elem()
	}
	name := t.PkgPath() + "." + t.Name()
	if t.Name() == "" {
		name = t.String()
	}
	return codecGiven + uint16(xxhash.Sum64String(name)%uint64(1<<16-int(codecGiven)))
}

// encode appends a value. dst is returned as it was beside an error; a panic
// of the codec is an error.
func encode[V any](c Codec[V], dst []byte, v V) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			out, err = dst, fmt.Errorf("peercache: encode %T: panic: %v", v, p)
		}
	}()
	out, err = c.Append(dst, v)
	if err == nil && len(out) < len(dst) {
		err = errors.New("the Codec's Append returned less than it was given")
	}
	if err != nil {
		return dst, fmt.Errorf("peercache: encode %T: %w", v, err)
	}
	return out, nil
}

// decode decodes a value; a panic of the codec is an error.
func decode[V any](c Codec[V], data []byte) (v V, err error) {
	defer func() {
		if p := recover(); p != nil {
			var zero V
			v, err = zero, fmt.Errorf("peercache: decode %T: panic: %v", zero, p)
		}
	}()
	if v, err = c.Decode(data); err != nil {
		var zero V
		return zero, fmt.Errorf("peercache: decode %T: %w", zero, err)
	}
	return v, nil
}

type bytesCodec struct{}

func (bytesCodec) Append(dst, v []byte) ([]byte, error) { return append(dst, v...), nil }
func (bytesCodec) Decode(data []byte) ([]byte, error) {
	return append(make([]byte, 0, len(data)), data...), nil
}

type stringCodec struct{}

func (stringCodec) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (stringCodec) Decode(data []byte) (string, error)          { return string(data), nil }

// namedBytesCodec is for types whose underlying type is []byte.
type namedBytesCodec[V any] struct{}

func (namedBytesCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	return append(dst, reflect.ValueOf(v).Bytes()...), nil
}

func (namedBytesCodec[V]) Decode(data []byte) (v V, err error) {
	reflect.ValueOf(&v).Elem().SetBytes(append(make([]byte, 0, len(data)), data...))
	return v, nil
}

// namedStringCodec is for types whose underlying type is string.
type namedStringCodec[V any] struct{}

func (namedStringCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	return append(dst, reflect.ValueOf(v).String()...), nil
}

func (namedStringCodec[V]) Decode(data []byte) (v V, err error) {
	reflect.ValueOf(&v).Elem().SetString(string(data))
	return v, nil
}

// appendsBinary tells whether a type that marshals itself, or a pointer to it,
// has an AppendBinary that goes with that. One that was lent by an embedded
// field does not.
func appendsBinary(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(binaryAppender) && promoted(t, "AppendBinary") == ""
}

func appendBinary(dst []byte, v any, appends bool) ([]byte, error) {
	if appends {
		return v.(encoding.BinaryAppender).AppendBinary(dst)
	}
	b, err := v.(encoding.BinaryMarshaler).MarshalBinary()
	return append(dst, b...), err
}

// binaryCodec is for types that marshal themselves, or a pointer to them.
type binaryCodec[V any] struct{ appends bool }

func (c binaryCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	return appendBinary(dst, &v, c.appends)
}

func (binaryCodec[V]) Decode(data []byte) (v V, err error) {
	err = any(&v).(encoding.BinaryUnmarshaler).UnmarshalBinary(data)
	return v, err
}

// binaryPointerCodec is for pointers whose type marshals itself. A first byte
// tells nil, 0, from the rest, 1.
type binaryPointerCodec[V any] struct {
	elem    reflect.Type
	appends bool
}

func (c binaryPointerCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	if reflect.ValueOf(v).IsNil() {
		return append(dst, 0), nil
	}
	return appendBinary(append(dst, 1), v, c.appends)
}

func (c binaryPointerCodec[V]) Decode(data []byte) (v V, err error) {
	switch {
	case len(data) == 1 && data[0] == 0:
		return v, nil
	case len(data) == 0 || data[0] != 1:
		return v, errors.New("not an encoded pointer")
	}
	p := reflect.New(c.elem).Interface()
	err = p.(encoding.BinaryUnmarshaler).UnmarshalBinary(data[1:])
	return p.(V), err
}

type jsonCodec[V any] struct{}

func (jsonCodec[V]) Append(dst []byte, v V) ([]byte, error) {
	w := appendWriter{dst}
	e := json.NewEncoder(&w)
	e.SetEscapeHTML(false)
	if err := e.Encode(&v); err != nil { // through a pointer, so that methods on *V count
		return dst, err
	}
	return bytes.TrimSuffix(w.b, []byte{'\n'}), nil
}

func (jsonCodec[V]) Decode(data []byte) (v V, err error) {
	err = json.Unmarshal(data, &v)
	return v, err
}

type appendWriter struct{ b []byte }

func (w *appendWriter) Write(b []byte) (int, error) {
	w.b = append(w.b, b...)
	return len(b), nil
}

var (
	binaryAppender    = reflect.TypeFor[encoding.BinaryAppender]()
	binaryMarshaler   = reflect.TypeFor[encoding.BinaryMarshaler]()
	binaryUnmarshaler = reflect.TypeFor[encoding.BinaryUnmarshaler]()
	textMarshaler     = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler   = reflect.TypeFor[encoding.TextUnmarshaler]()
	jsonMarshaler     = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler   = reflect.TypeFor[json.Unmarshaler]()
)

// promoted tells why a struct does not marshal itself although it has the
// method: an embedded field lent it, and would be all that is encoded.
func promoted(t reflect.Type, method string) string {
	if t.Kind() != reflect.Struct || t.NumField() < 2 {
		return ""
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.Anonymous || !hasMethod(f.Type, method) && !hasMethod(reflect.PointerTo(f.Type), method) {
			continue
		}
		m, ok := methodOf(t, method)
		if !ok {
			m, ok = methodOf(reflect.PointerTo(t), method)
		}
		if !ok {
			return "" // two embedded fields have it, and t none
		}
		// A method that t has of its own was written in a file.
		if fn := runtime.FuncForPC(m.Func.Pointer()); fn != nil {
			if file, _ := fn.FileLine(fn.Entry()); file == "<autogenerated>" {
				return fmt.Sprintf("its %s is that of the embedded %v, and the other fields would be lost", method, f.Type)
			}
		}
	}
	return ""
}

func hasMethod(t reflect.Type, name string) bool {
	_, ok := methodOf(t, name)
	return ok
}

// methodOf is t.MethodByName. The names are constants because the linker keeps
// every method of a program that asks for others.
func methodOf(t reflect.Type, name string) (reflect.Method, bool) {
	switch name {
	case "AppendBinary":
		return t.MethodByName("AppendBinary")
	case "MarshalBinary":
		return t.MethodByName("MarshalBinary")
	case "MarshalJSON":
		return t.MethodByName("MarshalJSON")
	case "MarshalText":
		return t.MethodByName("MarshalText")
	}
	return reflect.Method{}, false
}

// A jsonCheck finds out whether encoding/json brings values of a type back. It
// follows the rules of that package.
type jsonCheck struct {
	path    string // from V to the type that is looked at
	seen    map[jsonSeen]bool
	inlined map[reflect.Type]bool // the struct that is looked at and those it embeds, which may embed it again
}

type jsonSeen struct {
	t           reflect.Type
	addressable bool
}

func (c *jsonCheck) refuse(t reflect.Type, format string, args ...any) string {
	why := fmt.Sprintf(format, args...)
	if c.path == "" {
		return why
	}
	return fmt.Sprintf("%s of type %v: %s", strings.TrimPrefix(c.path, "."), t, why)
}

// at checks a type that is reached by one more step.
func (c *jsonCheck) at(step string, t reflect.Type, addressable bool) string {
	before := c.path
	c.path += step
	defer func() { c.path = before }()
	return c.refusal(t, addressable)
}

// refusal tells why JSON does not do, "" if it does. Of a value that is not
// addressable, which is a map's, methods with a pointer receiver are not
// called.
func (c *jsonCheck) refusal(t reflect.Type, addressable bool) string {
	if c.seen[jsonSeen{t, addressable}] {
		return ""
	}
	if c.seen == nil {
		c.seen = map[jsonSeen]bool{}
	}
	c.seen[jsonSeen{t, addressable}] = true
	if t.Kind() == reflect.Pointer {
		return c.refusal(t.Elem(), true)
	}

	p := reflect.PointerTo(t)
	if t.Kind() != reflect.Interface {
		marshals, name, reads := p.Implements(jsonMarshaler), "MarshalJSON", p.Implements(jsonUnmarshaler)
		byValue := t.Implements(jsonMarshaler)
		if !marshals && p.Implements(textMarshaler) {
			marshals, name, reads = true, "MarshalText", reads || p.Implements(textUnmarshaler)
			byValue = t.Implements(textMarshaler)
		}
		switch {
		case marshals && !addressable && !byValue:
			return c.refuse(t, "JSON does not call its %s, which needs a pointer; make the map's values pointers", name)
		case marshals && !reads:
			return c.refuse(t, "it has %s but no method to read that back", name)
		case marshals:
			if why := promoted(t, name); why != "" {
				return c.refuse(t, "%s", why)
			}
			return ""
		}
		if isProto(t) || isProto(p) {
			return c.refuse(t, "it is a protobuf message; write a Codec that uses proto.Marshal and proto.Unmarshal")
		}
	}
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return c.refuse(t, "JSON has no form for it")
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return c.refuse(t, "JSON cannot read an interface back")
		}
	case reflect.Slice:
		return c.at("[]", t.Elem(), true)
	case reflect.Array:
		return c.at("[]", t.Elem(), addressable)
	case reflect.Map:
		if !jsonKey(t.Key()) {
			return c.refuse(t, "JSON has no map keys of type %v", t.Key())
		}
		return c.at("[]", t.Elem(), false)
	case reflect.Struct:
		outer := c.inlined
		c.inlined = map[reflect.Type]bool{}
		kept, why := c.fields(t, addressable)
		c.inlined = outer
		if why == "" && kept == 0 && t.NumField() > 0 {
			why = c.refuse(t, "it has no exported field, and JSON would keep nothing of it")
		}
		return why
	}
	return ""
}

func isProto(t reflect.Type) bool {
	if _, ok := t.MethodByName("ProtoReflect"); ok {
		return true
	}
	_, ok := t.MethodByName("ProtoMessage")
	return ok
}

// jsonKey tells whether keys of a map are written and read back.
func jsonKey(k reflect.Type) bool {
	reads := reflect.PointerTo(k).Implements(textUnmarshaler)
	switch k.Kind() {
	case reflect.String:
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return reads || !k.Implements(textMarshaler)
	}
	return k.Implements(textMarshaler) && reads
}

// fields checks the fields of a struct that JSON looks at and counts them.
func (c *jsonCheck) fields(t reflect.Type, addressable bool) (kept int, why string) {
	if c.inlined[t] {
		return 0, ""
	}
	c.inlined[t] = true
	defer delete(c.inlined, t)
	names := map[string]string{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, _, _ := strings.Cut(tag, ",")
		embedded := f.Type
		if f.Anonymous && embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		inlines := f.Anonymous && embedded.Kind() == reflect.Struct
		if tag == "-" || !f.IsExported() && !inlines {
			continue
		}
		if inlines && name == "" {
			e := reflect.PointerTo(embedded)
			n, why := c.fields(embedded, addressable || f.Type != embedded)
			switch {
			case why != "":
				return 0, why
			case n == 0 && (e.Implements(jsonMarshaler) || e.Implements(textMarshaler)):
				return 0, c.refuse(t, "JSON keeps nothing of the embedded %v", f.Type)
			case n > 0 && f.Type != embedded && !f.IsExported():
				return 0, c.refuse(t, "JSON cannot set the embedded %v", f.Type)
			}
			kept += n
			continue
		}
		if name == "" {
			name = f.Name
		}
		if other, ok := names[name]; ok {
			return 0, c.refuse(t, "the fields %s and %s have one name in JSON", other, f.Name)
		}
		names[name] = f.Name
		if why := c.at("."+f.Name, f.Type, addressable); why != "" {
			return 0, why
		}
		kept++
	}
	return kept, ""
}
