// Package peercache makes the processes of a service share one cache. Every
// process that imports it becomes a peer; together the peers are the cache,
// and there is no server to run.
//
//	node, err := peercache.Start(ctx, peercache.Config{
//		Listen: ":7600",
//		Join:   []string{"cache.default.svc:7600"},
//	})
//	if err != nil { ... }
//	defer node.Shutdown(context.Background())
//
// # Words
//
// A node is this process, a member a process of the cluster, itself included,
// and a peer another one. The incarnation of a member is a number drawn when
// it starts: a process that is started again is another member, whatever its
// name.
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
// # The cluster
//
// A node finds the others through the addresses in [Config].Join and Discover,
// which it asks again and again. Members tell each other who is there by
// gossip and watch each other by heartbeats (SWIM with Lifeguard, as
// implemented by hashicorp/memberlist). A member that leaves is out of every
// table at once, one that was killed or fell silent within 3 seconds.
//
// Everything that peers say to each other goes over one HTTP port: a
// connection is upgraded, both ends prove that they know the cluster's secret,
// and then many calls share it. The node listens itself, or is mounted in the
// program's own HTTP server; see [Config].Advertise.
//
// Tests of programs that use peercache run whole clusters in memory and in
// virtual time: see package peercachetest.
package peercache
