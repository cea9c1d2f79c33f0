package peercache

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// The ring is a pure function from the members to a table of each shard's owners. It knows no network, no clock and no
// earlier table: members with the same view have the same table, bit for bit, on every architecture.
//
// How algorithm 1 places copies, and why:
//
//  1. Rendezvous hashing (Thaler and Ravishankar 1998): each member scores each shard by itself, the keenest members own
//     it. A member that comes or goes changes nothing between the others.
//  2. Scores are weighted by the logarithmic method (Schindelhauer and Schomaker 2005): an exponential draw divided by the
//     weight. A member's draws are not independent, though: they are one random permutation of 4,096 fixed quantiles.
//     Every member is then keen on the same number of shards, which takes away half of the variance of its load.
//  3. What variance remains is cut at bounds (Mirrokni, Thorup and Zadimoghaddam 2016): copies, then primaries, move from
//     members above their bound, and to members below theirs. See ringBuilder.balance for which ones, which matters more
//     for stability than how many.

const (
	// shardCount is the number of fixed slices of the key space. It is part of the protocol: the handshake compares it.
	shardCount = 1 << shardBits
	shardBits  = 12

	// ringAlgorithm is the newest version of the placement that this code knows. Any change to a table is a new version.
	ringAlgorithm = 1

	maxRingMembers = 1 << 16 // owners are 16-bit indices
	maxRingWeight  = 1 << 16 // scores of greater weights would not fit 64 bits
)

// A ringMember is what placement needs to know of a member.
type ringMember struct {
	Name string
	// Incarnation is what is hashed, not Name: processes of one host may share a name, and a restarted process is another
	// member that holds nothing.
	Incarnation uint64
	Weight      int    // relative share of copies and of primaries; below 1 counts as 1, above 65,536 as 65,536
	Zone        string // copies of a shard are kept in distinct zones; empty: unknown, counts as a zone of its own
	State       MemberState
}

// A table maps each shard to its owners. It is immutable; all methods may be called concurrently.
type table struct {
	members []ringMember // sorted by incarnation
	copies  int          // length of every owner list: the copies asked for, or all members if there are fewer
	flat    []uint16     // owner lists of all shards, one after the other
	counts  [][2]int     // by member: the shards that it owns, and those of them whose primary it is
	sum     uint64
}

// newTable places copies of each shard on members. The result depends on nothing but the arguments, and not on the order of
// members, of which it keeps no part. An unknown algorithm means the newest known one below it; copies below 1 count as 1.
// Without members no shard has owners. Of more than 65,536 members the first 65,536 by incarnation are owners.
//
// No member holds more than 1.13 times its share of copies or of primaries, nor, in clusters of up to 64 members, less than
// 0.87 times; in larger ones it may fall short by 1.5 times the square root of its share. Tiny shares have a shard of play.
// (Zones that leave too little choice could prevent it; none that was tried did.) Shares are proportional to weights, but a
// member holds one copy of a shard at most, and a zone no more than it must: of weights 100, 1 and 1 with two copies, the
// first holds all shards, the others half of them each, while the first is the primary of 98 %.
//
// Copies of a shard are in distinct zones if there are enough zones; else no zone holds more of them than it must. This
// comes before balance: a zone with one member beside another zone gives that member a copy of every shard. State is
// covered by the digest and does not move anything.
//
// When a member dies, the next primary of its shards is one of the owners that are left in 99 % of the cases. Zones weaken
// this: the copy that is made up for is in the zone of the dead member, and with z zones it is the primary in one of z
// cases. (That a member is new to a shard cannot be seen in the members alone, and no zone is better than another.)
func newTable(algorithm uint8, copies int, members []ringMember) *table {
	t := &table{}
	t.members, t.sum = canonical(algorithm, copies, members)
	t.members = t.members[:min(len(t.members), maxRingMembers)]
	if t.copies = min(max(copies, 1), len(t.members)); t.copies > 0 {
		t.flat = placeShards(t.members, t.copies) // by the only algorithm yet
	}
	t.counts = make([][2]int, len(t.members))
	for p, o := range t.flat {
		t.counts[o][0]++
		if p%t.copies == 0 {
			t.counts[o][1]++
		}
	}
	return t
}

