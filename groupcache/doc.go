// Package groupcache is github.com/golang/groupcache over a cluster that keeps
// replicas and knows who lives. A program changes one import line:
//
//	import "github.com/peercache/peercache/groupcache"
//
// and goes on as before: it makes a pool, names the peers, makes groups, gets.
//
//	pool := groupcache.NewHTTPPool("http://10.0.0.1:8000")
//	pool.Set("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://10.0.0.3:8000")
//	thumbs := groupcache.NewGroup("thumbs", 64<<20, groupcache.GetterFunc(
//		func(ctx context.Context, key string, dest groupcache.Sink) error {
//			return dest.SetBytes(thumbnail(key))
//		}))
//	go http.ListenAndServe(":8000", nil)
//
//	err := thumbs.Get(ctx, key, groupcache.AllocatingByteSliceSink(&data))
//
// Everything that the original exports at commit 2c02b8208cf8 is here, with the
// same signatures. What is only data, such as [Sink] and [ByteView], is the
// original's own type, so that a program may use both packages. Below is a
// [peercache.Node]; [Group.Node] returns it.
//
// # Peers
//
// [HTTPPool.Set] names the peers by their base URLs. Their processes, if they
// use this package, become a cluster: they find each other through those URLs,
// tell each other by gossip who is there, and take out who is dead within three
// seconds. All that they say goes below the pool's base path on the server that
// the program runs: no second port is opened. A peer's connection is upgraded
// from HTTP/1.1 at {BasePath}v1/connect. That needs a server that lets go of
// connections, so the pool is mounted outside of wrappers such as
// [http.TimeoutHandler]; else each process works by itself, and
// [peercache.Stats] says why in AnnounceErr.
//
// The URLs may be of http and of https, also mixed: each peer is asked as its
// URL says, with the TLS configuration of [HTTPPool.Transport]. A path in them
// comes before the base path and must be the same for all.
//
// What Set means for the cluster:
//
//   - A process whose own URL is among the peers is a member. One whose URL is
//     not is a client: it asks the members and holds nothing. While no member
//     answers it asks by the original's protocol, and else loads each time.
//   - A list that begins or ceases to name the process itself makes it a member
//     or a client. A member that becomes a client hands its keys over first.
//   - A living peer that is left out of another one's list stays a member: who
//     is in the cluster is not for each process to say for itself, or there
//     would be as many rings as lists. It leaves when its own list leaves it
//     out, when it is shut down, or when it dies.
//   - A peer that is not named, but names others, is a member too.
//   - An empty list changes nothing.
//
// Before the first Set, and without a pool, groups are this process's own.
// Until a process is reached at its own URL it uses the cluster without being a
// part of it; when it knows no peer either it keeps what it loads by itself,
// and refuses writes.
//
// # What differs from the original
//
//   - A key has two owners, not one: values are in two processes. When one dies
//     the other answers, and a dead peer's keys are not loaded again.
//   - A key that is not there is loaded once in the cluster, by its first
//     owner, also while members come and go.
//   - The owners are not the original's: shards of a table of the members' own,
//     in place of a ring over URLs. [HTTPPoolOptions].Replicas and HashFn count
//     for [HTTPPool.PickPeer] only, which groups do not use.
//   - The original keeps copies of one in ten values of others in its hot cache.
//     Here a process keeps copies of others' keys only with
//     [GroupOptions].NearTTL, because they do not hear of a Remove.
//   - What stays when memory is short is what is used, not what came last: a
//     scan of keys that are read once does not flush the others.
//   - A value above a quarter of the node's memory or 16 MiB, or of a key
//     above 64 KiB, is handed out and not kept. Each process that asks for it
//     loads it.
//   - A load ends when nobody waits for it any more, or after ten minutes, not
//     when the caller that began it gives up. A getter's panic is an error.
//   - When the getter fails in another process it is run in the caller's as
//     well, as it is by the original, so that the caller gets its own error;
//     a value that it then gives is not kept.
//   - [Group].Stats count in spirit: see there.
//
// Entries do not expire unless [GroupOptions] say so.
//
// # Memory
//
// cacheBytes bounds what this process keeps of a group, with all that an entry
// takes beside key and value, replicas included: it is
// [peercache.Options].MaxBytes. The node's bound is the sum over all groups,
// and grows with each; an eighth of it is for decoded values, and a sixteenth
// for what is on its way. A process that has not made a group holds its share
// of the group's keys within the bound of those that it has made.
//
// # Old processes
//
// During a rolling deploy old processes still name new ones as peers, and get
// their values: GET {BasePath}{group}/{key} is answered as by the original, from
// the new cluster. New processes do not ask old ones, but for a client that no
// member answers. A key may so be loaded twice, by the old processes and by the
// new. docs/MIGRATING.md has a plan without a cold cache.
//
// The original's client escapes a space as "+", which its own server takes for
// a plus sign: between old processes a key with a space is loaded as one with a
// plus. Here it is a space. The keys "." and ".." the original's client cannot
// ask for behind an [http.ServeMux], which redirects them, nor a group of an
// empty name; it then loads by itself. Every other key it can: slashes, percent
// signs, bytes that are no UTF-8, and the empty key.
//
// # Hooks
//
// With a [PeerPicker] of the program's own ([RegisterPeerPicker],
// [RegisterPerGroupPeerPicker]) there is no cluster: a group is a cache of this
// process, which asks the [ProtoGetter] that was picked for what it lacks, keeps
// one in ten of its answers, and runs the getter where none was picked or it
// failed.
//
// [HTTPPool.Context] makes the context of loads for peers. Over an upgraded
// connection there is no request for each key, so it gets one as the original
// would have got, without headers and remote address; the load has the values
// of the context that it returns, and an end of its own.
//
// [HTTPPool.Transport] makes the requests of [HTTPPool.PickPeer]'s getters. Of an
// [http.Transport] the pool takes DialContext, DialTLSContext and
// TLSClientConfig for its connections to peers; it knows no proxies. Another
// RoundTripper it cannot use for them.
//
// # Beyond the original
//
// [NewGroupWithOptions], [Group.Set], [Group.Remove], [Group.Node],
// [HTTPPool.Configure] and [HTTPPool.Err] are new. Programs that end on purpose
// call Shutdown of the node after their server has finished its requests, so
// that their keys are handed over:
//
//	defer thumbs.Node().Shutdown(context.Background())
//
// As in the original, groups, pool and hooks are the process's: a second pool, a
// second group of one name and a second hook panic. Nodes and caches of package
// peercache have no such rule.
package groupcache
