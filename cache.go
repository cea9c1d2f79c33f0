package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Cache is a named key space of the cluster with values of type V. Every
// process that makes one under the same name has the same. Make one with
// [New]. All methods may be called concurrently. Keys are any bytes, at most
// 64 KiB; the empty key is one like any other.
//
// Values that are handed out may be shared with other callers and must not be
// changed, unless [Options].Clone is given.
type Cache[V any] struct {
	n     *Node
	sp    *space
	opts  Options[V]
	codec Codec[V]
	tag   uint16 // the codec's id
	near  *near[V]
	loads bool // Load or LoadMany is given

	buffers sync.Pool // of *readBuffer
}

// New makes the cache of a name on a node. It fails when the name is empty or
// longer than 255 bytes, when the node has a cache of that name already
// ([ErrExists]), when the options are bad, or when no codec is given and V is of
// a type that JSON cannot tell, or would tell as nothing.
func New[V any](n *Node, name string, opts Options[V]) (*Cache[V], error) {
	if n == nil {
		return nil, fmt.Errorf("peercache: New %q: the Node is nil", name)
	}
	if name == "" || len(name) > maxCacheName {
		return nil, fmt.Errorf("peercache: New: a cache's name has 1 to %d bytes, not %d", maxCacheName, len(name))
	}
	if err := opts.check(); err != nil {
		return nil, fmt.Errorf("peercache: New %q: %w", name, err)
	}
	codec, tag, err := codecFor(opts.Codec)
	if err != nil {
		return nil, fmt.Errorf("peercache: New %q: %w", name, err)
	}
	if n.life.Err() != nil {
		return nil, ErrClosed
	}
	sp, err := n.store.space(name)
	if err != nil {
		return nil, err
	}
	opts.Errors = slices.Clone(opts.Errors)
	c := &Cache[V]{n: n, sp: sp, opts: opts, codec: codec, tag: tag, loads: opts.Load != nil || opts.LoadMany != nil}
	c.near = newNear[V](0, n.clock.Elapsed)
	c.near.keyspace = sp.keyspace
	f := &face{
		timeout:   opts.LoadTimeout,
		forget:    c.near.forget,
		forgetAll: c.near.clear,
		resize:    c.near.setMaxBytes,
		nearStats: c.near.stats,

		readReplicas: opts.ReadReplicas,
	}
	if c.loads {
		f.load = c.load
	}
	if opts.LoadMany != nil {
		f.loadMany = c.loadMany
	}
	if !sp.face.CompareAndSwap(nil, f) {
		return nil, fmt.Errorf("%w: cache %q", ErrExists, name)
	}
	n.limits.own(sp, opts.MaxBytes)
	n.shareNear()
	return c, nil
}

// Get returns the value of a key: what the cluster holds, or else what the
// loader gives. The error is [ErrNotFound] when there is none, a [*LoadError]
// when the loader failed, [ErrUnavailable] when no member that could answer was
// reached, ctx's when that ended first, or [ErrClosed].
func (c *Cache[V]) Get(ctx context.Context, key string) (V, error) {
	near := c.near.hash(key)
	if v, ok := c.nearHit(near, key); ok {
		return v, nil
	}
	v, _, err := c.getPast(ctx, near, key)
	return v, err
}

