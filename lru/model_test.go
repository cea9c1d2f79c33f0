package lru

import "container/list"

// Textbook models of replacement policies over keys of equal size, to compare hit ratios with.

// model is a cache of uint64 keys: access returns whether the key was there and makes it be there.
type model interface {
	access(k uint64) bool
}

// lruModel is plain LRU.
type lruModel struct {
	capacity int
	order    *list.List
	at       map[uint64]*list.Element
}

func newLRUModel(capacity int) *lruModel {
	return &lruModel{capacity, list.New(), map[uint64]*list.Element{}}
}

func (m *lruModel) access(k uint64) bool {
	if e, ok := m.at[k]; ok {
		m.order.MoveToFront(e)
		return true
	}
	if m.order.Len() >= m.capacity {
		e := m.order.Back()
		delete(m.at, e.Value.(uint64))
		m.order.Remove(e)
	}
	m.at[k] = m.order.PushFront(k)
	return false
}

// s3Model is S3-FIFO as in algorithm 1 of the paper.
type s3Model struct {
	smallCap, mainCap, ghostCap int
	small, main, ghost          *list.List
	at                          map[uint64]*s3Entry
	ghosts                      map[uint64]*list.Element
}

type s3Entry struct {
	key  uint64
	freq int
	main bool
}

func newS3Model(capacity int) *s3Model {
	sm := max(capacity/10, 1)
	return &s3Model{sm, capacity - sm, capacity - sm, list.New(), list.New(), list.New(), map[uint64]*s3Entry{}, map[uint64]*list.Element{}}
}

func (m *s3Model) access(k uint64) bool {
	if e, ok := m.at[k]; ok {
		e.freq = min(e.freq+1, 3)
		return true
	}
	for m.small.Len()+m.main.Len() >= m.smallCap+m.mainCap {
		if m.small.Len() > m.smallCap || m.main.Len() == 0 {
			m.evictSmall()
		} else {
			m.evictMain()
		}
	}
	e := &s3Entry{key: k}
	m.at[k] = e
	if g, ok := m.ghosts[k]; ok {
		m.ghost.Remove(g)
		delete(m.ghosts, k)
		e.main = true
		m.main.PushFront(e)
	} else {
		m.small.PushFront(e)
	}
	return false
}

func (m *s3Model) evictSmall() {
	for m.small.Len() > 0 {
		b := m.small.Back()
		e := b.Value.(*s3Entry)
		m.small.Remove(b)
		if e.freq > 1 {
			e.freq = 0
			e.main = true
			m.main.PushFront(e)
			if m.main.Len() > m.mainCap {
				m.evictMain()
			}
			continue
		}
		delete(m.at, e.key)
		m.ghosts[e.key] = m.ghost.PushFront(e.key)
		if m.ghost.Len() > m.ghostCap {
			o := m.ghost.Back()
			delete(m.ghosts, o.Value.(uint64))
			m.ghost.Remove(o)
		}
		return
	}
}

func (m *s3Model) evictMain() {
	for m.main.Len() > 0 {
		b := m.main.Back()
		e := b.Value.(*s3Entry)
		if e.freq > 0 {
			e.freq--
			m.main.MoveToFront(b)
			continue
		}
		m.main.Remove(b)
		delete(m.at, e.key)
		return
	}
}

// tinyModel is W-TinyLFU: a window of 1 %, a main part of segmented LRU, and admission by a count-min sketch (Einziger,
// Friedman, Manes: TinyLFU, ACM TOS 2017).
type tinyModel struct {
	windowCap, probationCap, protectedCap int
	lists                                 [3]*list.List // window, probation, protected
	at                                    map[uint64]*list.Element
	sketch                                []uint8
	adds, sample                          int
}

type tinyEntry struct {
	key uint64
	in  int
}

func newTinyModel(capacity int) *tinyModel {
	w := max(capacity/100, 1)
	p := (capacity - w) * 8 / 10
	n := 1
	for n < 16*capacity {
		n *= 2
	}
	return &tinyModel{w, capacity - w - p, p, [3]*list.List{list.New(), list.New(), list.New()},
		map[uint64]*list.Element{}, make([]uint8, n), 0, 10 * capacity}
}

