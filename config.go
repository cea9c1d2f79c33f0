package peercache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// Defaults and bounds of [Config].
const (
	defaultPath          = "/_peercache/"
	defaultCopies        = 2
	defaultWeight        = 1
	defaultMaxBytes      = 256 << 20
	defaultMaxValueBytes = 16 << 20
	defaultInterval      = 200 * time.Millisecond
	defaultTimeout       = 2 * time.Second

	maxNameBytes  = 128
	maxZoneBytes  = 64
	maxHostBytes  = 253 // as long as a DNS name may be
	maxAddrBytes  = maxHostBytes + len(":65535")
	maxWeight     = 1 << 16
	maxCopies     = 16
	minMaxBytes   = 64 << 10
	maxValueLimit = 1 << 30
	minInterval   = 10 * time.Millisecond
	maxInterval   = time.Minute
	maxTimeout    = time.Hour
	maxPathBytes  = 255
)

// A Config says how a node listens, whom it joins and how much it holds. The
// zero Config is a node alone: a cache of this process only.
//
// Start copies it; changes made later have no effect.
type Config struct {
	// Name is what people call this node, at most 128 bytes. Default: the
	// host name. Two nodes may have one name; what tells members apart is
	// [Member].Incarnation, drawn anew at each start.
	Name string

	// Listen is the TCP address to listen on, such as ":7600" or
	// "127.0.0.1:0", where port 0 picks a free one. It and Listener exclude
	// each other.
	Listen string

	// Listener is used instead of Listen. It is the node's: also when Start
	// fails it is closed.
	Listener net.Listener

	// Advertise is the host:port that peers dial. Default: the listener's
	// address, with an address of this host where the listener has none.
	// The host has at most 253 bytes. Members tell each other at most 400
	// bytes of themselves: with Advertise, Name and Zone all near their
	// bounds, Start fails.
	//
	// With neither Listen nor Listener the caller serves the [Node] (an
	// [net/http.Handler]) at Path in a server of its own. The node
	// announces itself once its own incarnation answers at Advertise, and
	// until then uses the cluster without being a part of it. While it knows
	// of no member it keeps what it loads by itself and takes no writes.
	Advertise string

	// Path is the base of all that peers say to each other. It begins and
	// ends with a slash and has at most 255 bytes; default "/_peercache/". It
	// must be the same on all members.
	Path string

	// Join has the host:port of any members. A host name means all of its
	// addresses, and is looked up again and again for as long as the node
	// lives. This node's own address may be among them. Members that are
	// not there, or not yet, are no error.
	Join []string

	// Discover returns addresses as in Join. It is asked at the start and
	// then regularly, one call at a time; its ctx ends after 3 seconds or
	// with the node, and Close waits until it has returned. An error keeps
	// what it said before, and is in [Stats].DiscoverErr.
	Discover func(ctx context.Context) ([]string, error)

	// Client makes a node that uses the cluster and is no part of it: it
	// owns no shard, needs no listener, and no member knows its name. For
	// command-line tools and batch jobs.
	Client bool

	// Zone is where this node is, at most 64 bytes. The copies of a shard
	// go to different zones where they can. Empty: not known.
	Zone string

	// Weight is this node's share of the shards relative to the others'.
	// 0: the default, 1. At most 65,536.
	Weight int

	// Copies is how many members hold each shard, the primary included.
	// 0: the default, 2. At most 16. The greatest that any member announces
	// counts for all, so that it can be raised by a rolling restart.
	Copies int

	// MaxBytes bounds the memory of all caches of this node. 0: the
	// default, 256 MiB. At least 64 KiB. See [Node.SetMaxBytes]. Garbage of
	// the program comes on top, and Go lets it grow as large as what lives:
	// package lru says which GOMEMLIMIT goes with a large bound.
	MaxBytes int64

	// MaxValueBytes is the greatest size of one encoded value, at most
	// 1 GiB. 0: the default, 16 MiB. Whatever is said here, a value is at
	// most a quarter of MaxBytes.
	//
	// Members announce what they keep. For what is written the smallest
	// counts: a Set beyond it fails with [ErrTooLarge] at once, on every
	// node, so that the bound is raised when the last member has been
	// restarted with it. What a loader returns is bounded by the node that
	// runs it; a member that keeps less hands it out and holds no copy.
	// What was written before such a member joined is, on that member, as
	// if it had been evicted.
	MaxValueBytes int

	// Secret is shared by the members of a cluster. Both ends of every
	// connection prove that they know it, without sending it. Empty: none
	// is asked for. It is never printed or logged. It does not hide what is
	// sent: TLS does.
	Secret string

	// AcceptSecrets are accepted from peers beside Secret. To change a
	// cluster's secret by rolling restarts: accept the new one everywhere,
	// then make it Secret and accept the old one, then forget the old one.
	AcceptSecrets []string

	// TLS is used for both ends of peer connections: by the listener, and
	// when dialing, where an empty ServerName means the dialed host. Nil:
	// plain TCP. For mutual TLS set ClientAuth, ClientCAs and RootCAs.
	// Start clones it.
	TLS *tls.Config

	// Heartbeat sets how soon a dead peer is noticed.
	Heartbeat Heartbeat

	// Logger gets what an operator may want to know: members that come and
	// go, addresses that do not answer and why. Nil: silent; [Node.Stats]
	// tells the same facts.
	Logger *slog.Logger

	// Events are called when members and shards change. Nil: none.
	Events *Events

	// DialContext makes the TCP connections to peers. Nil: a [net.Dialer].
	// When it is given, host names in Join are handed to it as they are
	// instead of being looked up.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// A Heartbeat sets how members watch each other. The zero Heartbeat takes a
// dead peer out of every member's table within 3 seconds. All members should
// have the same.
type Heartbeat struct {
	// Interval is the time between two probes that a member sends; each
	// goes to one other member. 0: 200 ms. At least 10 ms, at most a minute.
	Interval time.Duration

	// Timeout is about how long a member may be silent before the others
	// take it out of the table, and how long a connection may carry nothing
	// before it is made anew. 0: 2 s, or ten Intervals if that is longer.
	// At least five Intervals, at most an hour.
	Timeout time.Duration
}

// String describes the configuration without its secrets.
func (c Config) String() string {
	secret := "none"
	if c.Secret != "" {
		secret = "set"
	}
	return fmt.Sprintf("peercache.Config{Name:%q Listen:%q Advertise:%q Path:%q Join:%q Client:%v Zone:%q Weight:%d Copies:%d MaxBytes:%d MaxValueBytes:%d Secret:%s TLS:%v Heartbeat:%v}",
		c.Name, c.Listen, c.Advertise, c.Path, c.Join, c.Client, c.Zone, c.Weight, c.Copies, c.MaxBytes, c.MaxValueBytes, secret, c.TLS != nil, c.Heartbeat)
}

// Format prints [Config.String], whatever the verb: no secret for %#v either.
func (c Config) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue is [Config.String], for package log/slog.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// listens reports whether the node accepts connections itself.
func (c *Config) listens() bool { return c.Listen != "" || c.Listener != nil }

// alone reports whether the node can neither be reached nor reaches anybody.
func (c *Config) alone() bool { return !c.listens() && c.Advertise == "" && !c.Client }

// complete returns a copy of c with defaults for all that is zero, or a
// *ConfigError with every fault.
func (c Config) complete() (Config, error) {
	c.fillDefaults()
	faults := c.faults()
	if len(faults) > 0 {
		return c, &ConfigError{Faults: faults}
	}
	return c, nil
}

func (c *Config) fillDefaults() {
	c.Join = append([]string(nil), c.Join...)
	c.AcceptSecrets = append([]string(nil), c.AcceptSecrets...)
	if c.Name == "" {
		c.Name, _ = os.Hostname()
		c.Name = c.Name[:min(len(c.Name), maxNameBytes)]
	}
	if c.Path == "" {
		c.Path = defaultPath
	}
	if c.Weight == 0 {
		c.Weight = defaultWeight
	}
	if c.Copies == 0 {
		c.Copies = defaultCopies
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = defaultMaxValueBytes
	}
	if c.Heartbeat.Interval == 0 {
		c.Heartbeat.Interval = defaultInterval
	}
	if c.Heartbeat.Timeout == 0 {
		c.Heartbeat.Timeout = max(defaultTimeout, 10*c.Heartbeat.Interval)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		// A connection is upgraded from HTTP/1.1; HTTP/2 cannot be.
		c.TLS.NextProtos = []string{"http/1.1"}
	}
}

// faults lists what is wrong, each line beginning with the field's name.
func (c *Config) faults() []string {
	var faults []string
	fault := func(field, format string, args ...any) {
		faults = append(faults, field+": "+fmt.Sprintf(format, args...))
	}
	between := func(field string, v, least, most int64) {
		if v < least || v > most {
			fault(field, "%d is not between %d and %d", v, least, most)
		}
	}

	if c.Listen != "" && c.Listener != nil {
		fault("Listen", "given together with Listener")
	}
	if c.Listen != "" {
		if _, port, err := net.SplitHostPort(c.Listen); err != nil {
			fault("Listen", "%v", err)
		} else if _, err := net.LookupPort("tcp", port); err != nil {
			fault("Listen", "bad port %q", port)
		}
	}
	if c.Advertise != "" {
		if err := checkDialable(c.Advertise); err != nil {
			fault("Advertise", "%v", err)
		}
	}
	for i, addr := range c.Join {
		if err := checkHostPort(addr); err != nil {
			fault(fmt.Sprintf("Join[%d]", i), "%v", err)
		}
	}
	seeds := len(c.Join) > 0 || c.Discover != nil
	switch {
	case c.Client && (c.listens() || c.Advertise != ""):
		fault("Client", "a Client is not reached by others: give no Listen, Listener or Advertise")
	case c.Client && !seeds:
		fault("Client", "a Client needs Join or Discover")
	case c.alone() && seeds:
		fault("Listen", "Join or Discover given, but peers could not reach this node: give Listen, Listener or Advertise, or make it a Client")
	}

	if len(c.Path) > maxPathBytes {
		fault("Path", "%d bytes, at most %d are possible", len(c.Path), maxPathBytes)
	} else if err := checkPath(c.Path); err != nil {
		fault("Path", "%v", err)
	}
	if len(c.Name) > maxNameBytes {
		fault("Name", "%d bytes, at most %d are possible", len(c.Name), maxNameBytes)
	}
	if len(c.Zone) > maxZoneBytes {
		fault("Zone", "%d bytes, at most %d are possible", len(c.Zone), maxZoneBytes)
	}
	between("Weight", int64(c.Weight), 1, maxWeight)
	between("Copies", int64(c.Copies), 1, maxCopies)
	if c.MaxBytes < minMaxBytes {
		fault("MaxBytes", "%d is less than %d", c.MaxBytes, minMaxBytes)
	}
	between("MaxValueBytes", int64(c.MaxValueBytes), 1, maxValueLimit)

	if len(c.AcceptSecrets) > 0 && c.Secret == "" {
		fault("AcceptSecrets", "given without Secret")
	}
	for i, secret := range c.AcceptSecrets {
		if secret == "" {
			fault(fmt.Sprintf("AcceptSecrets[%d]", i), "empty")
		}
	}
	if t := c.TLS; t != nil && c.listens() && len(t.Certificates) == 0 && t.GetCertificate == nil && t.GetConfigForClient == nil {
		fault("TLS", "no certificate to show to peers that connect")
	}
	if i := c.Heartbeat.Interval; i < minInterval || i > maxInterval {
		fault("Heartbeat.Interval", "%v is not between %v and %v", i, minInterval, maxInterval)
	} else if c.Heartbeat.Timeout < 5*i || c.Heartbeat.Timeout > maxTimeout {
		fault("Heartbeat.Timeout", "%v is not between five intervals, %v, and %v", c.Heartbeat.Timeout, 5*i, maxTimeout)
	}
	return faults
}

// checkPath reports what keeps path from being asked for as it is.
func checkPath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/") || !strings.HasSuffix(p, "/"):
		return fmt.Errorf("%q does not begin and end with a slash", p)
	case (&url.URL{Path: p}).EscapedPath() != p:
		return fmt.Errorf("%q has a character that needs escaping", p)
	case p != "/" && path.Clean(p)+"/" != p:
		return fmt.Errorf("%q is not the shortest way to write that path", p) // a ServeMux would redirect
	default:
		return nil
	}
}

