package peercache

import (
	"context"
	"fmt"

	"github.com/peercache/peercache/internal/mux"
)

// Operations that one node asks of another. The numbers are fixed for ever.
const (
	opView = 1 // the members, once they differ from what the asker knows
)

// Codes of replies. The numbers are fixed for ever.
const (
	replyOK          = 0
	replySame        = 1 // to opView: nothing new
	replyMalformed   = 2 // the request's body cannot be read
	replyUnsupported = 3 // this node does not know the operation
)

func replyText(code uint8) string {
	switch code {
	case replyOK:
		return "ok"
	case replySame:
		return "nothing new"
	case replyMalformed:
		return "request malformed"
	case replyUnsupported:
		return "operation not supported"
	default:
		return fmt.Sprintf("reply code %d", code)
	}
}

// serve answers a peer's request.
func (n *Node) serve(ctx context.Context, req mux.Request) mux.Reply {
	switch req.Op {
	case opView:
		return n.serveView(ctx, req)
	default:
		return mux.Reply{Code: replyUnsupported}
	}
}
