package peercache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/peercache/peercache/internal/mux"
	"github.com/peercache/peercache/internal/wire"
)

// Operations that one node asks of another. The numbers are fixed for ever.
const (
	opView    = 1  // the members, once they differ from what the asker knows
	opPing    = 2  // nothing: to see whether an answer comes
	opGet     = 3  // what is held of a key, loaded if need be
	opLent    = 4  // the outcome of a load that was lent to the asker
	opGetMany = 5  // opGet for several keys
	opWrite   = 6  // writes to be stamped
	opApply   = 7  // entries that their stamper sends to the other owners
	opPrepare = 8  // whether conditional writes may be committed
	opClear   = 9  // a cache to be cleared in some shards
	opFloor   = 10 // clear floors that their stamper sends to the other owners
	opSync    = 11 // all that is held of some shards
	opSettled = 12 // nothing: answered when the asker, who is leaving, is needed no more
	opCompare = 13 // how far the asker is with shards that both hold
	opHot     = 14 // keys that were read where reads go
	opForward = 15 // a request for another member, whom its sender does not reach
	opPacket  = 16 // a packet of gossip, where it does not go directly
	opLimits  = 17 // the bounds of the asker's caches
	opRenew   = 18 // until when a large write that came late may be stamped
)

// Codes of replies. The numbers are fixed for ever.
const (
	replyOK          = 0
	replySame        = 1  // to opView: nothing new
	replyMalformed   = 2  // the request's body cannot be read
	replyUnsupported = 3  // this node does not know the operation
	replyAbsent      = 4  // nothing is there
	replyEntry       = 5  // an entry follows
	replyError       = 6  // an error follows
	replyNotOwner    = 7  // the owners in the answering node's tables follow
	replyBulk        = 8  // the answer is large: the asker shall ask over a connection for bulk
	replyUnreached   = 9  // to opForward: the member that the request is for was not reached; why follows
	replyLater       = 10 // to opGetMany, of a key: there is no room left in this reply
)

// Codes of interim replies.
const (
	progressLoading = 1 // the key is being loaded
	progressLend    = 2 // the asker shall load it; the flight's id follows
	progressLate    = 3 // a large write took longer than it may be stamped: the sender shall say whether it still waits

	progressBulk = 255 // never sent: what a caller is told when the answer is large and is being fetched
)

func replyText(code uint8) string {
	names := [...]string{"ok", "nothing new", "request malformed", "operation not supported", "absent", "entry", "error", "not an owner", "too large for this connection", "member not reached", "no room in this reply"}
	if int(code) < len(names) {
		return names[code]
	}
	return fmt.Sprintf("reply code %d", code)
}

// serve answers a peer's request.
func (n *Node) serve(ctx context.Context, from mux.Identity, req mux.Request, progress func(mux.Reply) bool) mux.Reply {
	n.hlc.follow(req.Fields.Clock)
	n.compareTables(from, req.Fields.Digest)
	n.serving.Add(1)
	defer n.serving.Add(-1)
	if req.Op == opWrite || req.Op == opClear {
		if err := n.refuseSole(); err != nil {
			return errorReply(err)
		}
	}
	var reply mux.Reply
	switch req.Op {
	case opView:
		reply = n.serveView(ctx, req)
	case opPing:
		reply = n.servePing()
	case opGet:
		reply = n.serveGet(ctx, req, progress)
	case opLent:
		reply = n.serveLent(req)
	case opGetMany:
		reply = n.serveGetMany(ctx, req, progress)
	case opWrite:
		reply = n.serveWrite(ctx, req, progress)
	case opApply:
		reply = n.serveApply(ctx, from, req)
	case opPrepare:
		reply = n.servePrepare(ctx, from, req)
	case opClear:
		reply = n.serveClear(ctx, req)
	case opFloor:
		reply = n.serveFloor(from, req)
	case opSettled:
		reply = n.serveSettled(ctx, from)
	case opSync:
		reply = n.serveSync(ctx, from, req, progress)
	case opCompare:
		reply = n.serveCompare(from, req)
	case opHot:
		reply = n.serveHot(req)
	case opForward:
		return n.serveForward(ctx, from, req, progress) // signed by the member that the request is for
	case opPacket:
		reply = n.servePacket(from, req)
	case opLimits:
		reply = n.serveLimits(from, req)
	case opRenew:
		reply = n.serveRenew(req)
	default:
		return mux.Reply{Code: replyUnsupported}
	}
	n.sign(&reply)
	return reply
}

