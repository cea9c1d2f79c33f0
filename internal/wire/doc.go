// Package wire holds the one framing that peers speak: for calls, replication,
// sync and snapshots, and the primitives that message bodies are made of. It
// does no I/O of its own but reading from an io.Reader, knows no message and
// imports nothing of the project.
//
// A v1 frame, all integers big endian:
//
//	offset  size  what
//	0       4     length: bytes that follow, 12 at least
//	4       1     kind
//	5       1     code: the operation of a request, the outcome of a reply
//	6       2     size of the fields
//	8       1     flags; unknown bits are ignored
//	9       7     call id
//	16      ...   fields: tag (1 byte), size (uvarint), value; each tag once
//	...     ...   body: the rest
//
// A tag whose highest bit is set is critical: a receiver that does not know it
// refuses the frame with ErrCritical. Any other unknown tag is skipped. That
// is how v1 grows; the golden files in testdata keep what it is today.
//
// Every size is checked against a bound before anything is allocated for it.
package wire
