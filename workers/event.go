package workers

import (
	"fmt"
	"strings"
	"syscall"

	"superd/release"
	"superd/supervisor"
)

// An Event is something of the workers that people, or a switch, should know.
type Event struct {
	Kind       string // one of the kinds below
	Process    string // "shop/emails:3"; of a pool "shop/emails"
	Pool       string // "emails"
	Slot       int
	Generation release.Generation
	PID        int
	Exit       *supervisor.Exit // nil when nothing has ended
	Reason     string           // whole: "exit 255 after 300ms"
	Err        error            // behind Reason, where nothing was ever born
	Lines      []string         // the last ones it wrote
	From, To   int              // with Scaled: the number of workers wanted
}

// The kinds of events. Add new ones, never rename one.
const (
	Failed     = "worker.failed"     // it ended, or did not get well, and nobody had asked it to end
	Killed     = "worker.killed"     // it was told to go and had to be killed: the job in its hand is lost
	Drained    = "worker.drained"    // it was told to go, and has gone
	Unkillable = "worker.unkillable" // SIGKILL did not end it
	Recycled   = "worker.recycled"   // it is too large or too old, and is about to be replaced
	Scaled     = "pool.scaled"       // another number of workers is wanted
)

// lastLines is how much of what a worker wrote goes with an event.
const lastLines = 20

// hear takes what happened to the process of a worker.
func (w *worker) hear(e supervisor.ProcessEvent) {
	f := w.pool.fleet
	f.mu.Lock()
	first := w.adopted && w.lives == 0
	w.held = e.To == supervisor.Unkillable
	switch {
	case e.Exit != nil:
		w.proved = false
		w.lives++
	case e.Err != nil && e.To == supervisor.Stopping:
		w.proved = false // it misses its watchdog
	case e.Proved && !w.proved:
		w.proved, w.failed, w.life = true, "", lifeOf(e.Child)
		select {
		case f.proofs <- struct{}{}:
		default:
		}
	}
	event := w.judge(e, first)
	if event.Kind == Failed {
		w.failed = event.Reason
		f.tally.add(event)
	}
	onward := e.Proved && e.Exit == nil && w.lives == 0 && f.tally.counts(w.at) // a second life brings nothing forward
	f.announce()
	f.mu.Unlock()
	if onward {
		f.progress()
	}
	switch {
	case event.Kind != "":
		f.tell(event)
	case e.Err != nil && e.Exit == nil:
		f.o.Log.Warn("worker", "process", w.name(), "error", e.Err)
	}
}

// judge tells what an event of a process means; an empty Kind is nothing that
// anybody needs to hear of. first: its life was begun by an earlier superd.
func (w *worker) judge(e supervisor.ProcessEvent, first bool) Event {
	event := Event{Process: w.name(), Pool: w.pool.Name, Slot: w.slot, Generation: w.at, Exit: e.Exit}
	if e.Child != nil {
		event.PID, event.Lines = e.Child.PID(), e.Child.Tail(lastLines)
	}
	switch {
	case e.Exit != nil:
		event.Kind = w.judgeEnd(e, first)
		event.Reason = e.Exit.String()
		if event.Kind == Failed && !e.Proved {
			event.Reason += " before it was well"
		}
	case e.Err == nil:
	case e.Child == nil:
		event.Kind, event.Reason, event.Err = Failed, e.Err.Error(), e.Err
	case e.To == supervisor.Unkillable:
		event.Kind, event.Reason = Unkillable, e.Err.Error()
	case e.To == supervisor.Stopping:
		event.Kind, event.Reason = Failed, e.Err.Error()
	}
	return event
}

func (w *worker) judgeEnd(e supervisor.ProcessEvent, first bool) string {
	told := e.Child.Told()
	late := w.pool.StopTimeout != supervisor.Forever && e.Exit.At.After(told.Add(w.pool.StopTimeout))
	killed := e.Exit.Killed || late && e.Exit.Status.Signaled() && e.Exit.Status.Signal() == syscall.SIGKILL
	proved := e.Proved || first && e.Exit.Ran >= w.pool.MinHealthyTime
	switch {
	case first && strings.HasPrefix(e.Exit.Failure, "gate:"):
		return "" // superd died while it was being made: the release has no part in it
	case !told.IsZero() && killed:
		return Killed
	case w.leaving && !told.IsZero():
		return Drained
	case !told.IsZero(), e.Exit.Planned(w.pool.Planned) && proved:
		return ""
	}
	return Failed
}

// A tally counts what failed of one generation while a verb has its turn.
type tally struct {
	generation release.Generation
	allowed    int
	count      int
	last       Event
}

func (t *tally) counts(g release.Generation) bool { return t != nil && t.generation.Number == g.Number }

func (t *tally) add(e Event) {
	if t.counts(e.Generation) {
		t.count++
		t.last = e
	}
}

// err says why the generation is given up, nil as long as it is not.
func (t *tally) err() error {
	if t.count <= t.allowed {
		return nil
	}
	return &Failure{Event: t.last, Count: t.count, Allowed: t.allowed}
}

// A Failure is why a generation was given up: its workers failed too often. It
// implements release.Explained.
type Failure struct {
	Event   Event // the last straw
	Count   int
	Allowed int
}

var _ release.Explained = (*Failure)(nil)

// Error names the worker, how it ended, and how often that happened.
func (f *Failure) Error() string {
	text := f.Event.Reason
	if !strings.Contains(text, f.Event.Process) {
		text = f.Event.Process + ": " + text
	}
	if f.Count > 1 {
		text += fmt.Sprintf("; %d failures, %d are put up with", f.Count, f.Allowed)
	}
	return text
}

// Unwrap is what kept the worker from being born: the machine may be to blame for that.
func (f *Failure) Unwrap() error { return f.Event.Err }

// LastLines are the last lines that the worker wrote.
func (f *Failure) LastLines() []string { return f.Event.Lines }
