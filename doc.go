// Package peercache makes the processes of a service share one cache. Every
// process that imports it becomes a peer; together the peers are the cache,
// and there is no server to run. A key that nobody holds is loaded once in the
// whole cluster.
//
//	node, err := peercache.Start(ctx, peercache.Config{
//		Listen: ":7600",
//		Join:   []string{"cache.default.svc:7600"}, // a host name means all its addresses
//	})
//	if err != nil { ... }
//	defer node.Shutdown(context.Background()) // hands over what it holds, then leaves
//
//	users, err := peercache.New(node, "users", peercache.Options[User]{
//		Load: func(ctx context.Context, id string) (User, error) { return db.User(ctx, id) },
//		TTL:  5 * time.Minute,
//	})
//	u, err := users.Get(ctx, "42")
//	err = users.Set(ctx, "42", u)
//	err = users.Delete(ctx, "42")
//
// # Words
//
// A node is this process, a member a process of the cluster, itself included,
// and a peer another one. The incarnation of a member is a number drawn when
// it starts: a process that is started again is another member, whatever its
// name.
//
// A cache is a named key space with a loader, an expiry and a codec of its
// own. All caches of a node share its memory and its ring.
//
// The key space is cut into 4,096 shards by a hash of cache name and key. The
// owners of a shard are the members that hold it, in order: the first is its
// primary, the others are its replicas.
//
// A view is the list of members as one node sees it. From it every node makes
// the same table, shard by shard its owners, without asking anybody: the table
// is a pure function of the members. Its digest tells whether two nodes have
// the same. The current table is over the members that are active or leaving,
// the target table over those that are active or joining: who is read from
// now, and who will be.
//
// A write is an entry made by Set, Delete, Update or Clear, a fill one made by
// a load: a value, or the memory that the loader said [ErrNotFound]. The
// version of an entry is a stamp; of two writes the later has the greater one,
// and a fill never beats a write that it had not seen. A tombstone is the
// version of a deleted key. A floor is a bound below which writes and fills
// are refused: it stands for what was cleared, and for tombstones that had to
// make room.
//
// A flight is one load under way and everybody who waits for it. The near
// cache holds decoded values of hot keys: of the node's own shards always,
// where it is coherent, and of others' only with [Options].NearTTL.
//
// # The cache
//
// [Cache.Get] looks into the near cache, then at what this node holds as an
// owner of the key, and then asks the owners, in order. A primary that holds
// nothing loads: it runs Load or, where it has none, lends the load to one of
// those who ask. Whoever asks for the key meanwhile joins the flight. A load belongs to no caller: who gives up leaves alone, and it stops
// when all have left or at [Options].LoadTimeout.
//
// [Cache.Set] and [Cache.Delete] go to the first owner that can be reached. It
// stamps them, applies them, and returns when every owner in both tables has
// confirmed, refused a connection, or is no member any more. [Cache.Update],
// [IfAbsent] and [IfVersion] are decided by the primary alone, and confirmed by
// the other owners before anything changes.
//
// What New is not called for on a member is held, served and handed on there
// all the same: bytes are stored by the cache's name.
//
// # The cluster
//
// A node finds the others through the addresses in [Config].Join and Discover,
// which it asks again and again. Members tell each other who is there by
// gossip and watch each other by heartbeats (SWIM with Lifeguard, as
// implemented by hashicorp/memberlist). One that was killed or fell silent is
// out of every table within 3 seconds; a broken or refused connection takes it
// out of the way of requests at once.
//
// A node that joins gets writes at once, copies its shards from their owners,
// and is asked for them when it has them all: [Node.WaitReady] waits for that.
// One that leaves by [Node.Shutdown] first waits until the others have copied
// what it holds. Each goes on for as long as something is copied, and up to 30
// seconds without that. When a member dies, those who
// own its shards from then on copy them from the owners that are left, and
// ask these before they load.
//
// Everything that peers say to each other goes over one HTTP port: a
// connection is upgraded, both ends prove that they know the cluster's secret,
// and then many calls share it. The node listens itself, or is mounted in the
// program's own HTTP server; see [Config].Advertise.
//
// # Promises
//
//   - A cold key is loaded once, whoever asks: once per view, plus once for an
//     owner that died or fell silent while it loaded.
//   - After a crash no read fails, and no acknowledged write is lost while one
//     owner that acknowledged it, or was filled from one, lives.
//   - Reads while a member joins or leaves neither fail nor load again.
//   - A read that starts after an acknowledged Delete or Set never returns the
//     older value on a member whose view has the owners that acknowledged, and
//     no load that was under way brings it back. Near copies of other members'
//     keys, which are opt-in, may be older by at most NearTTL, and never on the
//     node that wrote.
//   - Memory stays under [Config].MaxBytes. Connections and goroutines are
//     bounded by peers and requests in flight.
//   - The library does not panic, exit or write to a global. A loader's panic
//     is an error for its callers.
//
// # Not promised
//
// An entry may vanish at any time to make room. When all owners of a key die
// before the first was made up for, the key is gone. A loaded value is copied
// to the replicas within 100 ms, and nobody waits for that; what is lost on the
// way is made up for a second later.
//
// Two sides of a split both go on; the higher version wins when they meet.
// Conditional writes are atomic within a view, and so on each side by itself.
// A Set or Delete may take up to 3 seconds after an owner fell silent, never
// after it refused a connection. With one link cut a replica may answer older.
// An owner that says nothing for 250 ms is taken for silent, on a machine that
// is out of breath too; members should be less than 100 ms apart, there and
// back.
//
// # Other packages
//
// Tests of programs that use peercache run whole clusters in memory and in
// virtual time: see package peercachetest. Programs that were written for
// golang/groupcache change one import line: see package groupcache.
package peercache