// Lookup returns the value that the cluster holds of a key, and whether it
// holds one. It never loads.
func (c *Cache[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	near := c.near.hash(key)
	v, ok := c.nearHit(near, key)
	if ok {
		return v, true, nil
	}
	hash := hashOf(c.sp.keyspace, key)
	if v, ok = c.ownHit(near, hash, key); ok {
		return v, true, nil
	}
	c.sp.count.gets.Add(1)
	v, from, err := c.find(ctx, near, hash, key, false)
	return v, from != SourceNone, err
}

// An Entry is a value with what the cluster knows of it.
type Entry[V any] struct {
	Value   V
	Version Version
	Expires time.Time // by this node's wall clock; zero: never
}

// LookupEntry returns what an owner of the key holds, with its version for
// [IfVersion], and whether it holds a value. It never loads and never answers
// from a near copy. Without a value the Entry is zero.
func (c *Cache[V]) LookupEntry(ctx context.Context, key string) (Entry[V], bool, error) {
	c.sp.count.gets.Add(1)
	if err := checkKey(key); err != nil {
		return Entry[V]{}, false, err
	}
	r := c.n.find(ctx, c.sp, key, false)
	if r.err != nil || !r.found {
		return Entry[V]{}, false, c.errorOf(key, r.err)
	}
	v, err := c.decode(&r.entry)
	if err != nil {
		return Entry[V]{}, false, err
	}
	e := Entry[V]{Value: v, Version: r.entry.version()}
	if r.entry.expires != 0 {
		e.Expires = c.n.clock.Now().Add(r.entry.expires - c.n.clock.Elapsed())
	}
	return e, true, nil
}

// find is Get and Lookup past the near tier.
func (c *Cache[V]) find(ctx context.Context, near, hash uint64, key string, load bool) (v V, from Source, err error) {
	if err := checkKey(key); err != nil {
		return v, SourceNone, err
	}
	// The token comes before all else: what is read after a write that came
	// since then must not be kept near.
	token := c.near.token(near)
	owned := c.n.holdsAll(shardOfHash(hash))
	began := c.n.clock.Elapsed()
	r := c.n.find(ctx, c.sp, key, load)
	if r.err != nil {
		return v, SourceNone, c.errorOf(key, r.err)
	}
	if !r.found {
		return v, SourceNone, nil
	}
	v, ok := r.decoded.(V)
	if !ok || r.decoded == nil {
		if v, err = c.decodeOwned(&r.entry); err != nil {
			if v, ok, err = c.replace(ctx, key, &r.entry, load, err); ok {
				from = SourceLoad
			}
			return v, from, err
		}
	}
	c.keepNear(near, key, v, &r.entry, owned, began, token)
	return c.handOut(v), r.source(), nil
}

// keepNear installs a value in the near tier where it may be.
func (c *Cache[V]) keepNear(near uint64, key string, v V, e *entry, owned bool, began time.Duration, token uint64) {
	expires := e.expires
	if !owned {
		if c.opts.NearTTL == 0 {
			return
		}
		if until := began + c.opts.NearTTL; expires == 0 || until < expires {
			expires = until
		}
	}
	if expires != 0 && expires <= began {
		return // it is not to be kept
	}
	c.near.put(near, key, v, len(e.value), expires, token)
}

// replace deals with an entry that V cannot be made of any more. With a loader
// it is a miss: the value is loaded and takes the entry's place if that is
// still there.
func (c *Cache[V]) replace(ctx context.Context, key string, e *entry, load bool, why error) (v V, ok bool, err error) {
	if !c.loads {
		return v, false, why
	}
	if !load {
		return v, false, nil
	}
	r := c.n.loadAlone(ctx, c.sp, key)
	if r.err != nil || !r.found {
		return v, false, c.errorOf(key, r.err)
	}
	if v, ok = r.decoded.(V); !ok {
		return v, false, fmt.Errorf("peercache: cache %q: key %q: the loader's value was lost", c.sp.name, key)
	}
	w := &write{key: key, op: newOperation(), tag: r.entry.tag, value: r.entry.value, cond: true, base: e.version()}
	if r.entry.expires != 0 {
		w.ttl = max(r.entry.expires-c.n.clock.Elapsed(), time.Millisecond)
	}
	c.n.write(ctx, c.sp, []*write{w}) // whoever was faster is as good
	return c.handOut(v), true, nil
}

// handOut returns what a caller gets of a shared value.
func (c *Cache[V]) handOut(v V) V {
	if c.opts.Clone != nil {
		return c.opts.Clone(v)
	}
	return v
}

func (c *Cache[V]) decode(e *entry) (v V, err error) {
	if e.tag != c.tag {
		return v, fmt.Errorf("peercache: cache %q holds a value of another codec (%d, not %d)", c.sp.name, e.tag, c.tag)
	}
	if v, err = decode(c.codec, e.value); err != nil {
		return v, fmt.Errorf("peercache: cache %q: decode: %w", c.sp.name, err)
	}
	return v, nil
}

// wholeValue is from when on a value that came by itself, with its head before
// it, is worth keeping with that.
const wholeValue = 1 << 10

// decodeOwned is decode for an entry whose value is nobody else's, or shared by
// callers who get it as well. Bytes need no copy then.
func (c *Cache[V]) decodeOwned(e *entry) (v V, err error) {
	if p, raw := any(&v).(*[]byte); raw && e.tag == c.tag && c.tag == codecBytes && len(e.value) >= wholeValue {
		*p = slices.Clip(e.value) // or who appends would write where others do
		return v, nil
	}
	return c.decode(e)
}

func checkKey(key string) error {
	if len(key) > maxKeyBytes {
		return fmt.Errorf("%w: a key of %d bytes, at most %d are possible", ErrTooLarge, len(key), maxKeyBytes)
	}
	return nil
}

// errorOf gives an error that came from another member the identity that it
// has here.
func (c *Cache[V]) errorOf(key string, err error) error {
	if err == nil {
		return nil
	}
	var load *LoadError
	var sentinel *sentinelError
	if errors.As(err, &load) && errors.As(load.Err, &sentinel) && sentinel.err == nil {
		if i := sentinel.index; i < len(c.opts.Errors) && c.opts.Errors[i].Error() == sentinel.name {
			return &LoadError{Member: load.Member, Err: &remoteError{c.opts.Errors[i], sentinel.text}}
		}
	}
	if errors.As(err, &load) || errors.Is(err, ErrClosed) {
		return err
	}
	return fmt.Errorf("peercache: cache %q: key %q: %w", c.sp.name, clipKey(key), err)
}

// clipKey shortens a key for an error's text.
func clipKey(key string) string {
	const most = 64
	if len(key) <= most {
		return key
	}
	return key[:most] + "..."
}

// load is the untyped side's way to the loader.
func (c *Cache[V]) load(ctx context.Context, key string) loaded {
	if c.opts.Load == nil {
		return c.loadMany(ctx, []string{key})[key]
	}
	v, err := c.opts.Load(ctx, key)
	return c.loadedOf(key, v, err)
}

// loadMany is the same for several keys. Every key is in the result.
func (c *Cache[V]) loadMany(ctx context.Context, keys []string) map[string]loaded {
	values, err := c.opts.LoadMany(ctx, slices.Clone(keys))
	outcomes := make(map[string]loaded, len(keys))
	for _, key := range keys {
		v, ok := values[key]
		switch {
		case ok:
			outcomes[key] = c.loadedOf(key, v, nil)
		case err != nil:
			outcomes[key] = c.loadedOf(key, v, err)
		default:
			outcomes[key] = c.loadedOf(key, v, ErrNotFound)
		}
	}
	return outcomes
}

func (c *Cache[V]) loadedOf(key string, v V, err error) loaded {
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			return loaded{absent: true, ttl: c.opts.NegativeTTL}
		}
		for i, s := range c.opts.Errors {
			if errors.Is(err, s) {
				return loaded{err: &sentinelError{index: i, name: s.Error(), text: err.Error(), err: err}}
			}
		}
		return loaded{err: err}
	}
	value, err := encode(c.codec, nil, v)
	if err == nil {
		err = c.n.checkValue(key, value)
	}
	if err != nil {
		return loaded{err: err}
	}
	l := loaded{value: value, tag: c.tag, ttl: c.opts.TTL, decoded: v}
	if c.opts.TTLFor != nil {
		if d := c.opts.TTLFor(key, v); d != 0 {
			l.ttl = d
		}
	}
	return l
}

