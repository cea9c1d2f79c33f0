package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test's own binary be the process of a measurement.
func TestMain(m *testing.M) {
	for _, a := range os.Args[1:] {
		if a == "-measure" || a == "-serve" {
			main()
			return
		}
	}
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "tiny.arc"), []byte(strings.Repeat("1 500 0 0\n7 3 0 1\n", 20)), 0o666); err != nil {
		t.Fatal(err)
	}
	results := filepath.Join(dir, "RESULTS.md")
	var out, diag bytes.Buffer
	err := command(t.Context(), []string{"-quick", "-time", "2ms", "-rounds", "1", "-traces", dir, "-write", results}, &out, &diag)
	if err != nil {
		t.Fatal(err, diag.String())
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections() {
		if !bytes.Contains(text, []byte("## "+s.Title+"\n")) {
			t.Errorf("no section %q", s.Title)
		}
	}
	if bytes.Contains(text, []byte("could not be measured")) {
		t.Error(diag.String())
	}
	t.Logf("%s", text)
}

func TestReadARC(t *testing.T) {
	var got []uint64
	err := readARC(strings.NewReader("10 3 0 1\n\n7 1 0 2\n"), func(k uint64) { got = append(got, k) })
	if err != nil || len(got) != 4 || got[0] != 10 || got[2] != 12 || got[3] != 7 {
		t.Fatal(got, err)
	}
	for _, bad := range []string{"x 1 0 0", "1 x 0 0", "1"} {
		if readARC(strings.NewReader(bad), func(uint64) {}) == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestSummarize(t *testing.T) {
	s := summarize([]float64{5, 1, 3, 9})
	if s.median != 4 || s.least != 1 || s.most != 9 {
		t.Fatal(s)
	}
}
