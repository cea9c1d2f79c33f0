package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/peercache/peercache/internal/wire"
)

// local returns a side named by its incarnation.
func local(incarnation uint64, mutate ...func(*Local)) Local {
	l := Local{Self: Identity{
		Cluster: "test", Name: string(rune('a' - 1 + incarnation)), Incarnation: incarnation, Addr: "host:1", Shards: 4096,
	}, Secret: "secret", Features: 6}
	for _, m := range mutate {
		m(&l)
	}
	return l
}

// outcome is what both sides of a handshake get.
type outcome struct {
	client, server       *Session
	clientErr, serverErr error
}

func (o *outcome) clientCode() HandshakeCode { return codeOf(o.clientErr) }
func (o *outcome) serverCode() HandshakeCode { return codeOf(o.serverErr) }

func codeOf(err error) HandshakeCode { return err.(*HandshakeError).Code }

// shake runs a handshake over nc, an end for each side.
func shake(cn, sn net.Conn, client, server Local, purpose Purpose, expect uint64, admit func(Identity, Purpose) error) (o outcome) {
	deadline := time.Now().Add(5 * time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		if o.server, o.serverErr = ServerHandshake(sn, deadline, server, admit); o.serverErr != nil {
			sn.Close()
		}
	})
	if o.client, o.clientErr = ClientHandshake(cn, deadline, client, purpose, expect); o.clientErr != nil {
		cn.Close()
	}
	wg.Wait()
	return o
}

func shakePipe(client, server Local, purpose Purpose, expect uint64, admit func(Identity, Purpose) error) outcome {
	cn, sn := net.Pipe()
	defer cn.Close()
	defer sn.Close()
	return shake(cn, sn, client, server, purpose, expect, admit)
}

func TestHandshake(t *testing.T) {
	cn, sn := net.Pipe()
	defer cn.Close()
	defer sn.Close()
	client, server := local(1), local(2)
	client.Features = 12
	o := shake(cn, sn, client, server, PurposeBulk, 2, func(id Identity, p Purpose) error {
		require.Equal(t, client.Self, id)
		require.Equal(t, PurposeBulk, p)
		return nil
	})
	require.NoError(t, o.clientErr)
	require.NoError(t, o.serverErr)
	for _, s := range []*Session{o.client, o.server} {
		require.Equal(t, PurposeBulk, s.Purpose)
		require.Equal(t, uint16(Version1), s.Version)
		require.Equal(t, uint64(4), s.Features)
		require.Less(t, s.ClockOffset.Abs(), time.Second)
		require.GreaterOrEqual(t, s.RTT, time.Duration(0))
	}
	require.Equal(t, server.Self, o.client.Peer)
	require.Equal(t, client.Self, o.server.Peer)
	// It read nothing beyond, and left no deadline.
	c, s := New(cn, Options{}), New(sn, Options{Serve: echo})
	defer c.Close()
	defer s.Close()
	_, err := c.Call(t.Context(), Request{}, nil)
	require.NoError(t, err)
}