// GetMany returns the values of several keys, with one request to each owner.
// Keys without a value are absent from the result. When some keys failed the
// error is a [*KeysError], and the result has the others.
func (c *Cache[V]) GetMany(ctx context.Context, keys []string) (map[string]V, error) {
	values := make(map[string]V, len(keys))
	type missing struct {
		near, token uint64
		owned       bool
	}
	var rest []string
	var about []missing // each of rest
	failed := make(map[string]error)
	c.n.pauses.glance()
	for _, key := range keys {
		near := c.near.hash(key)
		if v, ok := c.nearHit(near, key); ok {
			values[key] = v
			continue
		}
		c.sp.count.gets.Add(1)
		if err := checkKey(key); err != nil {
			failed[key] = err
			continue
		}
		token := c.near.token(near)
		rest = append(rest, key)
		about = append(about, missing{near, token, c.n.holdsAll(shardOf(c.sp.keyspace, key))})
	}
	began := c.n.clock.Elapsed()
	for i, r := range c.n.findMany(ctx, c.sp, rest, c.loads) {
		key := rest[i]
		switch {
		case r.err != nil:
			failed[key] = c.errorOf(key, r.err)
			continue
		case !r.found:
			continue
		}
		value, ok := r.decoded.(V)
		if !ok {
			var err error
			if value, err = c.decode(&r.entry); err != nil {
				value, ok, err = c.replace(ctx, key, &r.entry, c.loads, err)
				if err != nil {
					failed[key] = err
				} else if ok {
					values[key] = value
				}
				continue
			}
		}
		m := &about[i]
		c.keepNear(m.near, key, value, &r.entry, m.owned, began, m.token)
		values[key] = c.handOut(value)
	}
	return values, keysError(failed)
}

