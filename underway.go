package peercache

import "sync"

// underway are the shards of which something large is on its way from here to a
// member. What it lacks of them it is about to have: to compare them would make it
// fetch the same a second time, over the same link.
type underway struct {
	mu    sync.Mutex
	count map[memberShard]int // guarded by mu
}

type memberShard struct {
	member uint64 // an incarnation
	shard  int
}

// add counts shards to a member, by one or by minus one.
func (u *underway) add(member uint64, shards []int, by int) {
	if len(shards) == 0 {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.count == nil {
		u.count = make(map[memberShard]int)
	}
	for _, shard := range shards {
		k := memberShard{member, shard}
		if u.count[k] += by; u.count[k] == 0 {
			delete(u.count, k)
		}
	}
}

// has reports whether something of a shard is on its way to a member.
func (u *underway) has(member uint64, shard int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count[memberShard{member, shard}] > 0
}
