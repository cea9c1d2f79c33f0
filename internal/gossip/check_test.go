package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const someone = "00000000000000aa"

func alive(name string, ip net.IP, port int, meta string) []byte {
	return encode(kindAlive, "Incarnation", 1, "Node", name, "Addr", ip, "Port", port,
		"Meta", []byte(meta), "Vsn", []byte{1, 5, 5, 0, 0, 0})
}

// compound packs messages.
func compound(messages ...[]byte) []byte {
	b := []byte{kindCompound, byte(len(messages))}
	for _, m := range messages {
		b = binary.BigEndian.AppendUint16(b, uint16(len(m)))
	}
	return append(b, bytes.Join(messages, nil)...)
}

func withCRC(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kindCRC}, crc32.ChecksumIEEE(b)), b...)
}

func TestCheck(t *testing.T) {
	ping := encode(kindPing, "SeqNo", 300, "Node", someone)
	dead := encode(kindDead, "Incarnation", 9, "Node", someone, "From", someone)
	for name, c := range map[string]struct {
		packet []byte
		kinds  []byte // nil: refused
	}{
		"ping":                     {ping, []byte{kindPing}},
		"ack of ours":              {ackPacket(77), []byte{kindAck}},
		"with a checksum":          {withCRC(ping), []byte{kindPing}},
		"two":                      {compound(ping, dead), []byte{kindPing, kindDead}},
		"two with a checksum":      {withCRC(compound(ping, dead)), []byte{kindPing, kindDead}},
		"empty compound":           {compound(), []byte{}},
		"empty":                    {nil, nil},
		"wrong checksum":           {append(withCRC(ping), 0), nil},
		"checksum cut short":       {[]byte{kindCRC, 0, 0, 0}, nil},
		"two checksums":            {withCRC(withCRC(ping)), nil},
		"cut short":                {ping[:len(ping)-1], nil},
		"too long":                 {append(bytes.Clone(ping), 0xc0), nil},
		"compound in a compound":   {compound(compound(ping)), nil},
		"compound cut short":       {compound(ping)[:20], nil},
		"compound too long":        {append(compound(ping), 0), nil},
		"compound without sizes":   {[]byte{kindCompound, 200, 0, 0}, nil},
		"compound without count":   {[]byte{kindCompound}, nil},
		"empty part":               {compound(nil), nil},
		"state exchange":           {encode(kindPushPull, "Nodes", 0), nil},
		"user message":             {[]byte{8, 1, 2, 3}, nil},
		"compressed":               {encode(9, "Algo", 0, "Buf", []byte("x")), nil},
		"encrypted":                {[]byte{10, 0, 0, 0, 1, 0}, nil},
		"label":                    {[]byte{244, 1, 'x', kindPing, 0x80}, nil},
		"nested array":             {[]byte{kindPing, 0x81, 0xa1, 'x', 0x91, 0x01}, nil},
		"nested map":               {[]byte{kindPing, 0x81, 0xa1, 'x', 0x81, 0xa1, 'y', 0x01}, nil},
		"float":                    {[]byte{kindPing, 0x81, 0xa1, 'x', 0xca, 0, 0, 0, 0}, nil},
		"extension":                {[]byte{kindPing, 0x81, 0xa1, 'x', 0xd4, 1, 1}, nil},
		"number for a name":        {[]byte{kindPing, 0x81, 0x01, 0x01}, nil},
		"no map":                   {[]byte{kindPing, 0x93, 1, 2, 3}, nil},
		"nil":                      {[]byte{kindPing, 0xc0}, nil},
		"string longer than it is": {[]byte{kindPing, 0x81, 0xdb, 0xff, 0xff, 0xff, 0xff, 'x'}, nil},
		"map larger than it is":    {[]byte{kindPing, 0xde, 0xff, 0xff}, nil},
		"too large":                {make([]byte, MaxPacket+1), nil},
	} {
		t.Run(name, func(t *testing.T) {
			kinds := []byte{}
			err := check(c.packet, func(m message) { kinds = append(kinds, m.kind) })
			if c.kinds == nil {
				require.ErrorIs(t, err, errRefused)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.kinds, kinds)
		})
	}
	var got message
	require.NoError(t, check(dead, func(m message) { got = m }))
	require.True(t, got.left)
	require.EqualValues(t, 9, got.inc)
	require.Equal(t, someone, string(got.node))
	require.NoError(t, check(ackPacket(1<<31+5), func(m message) { got = m }))
	require.EqualValues(t, 1<<31+5, got.seq)
}