func TestHandshakeTable(t *testing.T) {
	secrets := func(secret string, accept ...string) func(*Local) {
		return func(l *Local) { l.Secret, l.AcceptSecrets = secret, accept }
	}
	versions := func(low, high uint16) func(*Local) {
		return func(l *Local) { l.MinVersion, l.MaxVersion = low, high }
	}
	type sides struct{ client, server HandshakeCode }
	for name, c := range map[string]struct {
		client, server Local
		purpose        Purpose
		expect         uint64
		admit          error
		version        uint16
		fails          *sides // nil: it succeeds
		remote         bool   // of the client's error
	}{
		"no secrets":            {client: local(1, secrets("")), server: local(2, secrets(""))},
		"wrong secret":          {client: local(1), server: local(2, secrets("other")), fails: &sides{RefusedSecret, RefusedSecret}, remote: true},
		"only the server has":   {client: local(1, secrets("")), server: local(2), fails: &sides{RefusedSecret, RefusedSecret}, remote: true},
		"only the client has":   {client: local(1), server: local(2, secrets("")), fails: &sides{RefusedSecret, RefusedSecret}, remote: true},
		"none, but accepts":     {client: local(1, secrets("", "secret")), server: local(2), fails: &sides{RefusedSecret, RefusedSecret}, remote: true},
		"accepts the empty one": {client: local(1, secrets("x", "")), server: local(2, secrets("y", "")), fails: &sides{RefusedSecret, RefusedSecret}, remote: true},
		"rotation, both know both": {client: local(1, secrets("new", "old")),
			server: local(2, secrets("old", "older", "new"))},
		"rotation, other way": {client: local(1, secrets("old", "new")), server: local(2, secrets("new", "old"))},
		"rotation, client does not know": {client: local(1, secrets("old")), server: local(2, secrets("new", "old")),
			fails: &sides{RefusedSecret, 255}},
		"rotation, server does not know": {client: local(1, secrets("new", "old")), server: local(2, secrets("old")),
			fails: &sides{RefusedSecret, RefusedSecret}, remote: true},

		"highest common version": {client: local(1, versions(1, 5)), server: local(2, versions(3, 9)), version: 5},
		"server is older":        {client: local(1, versions(2, 7)), server: local(2, versions(1, 2)), version: 2},
		"client is too old":      {client: local(1, versions(1, 2)), server: local(2, versions(3, 4)), fails: &sides{RefusedVersion, RefusedVersion}, remote: true},
		"client is too new":      {client: local(1, versions(5, 6)), server: local(2, versions(3, 4)), fails: &sides{RefusedVersion, RefusedVersion}, remote: true},
		"expected incarnation":   {client: local(1), server: local(2), expect: 2},
		"another incarnation":    {client: local(1), server: local(2), expect: 3, fails: &sides{RefusedIncarnation, RefusedIncarnation}, remote: true},
		"self":                   {client: local(1), server: local(1), fails: &sides{RefusedSelf, RefusedSelf}, remote: true},
		"self, expected":         {client: local(1), server: local(1), expect: 1, fails: &sides{RefusedSelf, RefusedSelf}, remote: true},
		"self, probed":           {client: local(1), server: local(1), purpose: PurposeProbe},
		"another, probed":        {client: local(1), server: local(2), purpose: PurposeProbe, expect: 1, fails: &sides{RefusedIncarnation, RefusedIncarnation}, remote: true},
		"another cluster":        {client: local(1, func(l *Local) { l.Self.Cluster = "prod" }), server: local(2), fails: &sides{RefusedCluster, RefusedCluster}, remote: true},
		"another number of shards": {client: local(1, func(l *Local) { l.Self.Shards = 1024 }), server: local(2), fails: &sides{RefusedShards, RefusedShards},
			remote: true},
		"unknown purpose":   {client: local(1), server: local(2), purpose: 99, fails: &sides{RefusedPurpose, RefusedPurpose}, remote: true},
		"busy":              {client: local(1), server: local(2), admit: Refuse(RefusedBusy, "full"), fails: &sides{RefusedBusy, RefusedBusy}, remote: true},
		"leaving":           {client: local(1), server: local(2), admit: Refuse(RefusedLeaving, ""), fails: &sides{RefusedLeaving, RefusedLeaving}, remote: true},
		"admit has a word":  {client: local(1), server: local(2), admit: errors.New("no\n\x1b[31mway"), fails: &sides{RefusedOther, RefusedOther}, remote: true},
		"the longest names": {client: local(1, longNames), server: local(2, longNames)},
		"refusal of the longest names": {client: local(1, longNames), server: local(2, longNames, func(l *Local) { l.Self.Cluster = "x" }),
			fails: &sides{RefusedCluster, RefusedCluster}, remote: true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.purpose == 0 {
				c.purpose = PurposeCalls
			}
			var admit func(Identity, Purpose) error
			if c.admit != nil {
				admit = func(Identity, Purpose) error { return c.admit }
			}
			o := shakePipe(c.client, c.server, c.purpose, c.expect, admit)
			if c.fails == nil {
				require.NoError(t, o.clientErr)
				require.NoError(t, o.serverErr)
				require.Equal(t, c.purpose, o.server.Purpose)
				if c.version != 0 {
					require.Equal(t, c.version, o.client.Version)
					require.Equal(t, c.version, o.server.Version)
				}
				return
			}
			require.Nil(t, o.client)
			require.Equal(t, c.fails.client, o.clientCode(), o.clientErr)
			var ce *HandshakeError
			require.ErrorAs(t, o.clientErr, &ce)
			require.Equal(t, c.remote, ce.Remote)
			require.Equal(t, c.server.Self.Incarnation, ce.Peer.Incarnation, "whom it met")
			require.Equal(t, c.server.Self.Name, ce.Peer.Name)
			require.NotContains(t, ce.Error(), "\x1b")
			if c.fails.server == 255 {
				if o.serverErr != nil { // it may notice that the client hung up
					require.Equal(t, Broken, o.serverCode())
				}
				return
			}
			require.Nil(t, o.server)
			require.Equal(t, c.fails.server, o.serverCode(), o.serverErr)
			require.False(t, o.serverErr.(*HandshakeError).Remote)
			if c.fails.server != RefusedVersion {
				require.Equal(t, c.client.Self, o.serverErr.(*HandshakeError).Peer)
			}
		})
	}
}

