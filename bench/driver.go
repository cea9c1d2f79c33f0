package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// A Result is all that was measured for a section: the figures of each contender, one for each round.
type Result struct {
	Section *Section
	Figures map[string][]Figures
	Failed  map[string]error // contenders that could not be measured
}

// run measures all contenders of a section, one after the other in each round, each round beginning with another.
func run(ctx context.Context, s *Section, rounds int, only []string, set Settings, progress io.Writer) (*Result, error) {
	if s.Rounds > 0 {
		rounds = min(rounds, s.Rounds)
	}
	r := &Result{Section: s, Figures: map[string][]Figures{}, Failed: map[string]error{}}
	for round := range rounds {
		for i := range s.Contenders {
			c := s.Contenders[(i+round)%len(s.Contenders)]
			if len(only) > 0 && !ours(c) && !contains(only, c) || r.Failed[c] != nil {
				continue
			}
			fmt.Fprintf(progress, "%s %d/%d: %s\n", s.Name, round+1, rounds, c)
			f, err := measureApart(ctx, s.Name, c, set)
			if ctx.Err() != nil {
				return r, ctx.Err()
			}
			if err != nil {
				fmt.Fprintf(progress, "%s: %s: %v\n", s.Name, c, err)
				r.Failed[c] = err
				continue
			}
			r.Figures[c] = append(r.Figures[c], f)
		}
	}
	return r, nil
}

func contains(parts []string, name string) bool {
	for _, p := range parts {
		if strings.Contains(name, p) {
			return true
		}
	}
	return false
}

// measureApart makes one measurement in a process of its own.
func measureApart(ctx context.Context, section, contender string, set Settings) (Figures, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Minute)
	defer cancel()
	arg, err := json.Marshal(set)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-measure", section, "-contender", contender, "-settings", string(arg))
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(diag.Bytes()))
	}
	var f Figures
	if err := json.Unmarshal(out.Bytes(), &f); err != nil {
		return nil, fmt.Errorf("reading figures: %w", err)
	}
	return f, nil
}

// measureHere is what the process of a measurement does.
func measureHere(section, contender string, settings string, out io.Writer) error {
	s, err := sectionOf(section)
	if err != nil {
		return err
	}
	var set Settings
	if err := json.Unmarshal([]byte(settings), &set); err != nil {
		return err
	}
	f, err := s.Measure(contender, set)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(f)
}

// A server is another process that a measurement needs.
type server struct {
	line  string // that it printed when it was ready
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
	gone  bool // it was killed, or is to be
}

// startServer starts a section's Serve for a contender in another process, with more environment if wanted, and waits
// until that is ready. The caller stops it.
func startServer(section, contender string, env []string, args ...string) (*server, error) {
	cmd := exec.Command(os.Args[0], append([]string{"-serve", section, "-contender", contender}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: server of %s: %w", section, contender, err), stdin.Close(), cmd.Wait())
	}
	return &server{line: strings.TrimSpace(line), cmd: cmd, stdin: stdin, out: out}, nil
}

// ask tells the process a line, and returns the line that it prints then.
func (s *server) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(s.stdin, line); err != nil {
		return "", err
	}
	answer, err := s.out.ReadString('\n')
	return strings.TrimSpace(answer), err
}

// abandon ends a process that was killed or stopped. Its end is no failure then.
func (s *server) abandon() {
	s.gone = true
	_ = s.cmd.Process.Kill()
}

// stop ends the process and waits for it.
func (s *server) stop() error {
	err := errors.Join(s.stdin.Close(), s.cmd.Wait())
	if s.gone {
		return nil
	}
	return err
}

// serveHere is what that process does.
func serveHere(section, contender string, args []string) error {
	s, err := sectionOf(section)
	if err != nil {
		return err
	}
	if s.Serve == nil {
		return fmt.Errorf("section %q has no server", section)
	}
	return s.Serve(contender, args)
}
