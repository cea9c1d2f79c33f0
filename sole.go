package peercache

import "fmt"

// A node that the caller serves is told by others who is in the cluster until
// it is announced itself. While nobody tells it anything, because it is the
// first or because it cannot be reached where it would be announced, it goes by
// a table of its own, of itself alone: what it loads it keeps.
//
// It takes no writes then: when it meets the others it forgets what it has, and
// a write that was acknowledged must not be forgotten so.

// sole reports whether this node is such a one. The first round of seeds is to
// end first, as it is for a node that listens itself.
func (n *Node) sole() bool {
	if n.cfg.Client || !n.asked.Load() || n.announced.Load() {
		return false
	}
	relayed := n.relayed.Load()
	return relayed == nil || len(*relayed) == 0
}

// selfInView is this node as its own view has it before the node is announced.
func (n *Node) selfInView(self announcement) announcement {
	switch {
	case n.cfg.alone():
	case !n.sole():
		self.outside = true
	case self.State == MemberJoining:
		self.State = MemberActive
	}
	return self
}

// refuseSole returns why this node takes no write now; nil: it does.
func (n *Node) refuseSole() error {
	if !n.sole() {
		return nil
	}
	return fmt.Errorf("%w: no owner took it: this node is not announced and knows of no member", ErrUnavailable)
}

// meetsNobody ends the joining of a node that has just been announced to no
// one, before its view is made of the members of gossip: its table stays what
// it is.
func (n *Node) meetsNobody() {
	if g := n.gossip.Load(); len(g.Members()) <= 1 {
		n.becomeActive()
		n.viewSignal.fire() // the view stays what it is, and the node is ready
	}
}