func longNames(l *Local) {
	long := string(bytes.Repeat([]byte{0}, maxIdentity)) // quoted it is four times as long
	l.Self.Cluster, l.Self.Name, l.Self.Addr = long, long, long
}

func TestHandshakeNamesTooLong(t *testing.T) {
	o := shakePipe(local(1, func(l *Local) { l.Self.Name = string(make([]byte, 256)) }), local(2), PurposeCalls, 0, nil)
	require.Equal(t, RefusedOther, o.clientCode())
	require.Equal(t, Broken, o.serverCode())
}

// conversation is a recorded handshake: what each side sent.
type conversation struct{ client, server []byte }

// recorder notes what is written.
type recorder struct {
	net.Conn
	to *[]byte
}

func (r recorder) Write(b []byte) (int, error) {
	*r.to = append(*r.to, b...)
	return r.Conn.Write(b)
}

func record(t testing.TB, client, server Local) (c conversation) {
	cn, sn := net.Pipe()
	defer cn.Close()
	defer sn.Close()
	o := shake(recorder{cn, &c.client}, recorder{sn, &c.server}, client, server, PurposeCalls, 0, nil)
	require.NoError(t, o.clientErr)
	require.NoError(t, o.serverErr)
	return c
}

// play writes data to nc, reads what comes, and closes it in the end.
func play(nc net.Conn, data []byte) (got []byte) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = nc.Write(data) })
	buf := make([]byte, 4096)
	for {
		n, err := nc.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			break
		}
	}
	nc.Close()
	wg.Wait()
	return got
}

// facing runs f, a side of a handshake, against recorded data, after which
// the recording hangs up if it is asked to.
func facing(data []byte, hangUp bool, f func(nc net.Conn) error) (got []byte, err error) {
	a, b := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if hangUp {
			var rec []byte
			wg.Go(func() {
				buf := make([]byte, 4096)
				for {
					n, err := b.Read(buf)
					rec = append(rec, buf[:n]...)
					if err != nil {
						return
					}
				}
			})
			_, _ = b.Write(data)
			b.Close()
			return
		}
		got = play(b, data)
	})
	err = f(a)
	a.Close()
	wg.Wait()
	return got, err
}

func asServer(l Local) func(net.Conn) error {
	return func(nc net.Conn) error {
		_, err := ServerHandshake(nc, time.Now().Add(time.Second), l, nil)
		return err
	}
}

func asClient(l Local) func(net.Conn) error {
	return func(nc net.Conn) error {
		_, err := ClientHandshake(nc, time.Now().Add(time.Second), l, PurposeCalls, 0)
		return err
	}
}

// TestReplay: what a client once said proves nothing later, nor does what a
// server said.
func TestReplay(t *testing.T) {
	c := record(t, local(1), local(2))
	got, err := facing(c.client, false, asServer(local(2)))
	require.Equal(t, RefusedSecret, codeOf(err))
	require.False(t, bytes.Contains(got, c.server[len(c.server)-43:]), "nor is the server's proof sent")
	_, err = facing(c.server, false, asClient(local(1)))
	require.Equal(t, RefusedSecret, codeOf(err))
	require.False(t, err.(*HandshakeError).Remote)
}

