package groupcache

import (
	"context"

	original "github.com/golang/groupcache"
	"google.golang.org/protobuf/runtime/protoiface"
)

// What is only data, or an interface that programs implement, is the original's
// own type: a program that uses both packages compiles, and values pass between
// them.
type (
	// A Getter loads the data of a key. What its Get stores in dest must be
	// what the key stands for, now and later: it is kept, and handed to
	// others.
	Getter = original.Getter

	// A GetterFunc is a function as a [Getter].
	GetterFunc = original.GetterFunc

	// A Sink receives the data of a key from a Get call.
	Sink = original.Sink

	// A ByteView is a view of bytes that do not change.
	ByteView = original.ByteView

	// Stats are the counters of a [Group]; see its field Stats.
	Stats = original.Stats

	// An AtomicInt is an int64 that is read and added to atomically.
	AtomicInt = original.AtomicInt

	// CacheStats are what [Group.CacheStats] returns.
	CacheStats = original.CacheStats

	// A CacheType names one of the caches of a [Group].
	CacheType = original.CacheType

	// A ProtoGetter is a peer that can be asked.
	ProtoGetter = original.ProtoGetter

	// A PeerPicker finds the peer that owns a key.
	PeerPicker = original.PeerPicker

	// NoPeers is a [PeerPicker] that never finds one.
	NoPeers = original.NoPeers

	// HTTPPoolOptions are the options of [NewHTTPPoolOpts]. Replicas and
	// HashFn are those of the ring that [HTTPPool.PickPeer] uses; who holds
	// what in the cluster is decided by the cluster.
	HTTPPoolOptions = original.HTTPPoolOptions

	// Context is [context.Context].
	Context = context.Context
)

// The caches of a [Group].
const (
	// MainCache has what this process holds of the keys that it owns, as the
	// first owner or as a replica.
	MainCache CacheType = original.MainCache

	// HotCache has copies of other members' keys; there are none without
	// [GroupOptions].NearTTL.
	HotCache CacheType = original.HotCache
)

// StringSink returns a [Sink] that sets *sp.
func StringSink(sp *string) Sink { return original.StringSink(sp) }

// ByteViewSink returns a [Sink] that sets *dst. It panics when dst is nil.
func ByteViewSink(dst *ByteView) Sink { return original.ByteViewSink(dst) }

// ProtoSink returns a [Sink] that unmarshals into m.
func ProtoSink(m protoiface.MessageV1) Sink { return original.ProtoSink(m) }

// AllocatingByteSliceSink returns a [Sink] that sets *dst to a new slice, which
// is the caller's.
func AllocatingByteSliceSink(dst *[]byte) Sink { return original.AllocatingByteSliceSink(dst) }

// TruncatingByteSliceSink returns a [Sink] that writes up to len(*dst) bytes to
// *dst and shrinks it where there are fewer. What does not fit is dropped.
func TruncatingByteSliceSink(dst *[]byte) Sink { return original.TruncatingByteSliceSink(dst) }