// servePing answers that this node lives, and which tables it sees.
func (n *Node) servePing() (reply mux.Reply) {
	reply.Fields.Digest = n.view.Load().digest
	return reply
}

// Modes of opGet.
const (
	getLookup   uint8 = iota // what this very node holds, tombstones included
	getStored                // what the key's owners hold, without loading
	getLoad                  // that, or what the loader gives
	getLeftover              // getLookup by who was away, for what is left of an earlier ownership as well
)

// A getRequest is the body of opGet.
type getRequest struct {
	mode    uint8
	canLoad bool // the asker has a loader and may be lent the load
	asked   bool // the owners before this one have been asked
	cache   string
	key     string
}

// asksHere reports whether only what this very node holds is asked for.
func (g *getRequest) asksHere() bool { return g.mode == getLookup || g.mode == getLeftover }

func (g *getRequest) append(b []byte) []byte {
	b = slices.Grow(b, 3+2*5+len(g.cache)+len(g.key))
	b = wire.AppendByte(b, g.mode)
	b = wire.AppendBool(b, g.canLoad)
	b = wire.AppendBool(b, g.asked)
	b = wire.AppendString(b, g.cache)
	return wire.AppendString(b, g.key)
}

func readGet(body []byte) (getRequest, error) {
	g, cache, key, err := parseGet(body)
	g.cache, g.key = string(cache), string(key)
	return g, err
}

// parseGet is readGet for those who need no copies: cache and key are parts of
// body.
func parseGet(body []byte) (g getRequest, cache, key []byte, err error) {
	r := wire.NewReader(body)
	g = getRequest{mode: r.Byte(), canLoad: r.Bool(), asked: r.Bool()}
	cache, key = r.Bytes(maxCacheName), r.Bytes(maxKeyBytes)
	if g.mode > getLeftover {
		r.Fail("mode of a get")
	}
	return g, cache, key, r.End()
}

func appendLend(b []byte, flight uint64) []byte { return wire.AppendUint64(b, flight) }

// A lentResult is the body of opLent.
type lentResult struct {
	cache  string
	key    string
	flight uint64
	loaded loaded
}

func (m *lentResult) encode() []byte {
	l := &m.loaded
	b := wire.AppendString(nil, m.cache)
	b = wire.AppendString(b, m.key)
	b = wire.AppendUint64(b, m.flight)
	b = wire.AppendBool(b, l.absent)
	b = wire.AppendUint16(b, l.tag)
	b = wire.AppendBool(b, l.ttl < 0)
	b = wire.AppendDuration(b, max(l.ttl, 0))
	b = appendError(b, l.err)
	return wire.AppendBytes(b, l.value)
}

func readLent(body []byte) (m lentResult, err error) {
	r := wire.NewReader(body)
	m = lentResult{cache: r.String(maxCacheName), key: r.String(maxKeyBytes), flight: r.Uint64()}
	l := &m.loaded
	l.absent, l.tag = r.Bool(), r.Uint16()
	drop := r.Bool()
	if l.ttl = r.Duration(); drop {
		l.ttl = -1
	}
	l.err = readError(&r)
	l.value = r.Bytes(maxValueLimit)
	return m, r.End()
}

// Kinds of errors on the wire. What is not among them travels as its text.
const (
	wireNoError uint8 = iota
	wireOther
	wireLoad         // *LoadError around a text
	wireLoadDeadline // *LoadError around context.DeadlineExceeded
	wireLoadCanceled // *LoadError around context.Canceled
	wireLoadSentinel // *LoadError around one of Options.Errors
	wireUnavailable
	wireTooLarge
	wireConflict
	wireClosed
	wireClock // errClock
)

