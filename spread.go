package peercache

// An outranked is an item that an owner did not apply, and what is above it
// there.
type outranked struct {
	item  int
	at    Member
	by    order
	entry bool  // of an entry, and not of a floor or of a stage
	fault error // that is beyond belief: nothing can be stamped past it
}

// spreadOutcome says what became of entries that were sent to their other
// owners.
type spreadOutcome struct {
	above   map[int][]outranked // items of which some owner holds something later
	missing map[int][]Member    // items that owners which may be living did not confirm
	refused map[int]bool        // those of them of which an owner does not believe the stamp
	cause   error               // why the waiting for those ended
}

// outrank notes that an owner holds something later than an item.
func (o *spreadOutcome) outrank(item int, a outranked) {
	if o.above == nil {
		o.above = make(map[int][]outranked)
	}
	o.above[item] = append(o.above[item], a)
}

// miss notes that an owner has not confirmed an item.
func (o *spreadOutcome) miss(item int, m Member) {
	if o.missing == nil {
		o.missing = make(map[int][]Member)
	}
	o.missing[item] = append(o.missing[item], m)
}

// refuse notes that an owner does not believe the stamps of items.
func (o *spreadOutcome) refuse(items []int) {
	if o.refused == nil {
		o.refused = make(map[int]bool)
	}
	for _, i := range items {
		o.refused[i] = true
	}
}

func (o *spreadOutcome) errorOf(i int) error {
	if len(o.missing[i]) == 0 {
		return nil
	}
	return &PartialWriteError{Missing: o.missing[i], Err: o.cause}
}
