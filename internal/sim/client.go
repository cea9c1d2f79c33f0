package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/peercache/peercache"
)

// client makes the calls of one client on one node, for as long as clients
// may.
func (w *World) client(number, node int, calls []Call) {
	m := w.members[node]
	for i, c := range calls {
		time.Sleep(c.Think)
		caches, mark, ok := w.enter(m)
		if !ok {
			return
		}
		ctx, cancel := w.patience(c.Kind)
		r := &caller{w: w, m: m, client: number, cache: caches[c.Cache], call: c, mark: mark}
		r.do(ctx, fmt.Sprintf("c%d.%d", number, i))
		cancel()
	}
}

// patience returns the context of a call.
func (w *World) patience(kind Kind) (context.Context, context.CancelFunc) {
	s := w.script
	switch {
	case s.Endless:
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(endlessTime, cancel) // so that the world ends; the call does not know of it
		return ctx, cancel
	case s.Patience > 0 && !kind.reads():
		return context.WithTimeout(context.Background(), s.Patience)
	case s.Large:
		return context.WithTimeout(context.Background(), largeTime)
	}
	return context.WithTimeout(context.Background(), callTime+s.Timeout)
}

// A caller makes one call and notes what came of it.
type caller struct {
	w      *World
	m      *member
	client int
	cache  *peercache.Cache[string]
	call   Call
	mark   Mark // when the call began
}

// op begins an Op of the call.
func (r *caller) op(kind Kind, key string) *Op {
	return &Op{Client: r.client, Node: r.m.number, Kind: kind, Cache: r.call.Cache, Key: key, Call: r.mark}
}

// returned ends Ops, and begins the next ones.
func (r *caller) returned(ops ...*Op) {
	mark := r.w.leave(r.m)
	for _, op := range ops {
		op.Return = mark
	}
	r.mark = mark
	r.w.history.add(ops...)
}

func (r *caller) do(ctx context.Context, id string) {
	key := r.call.Keys[0]
	switch r.call.Kind {
	case Get:
		v, err := r.cache.Get(ctx, key)
		op := r.op(Get, key)
		op.read(v, err == nil, err)
		r.returned(op)
	case Lookup:
		v, ok, err := r.cache.Lookup(ctx, key)
		op := r.op(Lookup, key)
		op.read(v, ok, err)
		r.returned(op)
	case GetMany:
		r.getMany(ctx)
	case Set:
		op := r.op(Set, key)
		op.Value, op.TTL = id, r.call.TTL
		op.wrote(r.cache.Set(ctx, key, r.w.pad(id), r.options()...))
		r.returned(op)
	case SetMany:
		r.setMany(ctx, id)
	case Delete:
		op := r.op(Delete, key)
		op.wrote(r.cache.Delete(ctx, key))
		r.returned(op)
	case Clear:
		err := r.cache.Clear(ctx)
		var ops []*Op
		for _, k := range r.call.Keys {
			op := r.op(Clear, k)
			op.wrote(err)
			ops = append(ops, op)
		}
		r.returned(ops...)
	case Update:
		op := r.op(Update, key)
		op.Value = id
		op.wrote(r.cache.Update(ctx, key, func(old string, _ bool) (string, error) {
			op.Old = unpad(old)
			return r.w.pad(id), nil
		}))
		r.returned(op)
	case IfAbsent:
		op := r.op(IfAbsent, key)
		op.Value = id
		op.wrote(r.cache.Set(ctx, key, r.w.pad(id), append(r.options(), peercache.IfAbsent())...))
		r.returned(op)
	case IfSame:
		r.ifSame(ctx, key, id)
	}
}

func (r *caller) options() []peercache.SetOption {
	if r.call.TTL == 0 {
		return nil
	}
	return []peercache.SetOption{peercache.WithTTL(r.call.TTL)}
}

func (r *caller) getMany(ctx context.Context) {
	values, err := r.cache.GetMany(ctx, r.call.Keys)
	errs := perKey(err, r.call.Keys)
	var ops []*Op
	for _, k := range r.call.Keys {
		op := r.op(GetMany, k)
		v, ok := values[k]
		op.read(v, ok, errs[k])
		ops = append(ops, op)
	}
	r.returned(ops...)
}

func (r *caller) setMany(ctx context.Context, id string) {
	values := make(map[string]string)
	for _, k := range r.call.Keys {
		values[k] = r.w.pad(id + "." + k)
	}
	errs := perKey(r.cache.SetMany(ctx, values, r.options()...), r.call.Keys)
	var ops []*Op
	for _, k := range r.call.Keys {
		op := r.op(SetMany, k)
		op.Value = id + "." + k
		op.wrote(errs[k])
		ops = append(ops, op)
	}
	r.returned(ops...)
}

// ifSame looks a key up and writes if nobody else does in between.
func (r *caller) ifSame(ctx context.Context, key, id string) {
	e, ok, err := r.cache.LookupEntry(ctx, key)
	look := r.op(Lookup, key)
	look.read(e.Value, ok, err)
	r.returned(look)
	if err != nil {
		return
	}
	op := r.op(IfSame, key)
	op.Value, op.Old = id, unpad(e.Value)
	op.wrote(r.cache.Set(ctx, key, r.w.pad(id), append(r.options(), peercache.IfVersion(e.Version))...))
	r.returned(op)
}

// perKey is what came of each key of a call for several.
func perKey(err error, keys []string) map[string]error {
	errs := make(map[string]error)
	var some *peercache.KeysError
	if errors.As(err, &some) {
		return some.Errs
	}
	for _, k := range keys {
		errs[k] = err
	}
	return errs
}

// read notes what a read answered.
func (op *Op) read(value string, ok bool, err error) {
	switch {
	case err == nil && ok:
		op.Value = unpad(value)
	case err == nil, errors.Is(err, peercache.ErrNotFound):
	default:
		op.Outcome, op.Err = Nothing, err
	}
}

// wrote notes what came of a write.
func (op *Op) wrote(err error) {
	op.Err = err
	switch {
	case err == nil:
	case errors.Is(err, peercache.ErrConflict), errors.Is(err, peercache.ErrTooLarge):
		op.Outcome = Nothing
	default:
		op.Outcome = Unknown
	}
}