const maxErrorText = 4 << 10

// A remoteError is an error as it came from another member: a sentinel where
// callers branch, and the text.
type remoteError struct {
	is   error // nil: none
	text string
}

// Error implements error.
func (e *remoteError) Error() string { return e.text }

// Unwrap returns the sentinel.
func (e *remoteError) Unwrap() error { return e.is }

// A sentinelError is a loader's error that had an identity where it was
// returned. The typed side puts the value of [Options].Errors in its place.
type sentinelError struct {
	index int    // in Options.Errors of the member that loaded
	name  string // the sentinel's own text there
	text  string // the error's
	err   error  // the error itself, in the process that loaded; else nil
}

// Error implements error.
func (e *sentinelError) Error() string { return e.text }

// Unwrap returns the error itself, where it is known.
func (e *sentinelError) Unwrap() error { return e.err }

func appendError(b []byte, err error) []byte {
	var load *LoadError
	var sentinel *sentinelError
	kind, member := wireOther, ""
	switch {
	case err == nil:
		return wire.AppendByte(b, wireNoError)
	case errors.As(err, &load):
		member = load.Member
		switch kind = wireLoad; {
		case errors.As(load.Err, &sentinel):
			kind = wireLoadSentinel
		case errors.Is(load.Err, context.DeadlineExceeded):
			kind = wireLoadDeadline
		case errors.Is(load.Err, context.Canceled):
			kind = wireLoadCanceled
		}
		err = load.Err
	case errors.Is(err, ErrTooLarge):
		kind = wireTooLarge
	case errors.Is(err, ErrConflict):
		kind = wireConflict
	case errors.Is(err, errClock):
		kind = wireClock
	case errors.Is(err, ErrUnavailable):
		kind = wireUnavailable
	case errors.Is(err, ErrClosed):
		kind = wireClosed
	}
	b = wire.AppendByte(b, kind)
	b = wire.AppendString(b, clip(member))
	b = wire.AppendString(b, clip(err.Error()))
	if sentinel != nil && kind == wireLoadSentinel {
		b = wire.AppendUvarint(b, uint64(sentinel.index))
		b = wire.AppendString(b, clip(sentinel.name))
	}
	return b
}

func clip(s string) string { return s[:min(len(s), maxErrorText)] }

func readError(r *wire.Reader) error {
	kind := r.Byte()
	if kind == wireNoError {
		return nil
	}
	member, text := r.String(maxErrorText), r.String(maxErrorText)
	switch kind {
	case wireLoad:
		return &LoadError{Member: member, Err: &remoteError{nil, text}}
	case wireLoadDeadline:
		return &LoadError{Member: member, Err: &remoteError{context.DeadlineExceeded, text}}
	case wireLoadCanceled:
		return &LoadError{Member: member, Err: &remoteError{context.Canceled, text}}
	case wireLoadSentinel:
		index := r.Uvarint()
		return &LoadError{Member: member, Err: &sentinelError{index: int(min(index, 1<<20)), name: r.String(maxErrorText), text: text}}
	case wireUnavailable:
		return &remoteError{ErrUnavailable, text}
	case wireTooLarge:
		return &remoteError{ErrTooLarge, text}
	case wireConflict:
		return &remoteError{ErrConflict, text}
	case wireClock:
		return &remoteError{errClock, text}
	case wireClosed:
		return &remoteError{ErrUnavailable, text} // that member is closed, not this node
	default:
		return &remoteError{nil, text}
	}
}

func errorReply(err error) mux.Reply {
	return mux.Reply{Code: replyError, Body: appendError(nil, err)}
}

// entryReply carries an entry. Its value is not copied.
func (n *Node) entryReply(e *entry) mux.Reply {
	return mux.Reply{Code: replyEntry, Body: n.appendEntryHead(make([]byte, 0, 64), e, len(e.value)), Tail: e.value}
}