// TestReflection: a stranger that sends each side its own words back.
func TestReflection(t *testing.T) {
	mirror := func(turn func([]byte) []byte) func(side func(net.Conn) error) error {
		return func(side func(net.Conn) error) error {
			a, b := net.Pipe()
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					kind, body, err := anyMessage(b)
					if err != nil {
						return
					}
					if sendMessage(b, turn([]byte{kind})[0], body) != nil {
						return
					}
				}
			})
			err := side(a)
			a.Close()
			b.Close()
			wg.Wait()
			return err
		}
	}
	// As they are, and with the types made to fit.
	plain := mirror(func(b []byte) []byte { return b })
	fit := mirror(func(b []byte) []byte {
		return []byte{map[byte]byte{msgClientHello: msgServerHello, msgServerHello: msgProof, msgProof: msgAccept}[b[0]]}
	})
	require.Equal(t, RefusedMalformed, codeOf(plain(asClient(local(1)))))
	require.Equal(t, RefusedSelf, codeOf(fit(asClient(local(1)))))

	// The stranger takes another incarnation in the hello, and reflects the
	// client's proof as the server's.
	a, b := net.Pipe()
	defer b.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, body, _ := anyMessage(b)
		var h hello
		_, _ = h.parse(body, func(uint16, uint16) bool { return true })
		h.id.Incarnation, h.max = 9, h.min
		_ = sendMessage(b, msgServerHello, h.append(nil))
		_, body, _ = anyMessage(b)
		_ = sendMessage(b, msgAccept, body)
	})
	err := asClient(local(1))(a)
	a.Close()
	wg.Wait()
	require.Equal(t, RefusedSecret, codeOf(err))
	require.False(t, err.(*HandshakeError).Remote)
}

// TestRelayedToAnother: a stranger between a client and two servers cannot use
// the proof for one at the other.
func TestRelayedToAnother(t *testing.T) {
	// The client believes that it talks to 2; the stranger passes all on to 3,
	// under 2's name.
	ca, cb := net.Pipe()
	sa, sb := net.Pipe()
	var wg sync.WaitGroup
	var serverErr error
	wg.Go(func() { serverErr = asServer(local(3))(sb); sb.Close() })
	wg.Go(func() {
		defer cb.Close()
		defer sa.Close()
		_, body, _ := anyMessage(cb)
		_ = sendMessage(sa, msgClientHello, body)
		_, body, _ = anyMessage(sa)
		var h hello
		_, _ = h.parse(body, func(uint16, uint16) bool { return true })
		h.id.Incarnation = 2
		_ = sendMessage(cb, msgServerHello, h.append(nil))
		kind, body, err := anyMessage(cb)
		if err == nil {
			_ = sendMessage(sa, kind, body)
			_, _, _ = anyMessage(sa)
		}
	})
	err := asClient(local(1))(ca)
	ca.Close()
	wg.Wait()
	require.Error(t, err)
	require.Equal(t, RefusedSecret, codeOf(serverErr))
}

// anyMessage reads a message of any type.
func anyMessage(nc net.Conn) (byte, []byte, error) {
	var head [3]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return 0, nil, err
	}
	body := make([]byte, int(head[0])<<8+int(head[1])-1)
	_, err := io.ReadFull(nc, body)
	return head[2], body, err
}

// TestProofCoversEverything: no byte of the hellos, nor the role, the version
// or the clock can be another without the proof being another.
func TestProofCoversEverything(t *testing.T) {
	h := hello{min: 1, max: 1, purpose: PurposeCalls, id: local(1).Self}
	a, b := h.append(nil), h.append(nil)
	sums := map[string]bool{}
	add := func(sum []byte) {
		require.Len(t, sum, 32)
		require.False(t, sums[string(sum)])
		sums[string(sum)] = true
	}
	add(prove("s", roleClient, 1, a, b, 0))
	add(prove("t", roleClient, 1, a, b, 0))
	add(prove("s", roleServer, 1, a, b, 0))
	add(prove("s", roleClient, 2, a, b, 0))
	add(prove("s", roleClient, 1, a, b, 1))
	add(prove("s", roleClient, 1, append(bytes.Clone(a), b[0]), b[1:], 0))
	for i := range a {
		a[i]++
		add(prove("s", roleClient, 1, a, b, 0))
		add(prove("s", roleClient, 1, b, a, 0))
		a[i]--
	}
	require.Nil(t, prove("", roleClient, 1, a, b, 0))
}

// TestTruncated: a conversation that ends anywhere is an error on the side
// that still waited, and nothing else.
func TestTruncated(t *testing.T) {
	c := record(t, local(1), local(2))
	for i := range c.client {
		_, err := facing(c.client[:i], true, asServer(local(2)))
		require.Error(t, err)
		require.Contains(t, []HandshakeCode{Broken}, codeOf(err), "%d: %v", i, err)
	}
	for i := range c.server {
		_, err := facing(c.server[:i], true, asClient(local(1)))
		require.Error(t, err)
		require.Equal(t, Broken, codeOf(err), "%d: %v", i, err)
	}
}

