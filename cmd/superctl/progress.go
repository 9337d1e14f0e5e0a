package main

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"superd/control"
	"superd/release"
)

// progress shows a switch on a terminal: one line per phase, the running one with a
// spinner and its age, redrawn in place. A terminal that cannot (TERM=dumb) gets the
// line of a phase once, when it is over.
type progress struct {
	cli   *cli
	plain bool // nothing is redrawn
	phase release.Phase
	since time.Time
	text  string // what the running phase says of itself
	turn  int
	said  string // why it goes back
}

func newProgress(c *cli) *progress { return &progress{cli: c, plain: os.Getenv("TERM") == "dumb"} }

const spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

// show prints until the switch has ended, and returns its exit code.
func (p *progress) show(events iter.Seq2[control.Event, error]) (int, error) {
	type item struct {
		event control.Event
		err   error
	}
	arriving, enough := make(chan item), make(chan struct{})
	var reading sync.WaitGroup
	defer reading.Wait()
	defer close(enough)
	reading.Go(func() {
		defer close(arriving)
		for e, err := range events {
			select {
			case arriving <- item{e, err}:
			case <-enough:
				return
			}
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.turn++
			p.draw()
		case i, ok := <-arriving:
			switch {
			case !ok:
				return 0, errors.New("superd stopped telling before the switch had ended")
			case i.err != nil:
				p.erase()
				return 0, i.err
			}
			if p.take(i.event); i.event.Exit != nil {
				return *i.event.Exit, nil
			}
		}
	}
}

func (p *progress) take(e control.Event) {
	switch e.Kind {
	case "switch.phase":
		p.enter(e)
	case "switch.progress":
		p.text = e.Message
		p.draw()
	case "switch.paused":
		p.say(p.cli.colour(yellow, "paused: ")+tame(e.Reason), e.Lines)
		p.say("        superctl resume tries again, superctl abort goes back", nil)
	case "switch.note", "worker.killed", "worker.failed", "fpm.died":
		text := tame(e.Reason)
		if e.Process != "" {
			text = e.Process + ": " + text
		}
		p.say(p.cli.colour(faint, "note: ")+text, e.Lines)
	case control.EventSwitchEnded:
		p.end(e)
	}
}

// enter ends the line of one phase and begins that of the next.
func (p *progress) enter(e control.Event) {
	if e.Phase == release.RollingBack {
		p.finish(p.cli.colour(red, "✗"))
		p.say(p.cli.colour(red, tame(e.Reason)), nil)
		p.said = e.Reason
	} else {
		p.finish(p.cli.colour(green, "✓"))
	}
	p.phase, p.since, p.text = e.Phase, time.Now(), ""
	if e.Phase == release.Ended {
		p.phase = ""
	}
	p.draw()
}

func (p *progress) end(e control.Event) {
	p.finish(p.cli.colour(green, "✓"))
	verdict := p.cli.colour(verdictColour(e.Verdict), string(e.Verdict))
	took := span(time.Duration(e.Took * float64(time.Second)))
	if e.Verdict == release.Live {
		p.say(fmt.Sprintf("%s is %s, after %s", e.To, verdict, took), nil)
		return
	}
	p.say(fmt.Sprintf("%s: %s (%s), after %s", e.To.Release, verdict, meaning(e), took), nil)
	if p.said == "" && e.Reason != "" {
		p.say("reason: "+tame(e.Reason), nil)
	}
	if len(e.Lines) > 0 {
		p.say("it wrote last:", e.Lines)
	}
}

// meaning is where a verdict leaves the site.
func meaning(e control.Event) string {
	switch e.Verdict {
	case release.Rejected:
		return "nothing was changed"
	case release.RolledBack:
		return "the site is fine, on " + or(e.From.Release)
	case release.Conflict:
		return "someone else moved the link; the site is on " + or(e.From.Release)
	case release.Degraded:
		return "going back failed too: superctl status"
	case release.Live:
		return "serving"
	}
	return "unknown"
}

func (p *progress) draw() {
	if p.phase == "" || p.plain {
		return
	}
	frames := []rune(spinner)
	frame := p.cli.colour(yellow, string(frames[p.turn%len(frames)]))
	p.erase()
	fmt.Fprintf(p.cli.out, "%-12s %s  %-6s %s", p.phase, frame, span(time.Since(p.since)), p.text)
}

// finish writes the line of the running phase for good.
func (p *progress) finish(mark string) {
	if p.phase == "" {
		return
	}
	p.erase()
	fmt.Fprintln(p.cli.out, strings.TrimRight(fmt.Sprintf("%-12s %s  %-6s %s", p.phase, mark, span(time.Since(p.since)), p.text), " "))
	p.phase = ""
}

// say writes a line above the running one, and the last lines of a process below it.
func (p *progress) say(text string, last []string) {
	p.erase()
	fmt.Fprintln(p.cli.out, text)
	for _, l := range last {
		fmt.Fprintln(p.cli.out, p.cli.colour(faint, "  │ ")+printable(l))
	}
	p.draw()
}

func (p *progress) erase() {
	if !p.plain {
		fmt.Fprint(p.cli.out, "\r\x1b[K")
	}
}

// printable keeps what a process wrote from moving the cursor.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		if isCommand(r) {
			return '·'
		}
		return r
	}, line)
}
