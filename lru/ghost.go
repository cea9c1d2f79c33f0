package lru

// ghost remembers the tags of entries that left not long ago: a set-associative table of small queues, newest first,
// the oldest of a queue falling off its end.
type ghost struct {
	tags []uint32
}

const (
	ghostWays     = 16
	ghostTagBytes = 4
)

func (g *ghost) queue(tag uint32) []uint32 {
	i := int(uint64(tag)*uint64(len(g.tags)/ghostWays)>>32) * ghostWays
	return g.tags[i : i+ghostWays : i+ghostWays]
}

// add remembers a tag.
func (g *ghost) add(tag uint32) {
	if len(g.tags) == 0 {
		return
	}
	q := g.queue(tag)
	copy(q[1:], q)
	q[0] = tag
}

// has says whether the tag is remembered.
func (g *ghost) has(tag uint32) bool {
	if len(g.tags) == 0 {
		return false
	}
	for _, t := range g.queue(tag) {
		if t == tag {
			return true
		}
	}
	return false
}

// remove forgets the tag.
func (g *ghost) remove(tag uint32) {
	if len(g.tags) == 0 {
		return
	}
	q := g.queue(tag)
	for i, t := range q {
		if t == tag {
			copy(q[i:], q[i+1:])
			q[ghostWays-1] = 0
			return
		}
	}
}

// resize moves what fits to a table for about n tags.
func (g *ghost) resize(n int) {
	old := g.tags
	g.tags = make([]uint32, ghostLen(n))
	for i := len(old) - 1; i >= 0; i-- { // oldest first within each queue
		if old[i] != 0 {
			g.add(old[i])
		}
	}
}

// ghostLen is the length of a table for about n tags.
func ghostLen(n int) int {
	return (max(n, 1) + ghostWays - 1) / ghostWays * ghostWays
}