// TestSlow: whoever dribbles is cut off at the deadline, on either side.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := record(t, local(1), local(2))
		for _, side := range []struct {
			data []byte
			f    func(net.Conn) error
		}{{c.client, asServer(local(2))}, {c.server, asClient(local(1))}} {
			a, b := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, b) }()
			go func() {
				for i := range side.data {
					if _, err := b.Write(side.data[i : i+1]); err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			}()
			begin := time.Now()
			err := side.f(a)
			require.Equal(t, Broken, codeOf(err))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, time.Second, time.Since(begin))
			a.Close()
			b.Close()
			time.Sleep(time.Second)
		}
	})
}

// TestStrangers: what is no handshake gets no answer.
func TestStrangers(t *testing.T) {
	for _, data := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"\x00\x00", "\x10\x01", "\xff\xff",
		"\x00\x01\x07",
		"\x00\x0a\x01notmagic!",
		"\x00\x09\x01peercach",
		"\x00\x03\x05\x01\x00", // a refusal cut short
	} {
		got, err := facing([]byte(data), false, asServer(local(2)))
		require.Equal(t, RefusedMalformed, codeOf(err), "%q: %v", data, err)
		require.Empty(t, got)
	}
}

// TestFutureHello: a later version may add to a hello; the addition is proven.
func TestFutureHello(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = asServer(local(2))(b); b.Close() })
	h := hello{min: 1, max: 3, purpose: PurposeCalls, secret: true, id: local(1).Self}
	mine := wire.AppendString(h.append(nil), "and more")
	require.Nil(t, sendMessage(a, msgClientHello, mine))
	_, theirs, _ := anyMessage(a)
	p := proof{clock: 5, sum: prove("secret", roleClient, 1, mine, theirs, 5)}
	require.Nil(t, sendMessage(a, msgProof, wire.AppendString(p.append(nil), "and more")))
	kind, _, _ := anyMessage(a)
	require.Equal(t, byte(msgAccept), kind)
	wg.Wait()
	require.NoError(t, err)
}

// slowWire delays what is written.
type slowWire struct {
	net.Conn
	delay time.Duration
}

func (s slowWire) Write(b []byte) (int, error) {
	time.Sleep(s.delay)
	return s.Conn.Write(b)
}

// TestClocks: both sides learn how far the other's clock is ahead, to within
// half of the round trip.
func TestClocks(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Hour, -3 * time.Second, -200 * 365 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			server := local(2)
			server.Now = func() time.Time { return time.Now().Add(ahead) }
			cn, sn := net.Pipe()
			defer cn.Close()
			defer sn.Close()
			o := shake(slowWire{cn, 30 * time.Millisecond}, slowWire{sn, 10 * time.Millisecond}, local(1), server, PurposeCalls, 0, nil)
			require.NoError(t, o.clientErr)
			require.NoError(t, o.serverErr)
			want := min(max(ahead, -maxClockDiff), maxClockDiff)
			require.Equal(t, 40*time.Millisecond, o.client.RTT)
			require.Equal(t, 40*time.Millisecond, o.server.RTT)
			require.InDelta(t, float64(want), float64(o.client.ClockOffset), float64(o.client.RTT/2))
			require.InDelta(t, float64(-want), float64(o.server.ClockOffset), float64(o.server.RTT/2))
		})
	}
	// Readings from the network cannot overflow.
	require.Equal(t, maxClockDiff, clockDiff(1<<62, 0))
	require.Equal(t, -maxClockDiff, clockDiff(0, 1<<62))
}

func TestHandshakeErrorText(t *testing.T) {
	require.Equal(t, "mux: handshake: refused by the other side: secrets differ: why",
		(&HandshakeError{Code: RefusedSecret, Text: "why", Remote: true}).Error())
	require.Equal(t, "mux: handshake: connection broke: EOF", (&HandshakeError{Err: io.EOF}).Error())
	require.Equal(t, "code 99", HandshakeCode(99).String())
	require.Equal(t, "refused", RefusedOther.String())
	require.Equal(t, "probe", PurposeProbe.String())
	require.Equal(t, "purpose 9", Purpose(9).String())
}