// madeOf tells whether newTable would return an equal table for these arguments, without building it.
func (t *table) madeOf(algorithm uint8, copies int, members []ringMember) bool {
	_, sum := canonical(algorithm, copies, members)
	return sum == t.sum
}

// canonical returns the members sorted by incarnation, with their effective weights, and the digest of a table over them.
func canonical(algorithm uint8, copies int, members []ringMember) ([]ringMember, uint64) {
	sorted := slices.Clone(members)
	for i := range sorted {
		sorted[i].Weight = min(max(sorted[i].Weight, 1), maxRingWeight)
	}
	// Equal incarnations do not occur; the further fields only keep the result independent of the order if they do.
	slices.SortFunc(sorted, func(a, b ringMember) int {
		return cmp.Or(cmp.Compare(a.Incarnation, b.Incarnation), cmp.Compare(a.Name, b.Name),
			cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Weight, b.Weight), cmp.Compare(a.State, b.State))
	})
	return sorted, digestOf(max(1, min(algorithm, ringAlgorithm)), max(copies, 1), sorted)
}

// digestOf hashes all that a table depends on, and states. Texts carry their length: no two inputs give the same bytes.
func digestOf(algorithm uint8, copies int, members []ringMember) uint64 {
	text := func(b []byte, s string) []byte {
		return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
	}
	b := binary.LittleEndian.AppendUint64([]byte{algorithm}, uint64(copies))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(members)))
	for _, m := range members {
		b = text(b, m.Name)
		b = binary.LittleEndian.AppendUint64(b, m.Incarnation)
		b = binary.LittleEndian.AppendUint64(b, uint64(m.Weight))
		b = text(b, m.Zone)
		b = append(b, byte(m.State))
	}
	return xxhash.Sum64(b)
}

// digest identifies the table: members compare it to know whether they agree on every owner.
func (t *table) digest() uint64 { return t.sum }

// owners returns the indices of the shard's owners, the primary first and then in the order in which they would follow it.
// The slice is the table's own: callers do not change it.
func (t *table) owners(shard int) []uint16 {
	lo, hi := shard*t.copies, (shard+1)*t.copies
	return t.flat[lo:hi:hi]
}

// member returns the member with an index that owners or index returned.
func (t *table) member(i int) ringMember { return t.members[i] }

// index returns the index of the member with that incarnation.
func (t *table) index(incarnation uint64) (int, bool) {
	return slices.BinarySearchFunc(t.members, incarnation, func(m ringMember, want uint64) int {
		return cmp.Compare(m.Incarnation, want)
	})
}

// position returns the member's place among the shard's owners, 0 for the primary, or -1 if it is none of them.
func (t *table) position(incarnation uint64, shard int) int {
	for p, o := range t.owners(shard) {
		if t.members[o].Incarnation == incarnation {
			return p
		}
	}
	return -1
}

// owns tells whether the member is an owner of the shard.
func (t *table) owns(incarnation uint64, shard int) bool { return t.position(incarnation, shard) >= 0 }

// count returns how many shards the member owns, and of how many of them it is the primary.
func (t *table) count(incarnation uint64) (copies, primaries int) {
	i, ok := t.index(incarnation)
	if !ok {
		return 0, 0
	}
	return t.counts[i][0], t.counts[i][1]
}

// A shardChange is a shard whose owners differ between two tables, as incarnations, the primary first. A change of order
// alone is a change too.
type shardChange struct {
	shard         int
	before, after []uint64
}

// A tableDiff lists what changed between two tables, by ascending shard.
type tableDiff []shardChange

