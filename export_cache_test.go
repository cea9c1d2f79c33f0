package peercache

import (
	"fmt"
	"time"
)

// What tests may know of the cache's inside.
const (
	MaxKeyBytes = maxKeyBytes
	AttemptTime = attemptTime
	FillDelay   = fillDelay

	MaxCallsPerPeer = maxCallsPerPeer
)

// Dump returns what the node holds of a cache in the shards that it owns, by
// key: version, flags and value. Expired entries are left out.
func (n *Node) Dump(cache string) map[string]string {
	sp, err := n.store.space(cache)
	if err != nil {
		return nil
	}
	v := n.view.Load()
	held := make(map[string]string)
	for shard := range shardCount {
		if !v.owns(n.incarnation, shard) {
			continue
		}
		for it := n.store.lru.Iterate(uint16(shard)); it.Next(); {
			e := it.Entry()
			if e.Space != sp.id || e.Expires != 0 && e.Expires <= n.clock.Elapsed() {
				continue
			}
			o := orderOf(e.Version)
			held[string(e.Bytes)] = fmt.Sprintf("%v/%v flags %d: %q", o.w, o.v, e.Flags, e.Value)
		}
	}
	return held
}

// Holds tells what the node holds of a key: "" for nothing.
func (n *Node) Holds(cache, key string) string {
	sp, err := n.store.space(cache)
	if err != nil {
		return ""
	}
	e, ok := n.store.peek(sp, key)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%v/%v flags %d: %q", e.order.w, e.order.v, e.flags, e.value)
}

// ExpiresIn returns how long the node would keep what it holds of a key.
func (n *Node) ExpiresIn(cache, key string) (time.Duration, bool) {
	sp, err := n.store.space(cache)
	if err != nil {
		return 0, false
	}
	e, ok := n.store.peek(sp, key)
	if !ok || e.expires == 0 {
		return 0, ok
	}
	return e.expires - n.clock.Elapsed(), true
}

// Filled reports whether no shard of the node has yet to be filled.
func (n *Node) Filled() bool { return n.handoff.unfilledCount() == 0 }

// FlightsUnderWay returns how many loads can be joined on this node.
func (n *Node) FlightsUnderWay() int {
	n.flights.mu.Lock()
	defer n.flights.mu.Unlock()
	return len(n.flights.byKey) + len(n.flights.byID)
}

// ForgetOther does what the node does when it forgets a write that was made now, of
// another key of a key's shard.
func (n *Node) ForgetOther(cache, key string) {
	sp, err := n.store.space(cache)
	if err != nil {
		panic(err)
	}
	n.store.raiseGC(shardOf(sp.keyspace, key), n.hlc.next())
}

// Plant makes the node hold an entry that nobody else knows of, with the value
// that it holds of the key like, stamped that much ahead of its clock: a write,
// or else a fill.
func (n *Node) Plant(cache, key, like string, write bool, ahead time.Duration) {
	sp, err := n.store.space(cache)
	if err != nil {
		panic(err)
	}
	e, ok := n.store.peek(sp, like)
	v := n.hlc.next()
	v.time = after(v.time, ahead)
	e.order = order{v, v}
	if !write {
		e.order.w = n.store.base(sp, key)
	}
	if _, applied, err := n.store.apply(sp, key, e, fromRequest); !ok || !applied || err != nil {
		panic(fmt.Sprint("not planted: ", err))
	}
}