// Set writes a value. When it returns nil, every owner of the key that is
// living has it. The error is [ErrTooLarge], [ErrConflict] (with [IfAbsent] or
// [IfVersion]), a [*PartialWriteError] when an owner that may be living did not
// confirm in time, [ErrUnavailable], ctx's or [ErrClosed].
func (c *Cache[V]) Set(ctx context.Context, key string, v V, opts ...SetOption) error {
	o, err := c.setOptions(opts)
	if err != nil {
		return err
	}
	w, err := c.newWrite(key, v, o)
	if err != nil {
		return err
	}
	c.sp.count.sets.Add(1)
	c.write(ctx, []*write{w})
	return c.errorOf(key, w.err)
}

// SetMany is Set for several keys, with one request to each owner. The options
// hold for every key. When some keys failed the error is a [*KeysError].
func (c *Cache[V]) SetMany(ctx context.Context, values map[string]V, opts ...SetOption) error {
	o, err := c.setOptions(opts)
	if err != nil {
		return err
	}
	failed := make(map[string]error)
	var writes []*write
	for key, v := range values {
		w, err := c.newWrite(key, v, o)
		if err != nil {
			failed[key] = err
			continue
		}
		writes = append(writes, w)
	}
	c.sp.count.sets.Add(int64(len(writes)))
	c.write(ctx, writes)
	for _, w := range writes {
		if w.err != nil {
			failed[w.key] = c.errorOf(w.key, w.err)
		}
	}
	return keysError(failed)
}

func (c *Cache[V]) setOptions(opts []SetOption) (setOptions, error) {
	if len(opts) == 0 {
		return setOptions{ttl: c.opts.TTL}, nil
	}
	o := setOptions{ttl: c.opts.TTL} // options get its address
	for _, opt := range opts {
		opt(&o)
	}
	if o.ttl < 0 {
		return o, fmt.Errorf("peercache: WithTTL: %v is negative", o.ttl)
	}
	return o, nil
}