// diffTables compares two tables. A nil table has no owners.
func diffTables(before, after *table) tableDiff {
	var diff tableDiff
	var b, a []uint64
	for s := range shardCount {
		b, a = before.appendOwners(b[:0], s), after.appendOwners(a[:0], s)
		if !slices.Equal(b, a) {
			diff = append(diff, shardChange{s, slices.Clone(b), slices.Clone(a)})
		}
	}
	return diff
}

// appendOwners appends the incarnations of a shard's owners to list. The table may be nil.
func (t *table) appendOwners(list []uint64, shard int) []uint64 {
	if t != nil {
		for _, o := range t.owners(shard) {
			list = append(list, t.members[o].Incarnation)
		}
	}
	return list
}

// gained returns the shards that self owns now and did not own before.
func (d tableDiff) gained(self uint64) []int {
	return d.shards(func(c shardChange) bool {
		return !slices.Contains(c.before, self) && slices.Contains(c.after, self)
	})
}

// lost returns the shards that self owned before and does not own now.
func (d tableDiff) lost(self uint64) []int {
	return d.shards(func(c shardChange) bool {
		return slices.Contains(c.before, self) && !slices.Contains(c.after, self)
	})
}

// promoted returns the shards whose primary is self now and was not before, whether or not self owned them.
func (d tableDiff) promoted(self uint64) []int {
	return d.shards(func(c shardChange) bool {
		return slices.Index(c.after, self) == 0 && slices.Index(c.before, self) != 0
	})
}

func (d tableDiff) shards(match func(shardChange) bool) []int {
	var shards []int
	for _, c := range d {
		if match(c) {
			shards = append(shards, c.shard)
		}
	}
	return shards
}

// keyspaceOf returns what a cache's name adds to the hash of its keys, so that a key lands independently in each cache.
// keyspaceOf and hashOf are part of version 1 of the protocol: every member must compute the same.
func keyspaceOf(cache string) uint64 { return mix64(xxhash.Sum64String(cache)) }

// hashOf returns the 64-bit hash of a key in a cache: the mixed exclusive or of xxhash64(key) and the keyspace.
func hashOf(keyspace uint64, key string) uint64 { return mix64(xxhash.Sum64String(key) ^ keyspace) }

// hashOfBytes is hashOf for a key in bytes.
func hashOfBytes(keyspace uint64, key []byte) uint64 { return mix64(xxhash.Sum64(key) ^ keyspace) }

// shardOfHash returns the shard of a key with that hash: its top bits.
func shardOfHash(hash uint64) int { return int(hash >> (64 - shardBits)) }

// shardOf returns the shard of a key in a cache.
func shardOf(keyspace uint64, key string) int { return shardOfHash(hashOf(keyspace, key)) }

// shardOfBytes is shardOf for a key in bytes.
func shardOfBytes(keyspace uint64, key []byte) int { return shardOfHash(hashOfBytes(keyspace, key)) }

