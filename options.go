package peercache

import (
	"context"
	"fmt"
	"time"
)

// defaultLoadTimeout is Options.LoadTimeout's default.
const defaultLoadTimeout = 30 * time.Second

// Options say how a cache loads, keeps and translates its values. All of them
// are this process's own: another member may have the same cache with others,
// or not at all. The zero Options make a plain store.
type Options[V any] struct {
	// Load makes the value of a key that nobody holds. It runs once in the
	// whole cluster for all who ask, on the key's primary where that has the
	// cache, and not longer than LoadTimeout. Its ctx carries the values of the
	// first caller's context if that is in the same process, and ends when
	// nobody waits any more. [ErrNotFound] says that there is no such value; any
	// other error reaches the callers as a [*LoadError] and is not kept. A
	// panic becomes an error. Nil: Get of an absent key is ErrNotFound.
	Load func(ctx context.Context, key string) (V, error)

	// LoadMany is Load for several keys at once; it is used by GetMany, and by
	// Get when Load is nil. A key that is missing from its result is not found.
	LoadMany func(ctx context.Context, keys []string) (map[string]V, error)

	// LoadTimeout bounds one load, and with it how long each caller waits that
	// shares it, even if the loader does not heed its context: all of them get
	// its failure then, and what it returns later is dropped. When the member that
	// runs the load dies, the one that takes its place has as long again. 0: 30 s.
	LoadTimeout time.Duration

	// TTL is how long a value is kept. 0: until it has to make room.
	TTL time.Duration

	// TTLFor says it for each loaded value. 0: TTL; negative: it is not kept.
	TTLFor func(key string, v V) time.Duration

	// NegativeTTL is how long it is remembered that the loader said
	// ErrNotFound. 0: not at all.
	NegativeTTL time.Duration

	// NearTTL lets values of keys that other members own be kept decoded in
	// this process. They may be older than what the cluster holds, by at most
	// NearTTL, and never after a write made on this node. 0: none are kept.
	// Values of keys that this node owns are always kept so, and are never old.
	NearTTL time.Duration

	// ReadReplicas lets every owner of a key answer reads from this process,
	// not only the first: which of two, chosen at random, is likely to be
	// faster is asked, by its measured latency and the requests that it works
	// on. Owners in this node's [Config].Zone are preferred until they are much
	// slower. It spreads the reads of hot keys over all copies, and costs one
	// more round for values that only the first owner holds yet.
	//
	// While a write is under way one owner may have it already and another not
	// yet, so that of two reads the later may give the older value. After the
	// write was acknowledged none does, except from an owner that did not
	// confirm it ([ErrPartialWrite]).
	ReadReplicas bool

	// MaxBytes bounds this cache within what the node may hold. 0: no bound of
	// its own. Members that hold a part of the cache without having called
	// New for it are told, and go by the greatest bound that members tell;
	// one that called New goes by its own. All members should give the same.
	MaxBytes int64

	// Codec translates values to bytes. Nil: []byte and string as they are,
	// values that implement encoding.BinaryMarshaler and BinaryUnmarshaler so,
	// all others as JSON, which leaves unexported fields out.
	Codec Codec[V]

	// Clone copies a value. With it every caller gets a value of its own, as
	// the loader keeps one; without, values are shared between callers and
	// nobody may change them.
	Clone func(V) V

	// Errors are errors of Load that keep their identity for [errors.Is] when
	// they come from another member. All members should list the same.
	Errors []error
}

// check fills defaults in and reports every fault.
func (o *Options[V]) check() error {
	var faults []string
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"LoadTimeout", o.LoadTimeout}, {"TTL", o.TTL}, {"NegativeTTL", o.NegativeTTL}, {"NearTTL", o.NearTTL}} {
		if d.value < 0 {
			faults = append(faults, fmt.Sprintf("%s: %v is negative", d.field, d.value))
		}
	}
	if o.MaxBytes < 0 {
		faults = append(faults, fmt.Sprintf("MaxBytes: %d is negative", o.MaxBytes))
	}
	for i, err := range o.Errors {
		if err == nil {
			faults = append(faults, fmt.Sprintf("Errors[%d]: nil", i))
		}
	}
	if o.LoadTimeout == 0 {
		o.LoadTimeout = defaultLoadTimeout
	}
	if len(faults) > 0 {
		return &ConfigError{what: "Options", Faults: faults}
	}
	return nil
}

// A SetOption changes what Set, SetMany and Update do.
type SetOption func(*setOptions)

type setOptions struct {
	ttl    time.Duration
	hasTTL bool
	cond   bool
	base   Version
}

// WithTTL keeps the value for d instead of [Options].TTL. 0: it does not
// expire. A negative d is an error of the call.
func WithTTL(d time.Duration) SetOption {
	return func(o *setOptions) { o.ttl, o.hasTTL = d, true }
}

// IfAbsent sets the value only if the key has none; else the call fails with
// [ErrConflict].
func IfAbsent() SetOption { return IfVersion(Version{}) }

// IfVersion sets the value only if the key's version is v, as [Cache.LookupEntry]
// gave it; else the call fails with [ErrConflict]. The zero Version means that
// the key has no value.
func IfVersion(v Version) SetOption {
	return func(o *setOptions) { o.cond, o.base = true, v }
}