func TestCheckStream(t *testing.T) {
	state := encode(0, "Name", someone, "State", 3)[1:]
	header := func(nodes, user int) []byte {
		return encode(kindPushPull, "Nodes", nodes, "UserStateLen", user, "Join", true)
	}
	left := 0
	visit := func(m message) {
		if m.left && string(m.node) == someone {
			left++
		}
	}
	require.NoError(t, checkStream(append(append(header(2, 0), state...), state...), visit))
	require.Equal(t, 2, left)
	require.NoError(t, checkStream(encode(kindError, "Error", "no"), nil))
	for name, b := range map[string][]byte{
		"empty":              nil,
		"fewer than it says": append(header(2, 0), state...),
		"more than it says":  append(append(header(1, 0), state...), state...),
		"a million states":   header(1<<20, 0),
		"minus one state":    append([]byte{kindPushPull, 0x81, 0xa5}, "Nodes\xff"...),
		"user state":         header(0, 1),
		"user message":       encode(8, "UserMsgLen", 1<<24),
		"compressed":         encode(9, "Algo", 0, "Buf", []byte("x")),
		"encrypted":          {10, 0, 0, 0, 1, 0},
		"label":              {244, 1, 'x'},
		"suspicion":          encode(kindSuspect, "Node", someone),
		"too large":          make([]byte, MaxStream+1),
	} {
		require.ErrorIs(t, checkStream(b, nil), errRefused, name)
	}
}

// TestStreamIsBounded: what a peer announces is not allocated, and memberlist
// sees nothing before all of it is there and in order.
func TestStreamIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Gossip{table: newTable(someone, paceFor(time.Second, time.Minute))}
		for _, c := range []struct {
			sent string
			want error
		}{
			{"\xff\xff\xff\xffxyz", errRefused},
			{"\x00\x00\x00\x02" + "\x06\x81", errRefused},
			{"\x00\x00\x00\x09" + "\x06", io.EOF},
		} {
			a, b := net.Pipe()
			s, ok := g.transportForTest().streams.add(g, b, "")
			require.True(t, ok)
			go func() {
				a.Write([]byte(c.sent))
				a.Close()
			}()
			n, err := s.Read(make([]byte, 10))
			require.Zero(t, n)
			require.ErrorIs(t, err, c.want)
			s.Close()
		}
	})
}

func (g *Gossip) transportForTest() *transport { return newTransport(g) }

// TestForgedMembersAreRefused: an authenticated peer tells lies.
func TestForgedMembersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		all := n.cluster(3)
		liar := Peer{Name: all[1].name, Addr: all[1].addr}
		for _, b := range [][]byte{
			alive("no hex", dummyIP, 1, "x:1|"),
			alive("127.0.0.1", dummyIP, 1, "x:1|"),
			alive(someone, net.IPv4(10, 0, 0, 1).To4(), 1, "x:1|"), // nobody could correct it
			alive(someone, net.IPv4(127, 0, 0, 1).To16(), 1, "x:1|"),
			alive(someone, dummyIP, 2, "x:1|"),
			alive(someone, nil, 1, "x:1|"),
			alive(someone, dummyIP, 1, "no address"),
			alive(someone, dummyIP, 1, "x:1|"+string(make([]byte, MaxMeta))),
			alive(all[0].name, net.IPv4(10, 0, 0, 1).To4(), 7, "other"), // itself
			encode(kindDead, "Incarnation", 1, "Node", all[0].name, "From", liar.Name),
			encode(kindSuspect, "Incarnation", 1, "Node", all[2].name, "From", liar.Name),
			encode(kindPing, "SeqNo", 1, "Node", all[0].name),
			encode(kindPing, "SeqNo", 1, "Node", all[0].name, "SourceNode", "nobody"),
			encode(kindPing, "SeqNo", 1, "Node", all[0].name, "SourceNode", all[0].name),
			indirectPing("", ""),
			indirectPing(all[0].name, all[0].name),
			indirectPing(someone, all[2].name),
			encode(kindAck, "SeqNo", 1, "Payload", []byte{1, 2, 3}),
			encode(kindNack, "SeqNo", 1),
		} {
			all[0].Packet(liar, b)
			synctest.Wait()
		}
		n.holds(5*time.Second, all)
		for _, m := range all[0].Members() {
			require.NotEqual(t, "other", string(m.Meta))
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	_, err := Start(Config{Name: "x", Interval: time.Second})
	for _, field := range []string{"Name", "Meta", "AddrOf", "Link", "Timeout"} {
		require.ErrorContains(t, err, field)
	}
	_, err = Start(Config{
		Name: someone, Link: deafLink{}, AddrOf: addrOf,
		Meta: func() []byte { return make([]byte, MaxMeta+1) },
	})
	require.ErrorIs(t, err, ErrMeta)
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	text := slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})
	l := newLogger(slog.New(text))
	l.Printf("[DEBUG] memberlist: one %d", 1)
	l.Printf("[INFO] memberlist: two")
	l.Printf("[WARN] memberlist: three")
	l.Printf("[ERR] memberlist: four")
	l.Printf("[ERR] memberlist: %v", ErrClosed)
	l.Printf("five [x] six")
	require.Equal(t, `level=DEBUG msg="gossip: one 1"
level=INFO msg="gossip: two"
level=WARN msg="gossip: three"
level=WARN msg="gossip: four"
level=DEBUG msg="gossip: gossip: closed"
level=WARN msg="gossip: five [x] six"
`, out.String())
	newLogger(nil).Print("nothing")
}