// mix64 is a bijection after which every bit depends on every bit (Stafford's Mix13, the finalizer of SplitMix64 in
// Steele, Lea and Flood 2014).
func mix64(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Fixed-point formats. There are no floating-point scores, whose last bit might depend on the architecture.
const (
	drawBits  = 32 - shardBits // fraction of a draw below its rank
	curveBits = 32             // fraction of an exponential quantile
	shareBits = 16             // fraction of a share in shards
)

// placeShards returns the owner lists of all shards, copies to each. There are at least as many members as copies.
func placeShards(members []ringMember, copies int) []uint16 {
	b := newRingBuilder(members, copies)
	b.pick()

	b.setShares()
	b.setBounds()
	for _, m := range b.flat {
		b.load[m]++
	}
	b.balance(false)

	b.setPrimaryShares()
	b.setBounds()
	clear(b.load)
	for s := range shardCount {
		set := b.owners(s)
		slices.SortFunc(set, func(x, y uint16) int {
			return cmp.Or(cmp.Compare(b.score(s, x), b.score(s, y)), cmp.Compare(x, y))
		})
		b.load[set[0]]++
	}
	b.balance(true)
	return b.flat
}

// A ringBuilder is the scratch space of one placement. Slices without another comment are indexed by member.
type ringBuilder struct {
	copies    int
	draws     [][shardCount]uint32   // a permutation of the ranks, each with a random fraction: rank 0 is the keenest
	curve     [shardCount + 1]uint64 // rank to quantile of the exponential distribution
	everyone  []int                  // all indices
	weights   []uint64
	pull      []uint64 // reciprocal of the weight
	zones     []int
	zoneCount int
	zoneLimit int // greatest number of copies of one shard in one zone

	flat   []uint16 // owner lists, as in the table; sorted by score but for what balance moves
	shares []uint64 // proportional share in shards, fixed point: of copies, later of primaries
	lo, hi []int    // bounds of load
	load   []int    // shards held: copies, later primaries
}

func newRingBuilder(members []ringMember, copies int) *ringBuilder {
	n := len(members)
	b := &ringBuilder{
		copies: copies, draws: make([][shardCount]uint32, n), weights: make([]uint64, n), pull: make([]uint64, n),
		zones: make([]int, n), shares: make([]uint64, n), lo: make([]int, n), hi: make([]int, n), load: make([]int, n),
	}
	// The expected values of 4,096 ordered exponential draws are sums of reciprocals (Rényi 1953): no logarithm needed.
	for j := range uint64(shardCount) {
		b.curve[j+1] = b.curve[j] + (1<<curveBits)/(shardCount-j)
	}
	var sizes []int
	named := make(map[string]int)
	for i, m := range members {
		drawShards(&b.draws[i], m.Incarnation)
		b.everyone = append(b.everyone, i)
		b.weights[i] = uint64(m.Weight)
		b.pull[i] = (1 << 28) / b.weights[i]
		zone, ok := named[m.Zone]
		if !ok {
			zone = len(sizes)
			sizes = append(sizes, 0)
			// Were all members without a zone one zone, the first that gets one in a rolling change of configuration
			// would have to hold a copy of everything.
			if m.Zone != "" {
				named[m.Zone] = zone
			}
		}
		b.zones[i] = zone
		sizes[zone]++
	}
	b.zoneCount = len(sizes)
	for room := 0; room < copies; {
		b.zoneLimit++
		room = 0
		for _, size := range sizes {
			room += min(size, b.zoneLimit)
		}
	}
	return b
}

// drawShards fills draws with a permutation (Fisher and Yates, inside out) made by SplitMix64 from the incarnation.
func drawShards(draws *[shardCount]uint32, incarnation uint64) {
	state := mix64(incarnation)
	for i := range draws {
		state += 0x9e3779b97f4a7c15
		r := mix64(state)
		j, _ := bits.Mul64(r, uint64(i)+1)
		draws[i] = draws[j]
		draws[j] = uint32(i)<<drawBits | uint32(r)&(1<<drawBits-1)
	}
}

// score tells how far the member is from wanting the shard; the lowest scores own it. It is an exponential draw with the
// member's weight as its rate, and depends on no other member.
func (b *ringBuilder) score(shard int, m uint16) uint64 {
	d := b.draws[m][shard]
	rank, fraction := d>>drawBits, uint64(d&(1<<drawBits-1))
	q := b.curve[rank] + (b.curve[rank+1]-b.curve[rank])*fraction>>drawBits
	return q * b.pull[m]
}

func (b *ringBuilder) owners(shard int) []uint16 { return b.flat[shard*b.copies : (shard+1)*b.copies] }

// pick gives each shard the members with the lowest scores that the zone limit allows. The sets that it allows are a
// matroid, so that looking at members one by one and exchanging the worst finds the best set, whatever the order.
func (b *ringBuilder) pick() {
	type candidate struct {
		score uint64
		m     uint16
	}
	const free = math.MaxUint64 // no member's score
	best := slices.Repeat([]candidate{{score: free}}, shardCount*b.copies)
	for i := range b.zones {
		m := uint16(i)
		for s := range shardCount {
			set, score := best[s*b.copies:(s+1)*b.copies], b.score(s, m)
			if score >= set[b.copies-1].score {
				continue
			}
			at, inZone := b.copies-1, 0 // the place to vacate: the last, or the last of a zone that is at its limit
			for p := b.copies - 1; p >= 0; p-- {
				if set[p].score != free && b.zones[set[p].m] == b.zones[m] {
					if inZone++; inZone == 1 {
						at = p
					}
				}
			}
			if inZone < b.zoneLimit {
				at = b.copies - 1
			}
			if set[at].score <= score {
				continue
			}
			for ; at > 0 && set[at-1].score > score; at-- {
				set[at] = set[at-1]
			}
			set[at] = candidate{score, m}
		}
	}
	b.flat = make([]uint16, len(best))
	for p, c := range best {
		b.flat[p] = c.m
	}
}

// setShares sets the shares of copies: proportional to weight, at most one copy of each shard to a member, and zoneLimit
// copies of each shard to a zone. What a limit cuts off goes to the others in proportion.
func (b *ringBuilder) setShares() {
	perMember := func(int) uint64 { return shardCount << shareBits }
	perZone := uint64(b.zoneLimit) * shardCount << shareBits
	total := uint64(b.copies) * shardCount << shareBits
	open := b.everyone
	for len(open) > 0 {
		b.fill(open, total, perMember)
		sums, full := make([]uint64, b.zoneCount), make([][]int, b.zoneCount)
		for _, i := range open {
			sums[b.zones[i]] += b.shares[i]
		}
		var rest []int
		for _, i := range open {
			if z := b.zones[i]; sums[z] > perZone {
				full[z] = append(full[z], i)
			} else {
				rest = append(rest, i)
			}
		}
		if len(rest) == len(open) {
			return
		}
		for _, zone := range full {
			if len(zone) > 0 {
				b.fill(zone, perZone, perMember)
				total -= perZone
			}
		}
		open = rest
	}
}

// setPrimaryShares replaces the shares of copies by those of primaries: proportional to weight, and not above the former.
func (b *ringBuilder) setPrimaryShares() {
	copies := slices.Clone(b.shares)
	b.fill(b.everyone, shardCount<<shareBits, func(i int) uint64 { return copies[i] })
}

// fill divides total between members by weight, none above its limit. The limits together are at least total.
func (b *ringBuilder) fill(members []int, total uint64, limit func(int) uint64) {
	for {
		var weight uint64
		for _, i := range members {
			weight += b.weights[i]
		}
		var rest []int
		left := total
		for _, i := range members {
			b.shares[i] = total * b.weights[i] / weight
			if l := limit(i); b.shares[i] >= l {
				b.shares[i] = l
				left -= l
			} else {
				rest = append(rest, i)
			}
		}
		if len(rest) == 0 || len(rest) == len(members) {
			return
		}
		members, total = rest, left
	}
}

// setBounds sets the loads that balance allows, within 13 % of the share, or one shard if that is more. With many members
// shares are small, and would fall short so often that to prevent it moved more shards at each join and leave than it is
// worth; their lower bound is 1.5 square roots of the share.
func (b *ringBuilder) setBounds() {
	const whole = 1<<shareBits - 1
	for i, share := range b.shares {
		up, down := int((share+whole)>>shareBits), int(share>>shareBits)
		play := 1
		if len(b.shares) > 64 {
			play = max(1, int(math.Sqrt(float64(9*down/4)))) // Sqrt rounds correctly everywhere
		}
		b.hi[i] = min(shardCount, max(int(share*113/100>>shareBits), up+1))
		b.lo[i] = max(0, min(int((share*87/100+whole)>>shareBits), down-play))
	}
}

// A ringMove takes a copy of a shard, or its primacy, from one member and gives it to another.
type ringMove struct {
	key      uint64
	shard    int
	from, to uint16
}

// balance moves copies (or primaries, between the owners of a shard) until loads are within bounds: first from members
// above theirs to any with room, then to members below theirs from any that can spare. No move breaks the bound of another
// member, so nothing cascades. A bound that no single move can reach is left.
//
// Of all possible moves those come first whose receiver has the lowest score, that is, where the shard's owners before and
// after are all keen. This keeps tables stable: a copy that has just been filled in for a dead owner is held by the least
// keen of the shard's owners; the keener the receiver of a primacy, the less likely it is that it came last, and has no
// data yet. (By the difference of scores, twice as many primaries are without data after a death; by the giver's score,
// eight times as many.)
func (b *ringBuilder) balance(primaries bool) {
	for i := range b.zones {
		from := uint16(i)
		b.moveAll(func() int { return b.load[i] - b.hi[i] }, func(s int) (move ringMove, ok bool) {
			if !slices.Contains(b.owners(s), from) {
				return move, false
			}
			for j := range b.zones {
				if to := uint16(j); b.load[j] < b.hi[j] && b.allowed(primaries, s, from, to) {
					if score := b.score(s, to); !ok || score < move.key {
						move, ok = ringMove{score, s, from, to}, true
					}
				}
			}
			return move, ok
		}, primaries)
	}
	for i := range b.zones {
		to := uint16(i)
		b.moveAll(func() int { return b.lo[i] - b.load[i] }, func(s int) (ringMove, bool) {
			for _, from := range slices.Backward(b.owners(s)) {
				if b.load[from] > b.lo[from] && b.allowed(primaries, s, from, to) {
					return ringMove{b.score(s, to), s, from, to}, true
				}
			}
			return ringMove{}, false
		}, primaries)
	}
}

// moveAll makes the best moves, at most one per shard, until missing is zero or no move is left.
func (b *ringBuilder) moveAll(missing func() int, best func(shard int) (ringMove, bool), primaries bool) {
	for n := missing(); n > 0; n = missing() {
		var list []ringMove // the n lowest keys, sorted
		for s := range shardCount {
			move, ok := best(s)
			if !ok || len(list) == n && move.key >= list[n-1].key {
				continue
			}
			at, _ := slices.BinarySearchFunc(list, move.key, func(m ringMove, key uint64) int {
				return cmp.Or(cmp.Compare(m.key, key), -1) // behind equal keys: by ascending shard
			})
			list = slices.Insert(list[:min(len(list), n-1)], at, move)
		}
		if len(list) == 0 {
			return
		}
		for _, m := range list {
			if b.load[m.from] <= b.lo[m.from] || b.load[m.to] >= b.hi[m.to] {
				continue // earlier moves have used up the play; the next round looks for another
			}
			set := b.owners(m.shard)
			if primaries {
				at := slices.Index(set, m.to)
				copy(set[1:at+1], set[:at])
				set[0] = m.to
			} else {
				set[slices.Index(set, m.from)] = m.to
			}
			b.load[m.from]--
			b.load[m.to]++
		}
	}
}

// allowed tells whether the shard (or its primacy) may go from one member to another, loads aside.
func (b *ringBuilder) allowed(primaries bool, shard int, from, to uint16) bool {
	set := b.owners(shard)
	if primaries {
		return set[0] == from && slices.Contains(set[1:], to)
	}
	holds, inZone := false, 0
	for _, m := range set {
		switch {
		case m == to:
			return false
		case m == from:
			holds = true
		case b.zones[m] == b.zones[to]:
			inZone++
		}
	}
	return holds && inZone < b.zoneLimit
}
