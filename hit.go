package peercache

import (
	"context"
	"slices"

	"github.com/peercache/peercache/lru"
)

// The way of a hit: the near tier, then the store of this node. Whatever is
// not plain there goes the long way of [Cache.find].

// nearHit returns the near value of a key. near is the key's hash in the near
// tier, as everywhere here; hash is the one that places it.
func (c *Cache[V]) nearHit(near uint64, key string) (v V, ok bool) {
	e := c.near.find(near, key, c.n.pauses.glance())
	if e == nil {
		return v, false
	}
	c.sp.count.nearHits.inc()
	c.n.heat.noteNear(e.told)
	return c.handOut(e.value), true
}

// getPast is Get past the near tier.
func (c *Cache[V]) getPast(ctx context.Context, near uint64, key string) (V, Source, error) {
	hash := hashOf(c.sp.keyspace, key)
	if v, ok := c.ownHit(near, hash, key); ok {
		return v, SourceStore, nil
	}
	c.sp.count.gets.Add(1)
	v, from, err := c.find(ctx, near, hash, key, c.loads)
	if err == nil && from == SourceNone {
		err = ErrNotFound
	}
	return v, from, err
}

// ownHit returns a value that this node holds as an owner of its key. It gives
// up where there is more to do than to read it. The caller has looked for a
// pause.
func (c *Cache[V]) ownHit(near, hash uint64, key string) (v V, ok bool) {
	n, shard := c.n, shardOfHash(hash)
	// The token before the view: when a shard is lost, near values are dropped
	// after the view has changed.
	token := c.near.token(near)
	if n.life.Err() != nil || !n.holdsAll(shard) {
		return v, false
	}
	k := lru.Key{Hash: hash, Space: c.sp.id, Shard: uint16(shard), Name: key}
	var meta lru.Meta
	var size int
	if p, raw := any(&v).(*[]byte); raw && c.tag == codecBytes {
		// What the store gives is a copy already.
		if *p, meta, ok = n.store.lru.Read(k, nil); *p == nil {
			*p = []byte{}
		}
		*p = slices.Clip(*p) // it may be shared by those who append to it
		size = len(*p)
		ok = ok && c.plain(meta)
	} else {
		v, meta, size, ok = c.readOwn(k)
	}
	if !ok {
		var none V
		return none, false
	}
	reads := c.sp.count.ownHits.inc()
	n.heat.note(hash)
	if !c.near.admits(near, size, reads) {
		return v, true // it is the caller's alone
	}
	if meta.Expires == 0 || meta.Expires > n.pauses.glance() {
		c.near.put(near, key, v, size, meta.Expires, token)
	}
	return c.handOut(v), true
}

// holdsAll reports whether this node owns a shard and has all of it: then every
// write of it comes here.
func (n *Node) holdsAll(shard int) bool {
	// The view before the shard's state: a shard is marked before the view in
	// which it has to be filled is there to see.
	return n.view.Load().owns(n.incarnation, shard) && n.handoff.filled(shard)
}

// plain tells whether an entry is a value of this cache's codec.
func (c *Cache[V]) plain(m lru.Meta) bool {
	return m.Tag == c.tag && m.Flags&(flagTombstone|flagNegative) == 0
}

// readOwn reads and decodes what the store holds of a key.
func (c *Cache[V]) readOwn(k lru.Key) (v V, meta lru.Meta, size int, ok bool) {
	buf, _ := c.buffers.Get().(*readBuffer)
	if buf == nil {
		buf = new(readBuffer)
	}
	defer c.buffers.Put(buf)
	data, meta, ok := c.n.store.lru.Read(k, buf[:0])
	if !ok || !c.plain(meta) {
		return v, meta, 0, false
	}
	v, err := decode(c.codec, data)
	return v, meta, len(data), err == nil
}

// A readBuffer holds an encoded value while it is decoded, unless it is large.
type readBuffer [4 << 10]byte
