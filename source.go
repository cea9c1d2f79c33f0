package peercache

import (
	"context"
	"fmt"
)

// A Source says where a value came from.
type Source uint8

// The sources of a value.
const (
	// SourceNone: there is no value.
	SourceNone Source = iota
	// SourceNear: a decoded copy in this process.
	SourceNear
	// SourceStore: what this node holds as an owner of the key.
	SourceStore
	// SourcePeer: another member, which held it or loaded it.
	SourcePeer
	// SourceLoad: a load in this process, begun by this call or another one.
	SourceLoad
)

// String returns "none", "near", "store", "peer" or "load".
func (s Source) String() string {
	switch s {
	case SourceNone:
		return "none"
	case SourceNear:
		return "near"
	case SourceStore:
		return "store"
	case SourcePeer:
		return "peer"
	case SourceLoad:
		return "load"
	default:
		return fmt.Sprintf("Source(%d)", uint8(s))
	}
}

// GetFrom is [Cache.Get] and tells where the value came from, for logs,
// counters and headers such as X-Cache. Beside an error the Source is
// SourceNone.
func (c *Cache[V]) GetFrom(ctx context.Context, key string) (V, Source, error) {
	near := c.near.hash(key)
	if v, ok := c.nearHit(near, key); ok {
		return v, SourceNear, nil
	}
	return c.getPast(ctx, near, key)
}

// source says where what was found came from.
func (r *result) source() Source {
	switch {
	case !r.found:
		return SourceNone
	case r.own:
		return SourceStore
	case r.decoded != nil:
		return SourceLoad
	default:
		return SourcePeer
	}
}
