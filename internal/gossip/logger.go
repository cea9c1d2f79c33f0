package gossip

import (
	"context"
	"io"
	"log"
	"log/slog"
	"strings"
)

// newLogger returns what memberlist logs to: it would write to stderr if it
// were given nothing.
func newLogger(to *slog.Logger) *log.Logger {
	if to == nil {
		return log.New(io.Discard, "", 0)
	}
	return log.New(logWriter{to}, "", 0)
}

// logWriter takes memberlist's lines, "[LEVEL] memberlist: text".
type logWriter struct{ to *slog.Logger }

// Write logs one line at its level. What memberlist calls an error is another
// member that cannot be reached, which is what it is there to survive: a
// warning.
func (w logWriter) Write(line []byte) (int, error) {
	level, text := slog.LevelWarn, strings.TrimSpace(string(line))
	if tag, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(tag, "[") {
		text = rest
		switch tag {
		case "[DEBUG":
			level = slog.LevelDebug
		case "[INFO":
			level = slog.LevelInfo
		}
	}
	if strings.Contains(text, ErrClosed.Error()) {
		level = slog.LevelDebug // the last tick of a prober that is being closed
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	w.to.Log(context.Background(), level, "gossip: "+text)
	return len(line), nil
}
