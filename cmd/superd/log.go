package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/term"

	"superd/config"
)

// newLog is superd's own log: text on a terminal, the journal under systemd, else
// JSON, unless the configuration says otherwise.
func newLog(l config.Log, level slog.Leveler, to *os.File) *slog.Logger {
	format := l.Format
	if format == "auto" {
		format = "json"
		if onJournal, err := journal.StderrIsJournalStream(); err == nil && onJournal {
			format = "journal"
		} else if term.IsTerminal(int(to.Fd())) {
			format = "text"
		}
	}
	return slog.New(logHandler(format, level, to))
}

func logLevel(name string) slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo // the configuration knows no other names
	}
	return level
}

func logHandler(format string, level slog.Leveler, to io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	switch format {
	case "text":
		return slog.NewTextHandler(to, options)
	case "journal":
		return &journalHandler{level: level, to: &journald{path: journalSocket}}
	}
	return slog.NewJSONHandler(to, options)
}

// journalHandler sends records to journald, each attribute as a field of its own:
// `journalctl SUPERD_APP=shop`.
type journalHandler struct {
	to     *journald
	level  slog.Leveler
	prefix string
	fields map[string]string
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	fields := maps.Clone(h.fields)
	if fields == nil {
		fields = map[string]string{}
	}
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		fields[fieldName(h.prefix+a.Key)] = a.Value.String()
		text += fmt.Sprintf(" %s=%v", h.prefix+a.Key, a.Value)
		return true
	})
	return h.to.send(text, priority(r.Level), fields)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := &journalHandler{to: h.to, level: h.level, prefix: h.prefix, fields: maps.Clone(h.fields)}
	if next.fields == nil {
		next.fields = map[string]string{}
	}
	for _, a := range attrs {
		next.fields[fieldName(h.prefix+a.Key)] = a.Value.String()
	}
	return next
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{to: h.to, level: h.level, prefix: h.prefix + name + "_", fields: h.fields}
}

// fieldName is a key as journald takes it: A to Z, 0 to 9 and _, ours with a prefix.
func fieldName(key string) string {
	return "SUPERD_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		}
		return '_'
	}, key)
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
