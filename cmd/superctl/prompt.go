package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/chzyer/readline"
)

// The prompt: superctl alone on a terminal. It takes supervisorctl's verbs, which are
// few and can be completed, and begins with the status as supervisorctl does.

// prompt reads lines until exit, Ctrl-D or SIGTERM. As with supervisorctl the exit code
// is 0 whatever was said.
func (c *cli) prompt(ctx context.Context) int {
	// ctx ends with Ctrl-C, which is to end the line in hand and not the prompt.
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM)
	defer stop()
	t := &theirs{cli: c, interactive: true}
	editor, err := readline.NewEx(&readline.Config{
		Prompt: "superctl> ", HistoryFile: historyFile(), HistoryLimit: 1000,
		AutoComplete: completer{func(method string) (any, error) { return t.call(ctx, method) }},
		Stdout:       c.out, Stderr: c.talk,
	})
	if err != nil {
		fmt.Fprintln(c.talk, "superctl: open terminal:", err)
		return 1
	}
	defer func() { _ = editor.Close() }() // the terminal goes with it
	t.ask = func(question string) string {
		editor.SetPrompt(question)
		defer editor.SetPrompt("superctl> ")
		answer, err := editor.Readline()
		if err != nil {
			return ""
		}
		return answer
	}
	t.interruptible(ctx, "status")
	for ctx.Err() == nil {
		line, err := editor.Readline()
		switch {
		case errors.Is(err, readline.ErrInterrupt):
			continue
		case errors.Is(err, io.EOF):
			return 0
		case err != nil:
			fmt.Fprintln(c.talk, "superctl: read line:", err)
			return 1
		}
		if t.interruptible(ctx, line) {
			return 0
		}
	}
	return 0
}

// interruptible does one line, which Ctrl-C ends. True ends the prompt.
func (t *theirs) interruptible(ctx context.Context, line string) bool {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	return t.line(ctx, line)
}

// historyFile is where lines are remembered; "" is nowhere.
func historyFile() string {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		state = filepath.Join(home, ".local", "state")
	}
	dir := filepath.Join(state, "superd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ""
	}
	return filepath.Join(dir, "history")
}

// completer completes verbs, and behind them names.
type completer struct {
	call func(method string) (any, error)
}

// Do is readline's: what may follow the text before the cursor, and how long the word is.
func (c completer) Do(line []rune, pos int) (more [][]rune, length int) {
	text := string(line[:pos])
	begun := text[strings.LastIndexByte(text, ' ')+1:]
	for _, word := range c.words(strings.Fields(text[:len(text)-len(begun)])) {
		if rest, ok := strings.CutPrefix(word, begun); ok {
			more = append(more, []rune(rest+" "))
		}
	}
	return more, len([]rune(begun))
}

// words are all that may stand behind those before.
func (c completer) words(before []string) []string {
	if len(before) == 0 || before[0] == "help" {
		return append(slices.Sorted(maps.Keys(theirVerbs())), "exit", "help", "quit")
	}
	groups := slices.Contains([]string{"add", "remove", "update"}, before[0])
	if !groups && !slices.Contains([]string{"clear", "fg", "pid", "restart", "signal", "start", "status", "stop", "tail"}, before[0]) {
		return nil
	}
	value, err := c.call("getAllProcessInfo")
	if err != nil {
		return nil // there is nothing to complete
	}
	var words []string
	for _, i := range infosOf(value) {
		switch {
		case groups:
			words = append(words, i.group)
		case i.group != i.name:
			words = append(words, i.spec(), i.group+":*")
		default:
			words = append(words, i.name)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}
