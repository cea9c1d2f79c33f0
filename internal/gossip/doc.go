// Package gossip tells who is a member: SWIM with the Lifeguard extensions, as
// hashicorp/memberlist implements them, over connections that the caller
// supplies. It is the only importer of memberlist.
//
// A member has a name, 16 hex digits that are never used twice, and metadata
// of up to MaxMeta bytes, which holds the address that others dial. The caller
// gives a [Link] that carries packets and streams to members, hands what
// arrives to [Gossip.Packet] and [Gossip.Stream], and is told by
// Config.Changed that [Gossip.Members] has something new to say.
//
// A member is live until it leaves or is found dead, dead until it is heard of
// again or forgotten. Suspicion, the time in which a silent member may still
// object, is memberlist's affair: a suspect is live.
//
// # What memberlist expects, and what it gets
//
//   - Nodes have IP addresses and ports; two nodes of one name with different
//     addresses are in conflict. Ours have names and addresses that may be
//     host names, so each one announces the same dummy address, and the name
//     in a memberlist.Address is what a packet is routed by. Memberlist never
//     resolves a name.
//   - Callbacks come under its lock. They write into a table of ours and raise
//     a flag; nothing of the caller's but Config.AddrOf runs there. Members
//     reads that table, as the nodes that memberlist hands out are written to
//     behind the reader's back.
//   - Shutdown waits for none of its goroutines. Close ends every wait that
//     one of them may be in; see there.
//   - It decodes what it is sent, in goroutines where a panic could not be
//     caught, and believes the sizes it reads. So nothing reaches it but what
//     [check] has taken apart before: known types, flat maps, sizes that add
//     up, nothing compressed, encrypted or nested.
//   - It tells a suspect that it is one too seldom, and a dead member that is
//     well never. We tell them, and start an exchange with members that are
//     heard of but not listed.
//
// # Wire
//
// A packet is memberlist's (protocol 5, no compression, no encryption, no
// label). A stream carries one memberlist message each way, preceded by its
// length in 4 bytes, big endian. An ack carries the sender's wall clock:
// microseconds since 1970, 8 bytes, big endian.
package gossip