func (m *tinyModel) count(k uint64, add bool) uint8 {
	least := uint8(255)
	var at [4]int
	for i := range at {
		at[i] = int(mix(k+uint64(i)*0x9e3779b97f4a7c15) & uint64(len(m.sketch)-1))
		least = min(least, m.sketch[at[i]])
	}
	if add && least < 15 {
		for _, i := range at {
			if m.sketch[i] == least {
				m.sketch[i]++
			}
		}
		if m.adds++; m.adds >= m.sample {
			m.adds /= 2
			for i := range m.sketch {
				m.sketch[i] /= 2
			}
		}
	}
	return least
}

func (m *tinyModel) move(e *list.Element, to int) {
	t := e.Value.(*tinyEntry)
	m.lists[t.in].Remove(e)
	t.in = to
	m.at[t.key] = m.lists[to].PushFront(t)
}

func (m *tinyModel) access(k uint64) bool {
	m.count(k, true)
	if e, ok := m.at[k]; ok {
		t := e.Value.(*tinyEntry)
		if t.in == 1 {
			m.move(e, 2)
			if m.lists[2].Len() > m.protectedCap {
				m.move(m.lists[2].Back(), 1)
			}
		} else {
			m.lists[t.in].MoveToFront(e)
		}
		return true
	}
	m.at[k] = m.lists[0].PushFront(&tinyEntry{key: k})
	if m.lists[0].Len() > m.windowCap {
		c := m.lists[0].Back()
		if m.lists[1].Len()+m.lists[2].Len() < m.probationCap+m.protectedCap {
			m.move(c, 1)
			return false
		}
		v := m.lists[1].Back()
		if v == nil {
			v = m.lists[2].Back()
		}
		ct, vt := c.Value.(*tinyEntry), v.Value.(*tinyEntry)
		if m.count(ct.key, false) > m.count(vt.key, false) {
			m.lists[vt.in].Remove(v)
			delete(m.at, vt.key)
			m.move(c, 1)
		} else {
			m.lists[0].Remove(c)
			delete(m.at, ct.key)
		}
	}
	return false
}

// arcModel is ARC (Megiddo, Modha, FAST 2003).
type arcModel struct {
	c, p  int
	lists [4]*list.List // T1, T2, B1, B2
	at    map[uint64]*list.Element
}

func newARCModel(capacity int) *arcModel {
	return &arcModel{c: capacity, lists: [4]*list.List{list.New(), list.New(), list.New(), list.New()}, at: map[uint64]*list.Element{}}
}

func (m *arcModel) move(e *list.Element, to int) {
	t := e.Value.(*tinyEntry)
	m.lists[t.in].Remove(e)
	t.in = to
	m.at[t.key] = m.lists[to].PushFront(t)
}

func (m *arcModel) drop(l int) {
	e := m.lists[l].Back()
	delete(m.at, e.Value.(*tinyEntry).key)
	m.lists[l].Remove(e)
}

func (m *arcModel) replace(inB2 bool) {
	t1 := m.lists[0].Len()
	if t1 > 0 && (t1 > m.p || inB2 && t1 == m.p) {
		m.move(m.lists[0].Back(), 2)
	} else if m.lists[1].Len() > 0 {
		m.move(m.lists[1].Back(), 3)
	}
}

func (m *arcModel) access(k uint64) bool {
	if e, ok := m.at[k]; ok {
		t := e.Value.(*tinyEntry)
		switch t.in {
		case 0, 1:
			m.move(e, 1)
			return true
		case 2:
			m.p = min(m.c, m.p+max(m.lists[3].Len()/m.lists[2].Len(), 1))
			m.replace(false)
		case 3:
			m.p = max(0, m.p-max(m.lists[2].Len()/m.lists[3].Len(), 1))
			m.replace(true)
		}
		m.move(e, 1)
		return false
	}
	l1 := m.lists[0].Len() + m.lists[2].Len()
	total := l1 + m.lists[1].Len() + m.lists[3].Len()
	if l1 == m.c {
		if m.lists[0].Len() < m.c {
			m.drop(2)
			m.replace(false)
		} else {
			m.drop(0)
		}
	} else if total >= m.c {
		if total == 2*m.c {
			m.drop(3)
		}
		m.replace(false)
	}
	m.at[k] = m.lists[0].PushFront(&tinyEntry{key: k})
	return false
}