// appendEntryHead appends what an entry with a value of some size is on the
// wire, but for the value, which comes after it.
func (n *Node) appendEntryHead(b []byte, e *entry, size int) []byte {
	head := *e
	head.value = nil
	t := n.timer(0)
	b = t.appendEntry(b, &head)
	return wire.AppendUvarint(b[:len(b)-1], uint64(size)) // in place of the length of no value
}

func (n *Node) resultReply(r result) mux.Reply {
	switch {
	case r.err != nil:
		return errorReply(r.err)
	case r.found || r.entry.flags != 0:
		return n.entryReply(&r.entry)
	default:
		return mux.Reply{Code: replyAbsent}
	}
}

func (n *Node) notOwnerReply(v *view, shard int) mux.Reply {
	// Those who will own it as well: of the others some may have left by now.
	owners := v.holdersOf(shard)
	b := wire.AppendUvarint(nil, uint64(len(owners)))
	for _, m := range owners {
		b = wire.AppendUint64(b, m.Incarnation)
		b = wire.AppendString(b, m.Addr)
	}
	return mux.Reply{Code: replyNotOwner, Body: b}
}

func readOwners(body []byte) ([]Member, error) {
	r := wire.NewReader(body)
	owners := make([]Member, r.Count(2*maxCopies, 9))
	for i := range owners {
		owners[i] = Member{Incarnation: r.Uint64(), Addr: r.String(maxAddrBytes)}
	}
	return owners, r.End()
}

// got is the answer to opGet.
type got struct {
	entry    entry
	held     bool     // entry is what the member holds, a tombstone even
	floor    Version  // when it was asked for what it holds, and that is nothing: what stands for what it forgot
	notOwner []Member // who owns the key in the member's tables
}

// callGet asks a member for a key. told, if not nil, is called with interim
// replies.
func (n *Node) callGet(ctx context.Context, m Member, sp *space, key string, mode uint8, asked bool, told func(mux.Reply)) (got, error) {
	g := getRequest{mode: mode, canLoad: mode == getLoad && sp.canLoad(), asked: asked, cache: sp.name, key: key}
	reply, err := n.peers.call(ctx, m, mux.Request{Op: opGet, Body: g.append(nil)}, told)
	if err != nil {
		return got{}, err
	}
	return n.readGot(m.Incarnation, &reply)
}

// readGot reads a member's answer to opGet.
func (n *Node) readGot(from uint64, reply *mux.Reply) (got, error) {
	switch reply.Code {
	case replyAbsent:
		r := wire.NewReader(reply.Body)
		if r.Len() == 0 {
			return got{}, nil
		}
		floor := readVersion(&r)
		return got{floor: floor}, r.End()
	case replyEntry:
		r, t := wire.NewReader(reply.Body), n.timer(from)
		e := t.readEntry(&r)
		return got{entry: e, held: true}, r.End()
	case replyNotOwner:
		owners, err := readOwners(reply.Body)
		return got{notOwner: owners}, err
	default:
		return got{}, replyFailure(*reply)
	}
}

// replyFailure makes an error of a reply that is no answer.
func replyFailure(reply mux.Reply) error {
	if reply.Code != replyError {
		return fmt.Errorf("%w: peer answers: %s", ErrUnavailable, replyText(reply.Code))
	}
	r := wire.NewReader(reply.Body)
	err := readError(&r)
	if bad := r.End(); bad != nil || err == nil {
		return fmt.Errorf("%w: peer answers with a malformed error", ErrUnavailable)
	}
	return &answeredError{err}
}

// An answeredError is what a member answered, as opposed to why it could not
// be asked.
type answeredError struct{ err error }

// Error implements error.
func (e *answeredError) Error() string { return e.err.Error() }

// Unwrap returns the answer.
func (e *answeredError) Unwrap() error { return e.err }

// lentTime is how long it may take without a sign of life to bring a load to its
// owner.
const lentTime = 5 * time.Second

// callLent brings a flight's owner what this process loaded for it.
func (n *Node) callLent(ctx context.Context, m Member, lent *lentResult) error {
	_, err := n.peers.callWithin(ctx, lentTime, m, mux.Request{Op: opLent, Body: lent.encode()})
	return err
}