func (c *Cache[V]) newWrite(key string, v V, o setOptions) (*write, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	value, err := encode(c.codec, nil, v)
	if err != nil {
		return nil, fmt.Errorf("peercache: cache %q: key %q: encode: %w", c.sp.name, clipKey(key), err)
	}
	if err := c.n.checkWrite(key, value); err != nil {
		return nil, err
	}
	return &write{key: key, op: newOperation(), tag: c.tag, value: value, ttl: o.ttl, cond: o.cond, base: o.base}, nil
}

// write runs writes. Near copies on this node go before and after, the second
// time with what was read while the write was under way.
func (c *Cache[V]) write(ctx context.Context, writes []*write) {
	if err := c.n.refuseSole(); err != nil {
		for _, w := range writes {
			w.err = err
		}
		return
	}
	c.forgetNear(writes)
	c.n.write(ctx, c.sp, writes)
	c.forgetNear(writes)
}

func (c *Cache[V]) forgetNear(writes []*write) {
	for _, w := range writes {
		c.near.forget(w.key)
	}
}

// Update changes a key's value atomically: f gets the value that the cluster
// holds, and whether it holds one, and returns the new one. f may run several
// times. An error of f ends Update with that error, and nothing is changed. It
// never loads. The expiry stays as it is unless WithTTL says otherwise; a new
// key gets [Options].TTL.
func (c *Cache[V]) Update(ctx context.Context, key string, f func(old V, ok bool) (V, error), opts ...SetOption) error {
	o, err := c.setOptions(opts)
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		old, ok, err := c.LookupEntry(ctx, key)
		if err != nil {
			return err
		}
		if o.cond && old.Version != o.base {
			return c.errorOf(key, ErrConflict)
		}
		v, err := f(old.Value, ok)
		if err != nil {
			return err
		}
		now := o
		now.cond, now.base = true, old.Version
		w, err := c.newWrite(key, v, now)
		if err != nil {
			return err
		}
		w.keepTTL = ok && !o.hasTTL
		c.sp.count.sets.Add(1)
		c.write(ctx, []*write{w})
		if !errors.Is(w.err, ErrConflict) || ctx.Err() != nil {
			return c.errorOf(key, w.err)
		}
		sleep(ctx, jitter(min(time.Millisecond<<min(round, 6), 50*time.Millisecond)))
	}
}

// Delete removes keys. When it returns nil no owner that is living holds them,
// and no load that was under way brings them back. Errors are those of Set;
// for several keys a [*KeysError]. A key that has no value is no error.
func (c *Cache[V]) Delete(ctx context.Context, keys ...string) error {
	failed := make(map[string]error)
	writes := make([]*write, 0, len(keys))
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			failed[key] = err
			continue
		}
		writes = append(writes, &write{key: key, op: newOperation(), flags: flagTombstone})
	}
	c.sp.count.deletes.Add(int64(len(writes)))
	c.write(ctx, writes)
	for _, w := range writes {
		if w.err != nil {
			failed[w.key] = c.errorOf(w.key, w.err)
		}
	}
	if len(keys) == 1 {
		return failed[keys[0]]
	}
	return keysError(failed)
}

// Clear removes all keys of the cache, in the whole cluster. What is written
// while it runs may be removed or not. Errors are those of Set.
func (c *Cache[V]) Clear(ctx context.Context) error {
	err := c.n.refuseSole()
	if err == nil {
		c.near.clear()
		err = c.n.clear(ctx, c.sp)
		c.near.clear()
	}
	if err != nil {
		return fmt.Errorf("peercache: cache %q: clear: %w", c.sp.name, err)
	}
	return nil
}

// Stats returns the cache's counters on this node.
func (c *Cache[V]) Stats() CacheStats {
	s := c.sp.count.stats()
	held := c.n.store.lru.SpaceStats(c.sp.id)
	s.Entries, s.Bytes = held.Entries, held.Bytes
	s.Evictions, s.Expirations = int64(held.Evictions), int64(held.Expirations)
	s.NearEntries, s.NearBytes = c.near.stats()
	return s
}
