package main

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// eachTrace calls f with every trace in a folder, its keys numbered in the order in which they come. What it can read:
//
//   - *.trace: 4 byte big-endian numbers, one for each access;
//   - *.arc, *.lis: the text of the ARC traces (Megiddo, Modha, FAST 2003), a line for each run of blocks: the first
//     block, how many, and two numbers that do not matter here;
//   - either with .gz or .xz behind it, the latter with the help of the xz command.
func eachTrace(dir string, f func(name string, trace []uint32) error) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, file := range files {
		base := strings.TrimSuffix(strings.TrimSuffix(file.Name(), ".gz"), ".xz")
		ext := strings.ToLower(filepath.Ext(base))
		var read func(io.Reader, func(uint64)) error
		switch ext {
		case ".trace":
			read = readNumbers
		case ".arc", ".lis":
			read = readARC
		default:
			continue
		}
		found = true
		trace, err := load(filepath.Join(dir, file.Name()), read)
		if err != nil {
			return fmt.Errorf("trace %s: %w", file.Name(), err)
		}
		if err := f(strings.TrimSuffix(base, filepath.Ext(base)), trace); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no traces in %s", dir)
	}
	return nil
}

// load reads a file and numbers its keys.
func load(path string, read func(io.Reader, func(uint64)) error) (trace []uint32, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var r io.Reader = file
	wait := func() error { return nil }
	switch filepath.Ext(path) {
	case ".gz":
		if r, err = gzip.NewReader(file); err != nil {
			return nil, err
		}
	case ".xz":
		cmd := exec.Command("xz", "-dc")
		cmd.Stdin = file
		if r, err = cmd.StdoutPipe(); err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		wait = cmd.Wait
	}
	numbers := map[uint64]uint32{}
	err = read(bufio.NewReaderSize(r, 1<<20), func(key uint64) {
		n, ok := numbers[key]
		if !ok {
			n = uint32(len(numbers))
			numbers[key] = n
		}
		trace = append(trace, n)
	})
	return trace, errors.Join(err, wait())
}

func readNumbers(r io.Reader, access func(uint64)) error {
	var b [4]byte
	for {
		switch _, err := io.ReadFull(r, b[:]); err {
		case nil:
			access(uint64(binary.BigEndian.Uint32(b[:])))
		case io.EOF:
			return nil
		default:
			return err
		}
	}
}

func readARC(r io.Reader, access func(uint64)) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 2 {
			return fmt.Errorf("line %d: fewer than two numbers", n)
		}
		first, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		count, err := strconv.ParseUint(fields[1], 10, 32)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		for i := range count {
			access(first + i)
		}
	}
	return lines.Err()
}
