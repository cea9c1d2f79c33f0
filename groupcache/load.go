package groupcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	pb "github.com/golang/groupcache/groupcachepb"

	"github.com/peercache/peercache"
)

// defaultLoadTimeout is GroupOptions.LoadTimeout's default. The original has
// no bound at all.
const defaultLoadTimeout = 10 * time.Minute

// keepOneIn is how many values of a picked peer one is kept of.
const keepOneIn = 10

// A getterError is what a getter returned in this process, so that the callers
// that are in this process too get it as it was.
type getterError struct{ err error }

// Error implements error.
func (e *getterError) Error() string { return e.err.Error() }

// Unwrap returns what the getter returned.
func (e *getterError) Unwrap() error { return e.err }

// An unkept is a value that is handed to the callers in this process and kept
// nowhere.
type unkept struct {
	value    string
	fromPeer bool
}

// Error implements error; it is read where the value is too large for the
// members that asked for it.
func (e *unkept) Error() string {
	return fmt.Sprintf("groupcache: a value of %d bytes is too large to be kept", len(e.value))
}

// ownCall marks contexts of calls that were made in this process.
type ownCall struct{}

// asOwn marks a context, where somebody looks for the mark.
func (h *home) asOwn(ctx context.Context) context.Context {
	if h.host.pool == nil || h.host.pool.Context == nil {
		return ctx
	}
	return context.WithValue(ctx, ownCall{}, true)
}

// load is the loader of the group's cache.
func (h *home) load(ctx context.Context, key string) (string, error) {
	switch {
	case h.host.pool == nil:
		if value, ok := h.loadFromPicked(ctx, key); ok {
			return h.keepSome(value)
		}
	case h.host.client:
		if value, ok := h.host.pool.askOld(ctx, h.group, key); ok {
			return "", &unkept{value, true}
		}
	}
	if p := h.host.pool; p != nil && p.Context != nil && ctx.Value(ownCall{}) == nil {
		ctx = p.contextFor(ctx, h.group.name, key)
	}
	value, err := h.group.callGetter(ctx, key)
	if err == nil && len(value) > h.host.mostValue() {
		err = &unkept{value: value}
	}
	return value, err
}

// callGetter runs the getter. A panic is an error: who called for the value
// may be in another process.
func (g *Group) callGetter(ctx context.Context, key string) (value string, err error) {
	g.Stats.LoadsDeduped.Add(1)
	defer func() {
		if p := recover(); p != nil {
			err = &getterError{fmt.Errorf("groupcache: group %q: the getter panicked: %v\n%s", g.name, p, debug.Stack())}
		}
		if err != nil {
			g.Stats.LocalLoadErrs.Add(1)
		} else {
			g.Stats.LocalLoads.Add(1)
		}
	}()
	var view ByteView
	if err := g.getter.Get(ctx, key, ByteViewSink(&view)); err != nil {
		return "", &getterError{err}
	}
	return view.String(), nil
}

// loadFromPicked asks the peer that the program's own PeerPicker names.
func (h *home) loadFromPicked(ctx context.Context, key string) (value string, ok bool) {
	peer, ok := h.group.peers().PickPeer(key)
	if !ok {
		return "", false
	}
	return h.group.askPeer(ctx, peer, key)
}

// askPeer asks one peer and counts it.
func (g *Group) askPeer(ctx context.Context, peer ProtoGetter, key string) (value string, ok bool) {
	var out pb.GetResponse
	if err := peer.Get(ctx, &pb.GetRequest{Group: &g.name, Key: &key}, &out); err != nil {
		g.Stats.PeerErrors.Add(1)
		return "", false
	}
	g.Stats.PeerLoads.Add(1)
	g.Stats.LoadsDeduped.Add(1)
	return string(out.Value), true
}

// keepSome lets one in ten values of others be kept here, as the original does.
func (h *home) keepSome(value string) (string, error) {
	if rand.N(keepOneIn) == 0 && len(value) <= h.host.mostValue() {
		return value, nil
	}
	return "", &unkept{value, true}
}

// afterFailure is what a Get returns when the cluster gave no value. What failed
// in another process is tried here, as the original does: callers get the
// getter's own errors, values that are too large to be kept, and a value where
// only the other process cannot load it.
func (h *home) afterFailure(ctx context.Context, key string, err error) (string, error) {
	var load *peercache.LoadError
	if !errors.As(err, &load) {
		if errors.Is(err, peercache.ErrTooLarge) { // the key
			return h.loadAlone(ctx, key)
		}
		return "", err
	}
	var value *unkept
	if errors.As(load.Err, &value) {
		return value.value, nil
	}
	var own *getterError
	if errors.As(load.Err, &own) {
		return "", own.err
	}
	for _, known := range h.group.opts.Errors {
		if errors.Is(err, known) {
			return "", err
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return "", err
	}
	return h.loadAlone(ctx, key)
}

// loadAlone runs the getter for callers of this process.
func (h *home) loadAlone(ctx context.Context, key string) (string, error) {
	outcome := h.group.alone.DoChan(key, func() (any, error) {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.options().LoadTimeout)
		defer cancel()
		return h.group.callGetter(bound, key)
	})
	select {
	case o := <-outcome:
		var own *getterError
		if errors.As(o.Err, &own) {
			return "", own.err
		}
		return o.Val.(string), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
