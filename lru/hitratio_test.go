package lru

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// storeModel plays a Store as a model. Values are of one size.
type storeModel struct {
	s     *Store
	value []byte
	key   [8]byte
	buf   []byte
}

func (m *storeModel) access(k uint64) bool {
	binary.LittleEndian.PutUint64(m.key[:], k)
	key := Key{Hash: k, Bytes: m.key[:]}
	var ok bool
	m.buf, _, ok = m.s.Read(key, m.buf[:0])
	if !ok {
		if err := m.s.Put(key, Meta{}, m.value); err != nil {
			panic(err)
		}
	}
	return ok
}

func ratio(m model, trace []uint64) float64 {
	hits := 0
	for _, k := range trace {
		if m.access(k) {
			hits++
		}
	}
	return 100 * float64(hits) / float64(len(trace))
}

// mixes are synthetic traces.
func mixes(n int) map[string][]uint64 {
	zipf := func(seed uint64, s float64, keys uint64) func() uint64 {
		z := rand.NewZipf(rand.New(rand.NewPCG(seed, 1)), s, 1, keys-1)
		return z.Uint64
	}
	out := map[string][]uint64{}
	for _, s := range []float64{1.01, 1.1, 1.3} {
		next := zipf(7, s, 100_000)
		var tr []uint64
		scan := uint64(1 << 40)
		for len(tr) < n {
			for range 9000 {
				tr = append(tr, next())
			}
			for range 3000 {
				tr = append(tr, scan)
				scan++
			}
		}
		out[fmt.Sprintf("zipf%.2f+scan", s)] = tr[:n]
	}
	next := zipf(9, 1.05, 50_000)
	var tr []uint64
	for i := 0; i < n; i++ { // the popular keys shift
		tr = append(tr, next()+uint64(i/100_000)*500)
	}
	out["shifting"] = tr
	tr = nil
	for i := 0; i < n; i++ {
		if i%3 == 0 {
			tr = append(tr, 1<<41+uint64(i/3%20_000))
		} else {
			tr = append(tr, next())
		}
	}
	out["loop"] = tr
	return out
}

// The Store does at least as well as the models for which its policy is an improvement, given as many entries.
func TestHitRatio(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("takes some seconds, and nothing runs at the same time")
	}
	const n = 250_000
	var own, lru, s3 float64
	for name, tr := range mixes(n) {
		for _, percent := range []int{1, 10} {
			capacity := distinct(tr) * percent / 100
			l, f := ratio(newLRUModel(capacity), tr), ratio(newS3Model(capacity), tr)
			o := 0.0
			// Find the bound that holds the same number of entries.
			for perEntry := int64(150); ; perEntry -= 8 {
				s := New(Options{MaxBytes: int64(capacity) * perEntry})
				o = ratio(&storeModel{s: s, value: make([]byte, 64)}, tr)
				if s.Len() <= capacity {
					break
				}
			}
			t.Logf("%-14s %2d%%: LRU %5.2f, S3-FIFO %5.2f, Store %5.2f", name, percent, l, f, o)
			require.Greater(t, o, l-1, "%s at %d%%", name, percent)
			own, lru, s3 = own+o, lru+l, s3+f
		}
	}
	require.Greater(t, own, lru)
	require.Greater(t, own, s3-1)
}

func distinct(trace []uint64) int {
	m := map[uint64]struct{}{}
	for _, k := range trace {
		m[k] = struct{}{}
	}
	return len(m)
}

// TestTraces prints the hit ratios of the Store and of the models on the traces (*.trace.xz, big-endian uint32) in the
// directory that LRU_TRACES names.
func TestTraces(t *testing.T) {
	dir := os.Getenv("LRU_TRACES")
	if dir == "" {
		t.Skip("LRU_TRACES is not set")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.trace.xz"))
	traces := map[string][]uint64{}
	var names []string
	for _, f := range files {
		data, err := exec.Command("xzcat", f).Output()
		if err != nil {
			t.Fatal(err)
		}
		var tr []uint64
		for ; len(data) >= 4; data = data[4:] {
			tr = append(tr, uint64(binary.BigEndian.Uint32(data)))
		}
		name := strings.TrimSuffix(filepath.Base(f), ".trace.xz")
		traces[name] = tr
		names = append(names, name)
	}
	for name, tr := range mixes(1_000_000) {
		traces[name] = tr
		names = append(names, name)
	}
	for _, name := range names {
		compare(t, name, traces[name])
	}
}

func compare(t *testing.T, name string, tr []uint64) {
	n := distinct(tr)
	for _, percent := range []int{1, 5, 10} {
		capacity := n * percent / 100
		l := ratio(newLRUModel(capacity), tr)
		s3 := ratio(newS3Model(capacity), tr)
		arc := ratio(newARCModel(capacity), tr)
		w := ratio(newTinyModel(capacity), tr)
		var own [2]float64
		var per [2]float64
		for i, perEntry := range []int{8 + 64 + 60, 8 + 64 + 45} {
			st := New(Options{MaxBytes: int64(capacity * perEntry)})
			own[i] = ratio(&storeModel{s: st, value: make([]byte, 64)}, tr)
			per[i] = float64(st.Len()) / float64(capacity)
		}
		t.Logf("%-14s %2d%% %6d  LRU %5.2f  S3 %5.2f ARC %5.2f  WTLFU %5.2f  own %5.2f (%.2f) %5.2f (%.2f)", name, percent, capacity, l, s3, arc, w, own[0], per[0], own[1], per[1])
	}
}