// checkHostPort reports what keeps addr from being dialed.
func checkHostPort(addr string) error {
	if len(addr) > maxAddrBytes {
		return fmt.Errorf("address %q...: %d bytes, more than a host of %d bytes and a port", addr[:20], len(addr), maxHostBytes)
	}
	if strings.Contains(addr, "://") {
		return fmt.Errorf("address %s: a URL; only host:port is wanted", addr)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("address %s: no host", addr)
	}
	if len(host) > maxHostBytes {
		return fmt.Errorf("address %q...: a host of %d bytes, at most %d are possible", addr[:20], len(host), maxHostBytes)
	}
	for _, b := range []byte(host) {
		if b <= ' ' || b == 0x7f {
			return fmt.Errorf("address %q: bad host", addr) // it would end the line of a request's header
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("address %s: bad port %q", addr, port)
	}
	return nil
}

// checkDialable reports what keeps peers on other hosts from dialing addr.
func checkDialable(addr string) error {
	if err := checkHostPort(addr); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return fmt.Errorf("address %s: stands for any address, peers need a certain one", addr)
	}
	return nil
}

// advertised returns the host:port that peers can dial for a listener at
// addr: where the listener has no address of its own, one of this host's.
func advertised(addr net.Addr) (string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		if err := checkHostPort(addr.String()); err != nil {
			return "", &ConfigError{Faults: []string{fmt.Sprintf("Advertise: not given, and the listener's address is none that peers could dial: %v", err)}}
		}
		return addr.String(), nil
	}
	if len(tcp.IP) > 0 && !tcp.IP.IsUnspecified() {
		return addr.String(), nil
	}
	ip, err := hostIP()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port)), nil
}

// hostIP picks the address of this host that peers most likely reach: a
// private IPv4 address, else any other global one, else loopback.
func hostIP() (net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("peercache: Advertise: this host's addresses: %w", err)
	}
	var best net.IP
	bestRank := 0
	for _, a := range addrs {
		ipNet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if rank := rankIP(ipNet.IP); rank > bestRank {
			best, bestRank = ipNet.IP, rank
		}
	}
	if best == nil {
		return nil, errors.New("peercache: Advertise: this host has no address that peers could dial")
	}
	return best, nil
}

func rankIP(ip net.IP) int {
	v4 := ip.To4() != nil
	switch {
	case v4 && ip.IsPrivate():
		return 5
	case v4 && ip.IsGlobalUnicast():
		return 4
	case ip.IsGlobalUnicast():
		return 3
	case v4 && ip.IsLoopback():
		return 2
	case ip.IsLoopback():
		return 1
	default:
		return 0
	}
}
