// Package sim runs whole clusters through scripts of faults, in virtual time,
// and judges what their clients saw.
//
// A [Script] comes from a seed: how many nodes there are, what each client
// does, and what happens to nodes and links meanwhile. [Run] plays it on a
// network in memory, inside a bubble of [testing/synctest]: the HTTP, framing,
// gossip and cache code of production. In the end all faults are healed, and
// what the cluster holds is read over the wire, member by member.
//
// A seed determines the script, and not how goroutines are scheduled: a seed
// that failed once may have to be run several times to fail again.
//
// # What is judged
//
// Every call of a client is an [Op] of the [History], with the order in which
// calls began and returned. A write that failed with an unknown outcome
// (PartialWriteError, ErrUnavailable, a context that ended, a node that died)
// may take effect at any time until the end.
//
// Promises hold on one side of a cluster. The [World] tells sides apart by
// their domain: nodes that see each other, of which fewer than Copies were
// killed, paused or cut off since all agreed last. A node that is out of its
// domain, because it is paused, cut off or has not found the others again, is
// in none until all agree. When more nodes are out at once than there are
// copies, acknowledged writes may be lost; a new domain begins once all agree
// that are not paused, and nothing written before is held against it. Who is
// paused comes back to that domain: what was written without it must not be lost
// then, nor be unknown to it. After a split each side is a
// domain that descends from the one before, once its members agree; after it
// healed, one that descends from both sides.
//
// Within a domain and those that it descends from: a read that starts after an
// acknowledged write returns nothing older; a key that was written and not
// deleted is there, on the side where it was written and, when all is healed,
// everywhere; what was deleted stays away. Keys whose calls are all of one
// domain are checked against a register with porcupine (Athalye: Horn and
// Kroening, "Faster linearizability checking via P-compositionality", 2015).
// When all is healed the owners of each key hold the same.
//
// Members that run and whose link has been whole for a while do not take each
// other for dead. After a cut no connection that waits for TCP's retransmission
// is kept much longer than the heartbeat's timeout. The cluster sends no more
// requests than its calls need.
//
// While links are cut, or answer with resets, in a way that splits nobody off,
// members reach each other through others: that is one domain, with all that it
// promises, and calls without a deadline end within the heartbeat's timeout and a
// second. When a node dies or stops meanwhile, reads are not judged. While a
// link is so slow that its other end seems silent, owners that do not hear of
// each other may load a key each, calls may fail, and a write that has yet to
// be acknowledged is read on one member and not on another.
//
// # What is not modelled
//
// A process that is stopped finds what ran out meanwhile when it goes on. On a
// node that is paused connections, clock and gossip stand still, and it goes on
// with the table that it had; but the timers of its calls run out during the
// pause, and those of suspicions that it had by then.
package sim
