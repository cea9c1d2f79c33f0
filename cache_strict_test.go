package peercache_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache"
	"github.com/peercache/peercache/peercachetest"
)

// A strictOp is a change of one key, as its caller saw it.
type strictOp struct {
	value    string // what it wrote; "": it removed the key
	ifOld    bool   // only if the key's value was old
	old      string // "": only if there was none
	conflict bool   // it was not; else it was done
}

// strictRegister is a key to which every change is done once, at one moment
// between its call and its return, and by which a change is in conflict only if
// its condition does not hold.
var strictRegister = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, _, output any) (bool, any) {
		op := output.(strictOp)
		holds := !op.ifOld || state == op.old
		switch {
		case op.conflict:
			return !holds, state
		default:
			return holds, op.value
		}
	},
	DescribeOperation: func(_, output any) string { return fmt.Sprintf("%+v", output) },
}

// A strictHistory is what was done to some keys. It may be used concurrently.
type strictHistory struct {
	moment atomic.Int64

	mu    sync.Mutex
	byKey map[string][]porcupine.Operation // guarded by mu
}

// do makes one call that changes keys, and notes it. It returns the call's error
// when that is not a conflict.
func (h *strictHistory) do(client int, op *strictOp, keys []string, call func() error) error {
	began := h.moment.Add(1)
	err := call()
	ended := h.moment.Add(1)
	if op.conflict = errors.Is(err, peercache.ErrConflict); err != nil && !op.conflict {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range keys {
		h.byKey[key] = append(h.byKey[key], porcupine.Operation{ClientId: client, Call: began, Output: *op, Return: ended})
	}
	return nil
}

// requireStrict checks each key's history.
func (h *strictHistory) requireStrict(t *testing.T) {
	t.Helper()
	for key, ops := range h.byKey {
		result, info := porcupine.CheckOperationsVerbose(strictRegister, ops, time.Minute)
		if result == porcupine.Ok {
			continue
		}
		longest := 0
		for _, p := range info.PartialLinearizations() {
			for _, order := range p {
				longest = max(longest, len(order))
			}
		}
		require.Failf(t, "no order of the changes explains what came of them", "%s: %s, %d of %d changes", key, result, longest, len(ops))
	}
}

// strictMix is what clients do, by weight.
type strictMix struct{ set, remove, clear, ifAbsent, ifVersion, update, many int }

// strictClient makes calls on keys until it has made so many.
func strictClient(t *testing.T, h *strictHistory, cache *peercache.Cache[string], client, calls int, mix strictMix, keys []string, random *rand.Rand) {
	ctx := t.Context()
	weights := []int{mix.set, mix.remove, mix.clear, mix.ifAbsent, mix.ifVersion, mix.update, mix.many}
	total := 0
	for _, w := range weights {
		total += w
	}
	for i := range calls {
		key, value := keys[random.IntN(len(keys))], fmt.Sprintf("c%d.%d", client, i)
		one := []string{key}
		kind, at := 0, random.IntN(total)
		for ; at >= weights[kind]; kind++ {
			at -= weights[kind]
		}
		var err error
		switch kind {
		case 0:
			ttl := time.Duration(random.IntN(2)) * time.Hour
			err = h.do(client, &strictOp{value: value}, one, func() error { return cache.Set(ctx, key, value, peercache.WithTTL(ttl)) })
		case 1:
			err = h.do(client, &strictOp{}, one, func() error { return cache.Delete(ctx, key) })
		case 2:
			err = h.do(client, &strictOp{}, keys, func() error { return cache.Clear(ctx) })
		case 3:
			opt := []peercache.SetOption{peercache.IfAbsent(), peercache.IfVersion(peercache.Version{})}[random.IntN(2)]
			err = h.do(client, &strictOp{value: value, ifOld: true}, one, func() error { return cache.Set(ctx, key, value, opt) })
		case 4:
			old, _, lookErr := cache.LookupEntry(ctx, key)
			if err = lookErr; err == nil {
				op := strictOp{value: value, ifOld: true, old: old.Value}
				err = h.do(client, &op, one, func() error { return cache.Set(ctx, key, value, peercache.IfVersion(old.Version)) })
			}
		case 5:
			var op strictOp
			err = h.do(client, &op, one, func() error {
				return cache.Update(ctx, key, func(old string, _ bool) (string, error) {
					op = strictOp{value: value, ifOld: true, old: old}
					return value, nil
				})
			})
		case 6:
			err = strictMany(t, h, cache, client, value, keys)
		}
		if err != nil {
			t.Errorf("client %d, call %d of kind %d: %v", client, i, kind, err)
			return
		}
	}
}

// strictMany is a SetMany of all keys that are absent.
func strictMany(t *testing.T, h *strictHistory, cache *peercache.Cache[string], client int, value string, keys []string) error {
	began := h.moment.Add(1)
	values := make(map[string]string)
	for _, key := range keys {
		values[key] = value
	}
	err := cache.SetMany(t.Context(), values, peercache.IfAbsent())
	ended := h.moment.Add(1)
	var failed *peercache.KeysError
	errors.As(err, &failed)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range keys {
		op := strictOp{value: value, ifOld: true}
		if failed != nil && failed.Errs[key] != nil {
			if op.conflict = errors.Is(failed.Errs[key], peercache.ErrConflict); !op.conflict {
				return failed.Errs[key]
			}
		}
		h.byKey[key] = append(h.byKey[key], porcupine.Operation{ClientId: client, Call: began, Output: op, Return: ended})
	}
	return nil
}

// In a cluster in which nothing happens the changes of a key are linearizable,
// refused conditions included.
func TestChangesOfAStableClusterAreLinearizable(t *testing.T) {
	seeds := uint64(4)
	if testing.Short() {
		seeds = 1
	}
	for name, mix := range map[string]strictMix{
		"absent and deleted": {remove: 4, ifAbsent: 3},
		"absent and cleared": {remove: 1, clear: 1, ifAbsent: 6},
		"all":                {set: 2, remove: 4, clear: 1, ifAbsent: 4, ifVersion: 4, update: 3, many: 2},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					c := peercachetest.NewCluster(t, 4)
					c.Network.JitterAll(2*time.Millisecond, seed)
					all := caches(t, c, peercache.Options[string]{})
					keys := []string{"a", "b", "c"}
					h := &strictHistory{byKey: make(map[string][]porcupine.Operation)}
					var clients sync.WaitGroup
					for i := range 8 {
						random := rand.New(rand.NewPCG(seed, uint64(i)))
						clients.Go(func() { strictClient(t, h, all[i%4], i, 60, mix, keys, random) })
					}
					clients.Wait()
					h.requireStrict(t)
				})
			}
		})
	}
}