// FuzzPacket feeds a member, through the check and without it being asked: what
// memberlist does with it must not panic.
func FuzzPacket(f *testing.F) {
	g := fuzzed(f)
	ping := encode(kindPing, "SeqNo", 300, "Node", someone, "SourceAddr", dummyIP, "SourcePort", 1, "SourceNode", someone)
	f.Add(ping)
	f.Add(withCRC(compound(ping, alive(someone, dummyIP, 1, "x:1|"))))
	f.Add(encode(kindDead, "Incarnation", 9, "Node", someone, "From", someone))
	f.Add(encode(kindSuspect, "Incarnation", 9, "Node", someone, "From", someone))
	f.Add(indirectPing(someone, someone))
	f.Add(ackPacket(1))
	f.Add(encode(kindNack, "SeqNo", 1))
	f.Add(encode(9, "Algo", 0, "Buf", []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		g.Packet(Peer{Name: someone, Addr: "x:1"}, b)
		for len(g.inbox) > 0 {
			time.Sleep(10 * time.Microsecond)
		}
		g.transport.inject(0) // the one before is done with
		g.transport.inject(0)
		require.NotEmpty(t, g.Members())
	})
}

// FuzzStream is FuzzPacket for streams.
func FuzzStream(f *testing.F) {
	g := fuzzed(f)
	state := encode(0, "Name", someone, "Addr", dummyIP, "Port", 1, "Meta", []byte("x:1|"),
		"Incarnation", 1, "State", 0, "Vsn", []byte{1, 5, 5, 0, 0, 0})[1:]
	f.Add(append(encode(kindPushPull, "Nodes", 1, "UserStateLen", 0, "Join", true), state...))
	f.Add(encode(kindPing, "SeqNo", 1, "Node", "00000000000000ff"))
	f.Add(encode(kindError, "Error", "no"))
	f.Add([]byte{244, 1, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		mine, theirs := net.Pipe()
		g.Stream(theirs)
		defer mine.Close()
		mine.SetDeadline(time.Now().Add(time.Second))
		mine.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		mine.Write(b)
		io.Copy(io.Discard, mine)
		require.NotEmpty(t, g.Members())
	})
}

// fuzzed starts a member that talks to nobody.
func fuzzed(f *testing.F) *Gossip {
	g, err := Start(Config{
		Name: "00000000000000ff", Link: nowhere{}, AddrOf: addrOf,
		Meta:     func() []byte { return []byte("self:1|") },
		Interval: time.Second, Timeout: 5 * time.Second,
	})
	require.NoError(f, err)
	f.Cleanup(g.Close)
	return g
}

type nowhere struct{}

func (nowhere) Send(Peer, []byte) error                      { return nil }
func (nowhere) Open(context.Context, Peer) (net.Conn, error) { return nil, errRefusedConn }
