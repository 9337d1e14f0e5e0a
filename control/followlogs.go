package control

import (
	"context"
	"iter"
	"net/url"
	"strconv"
	"time"
)

// Logs are the lines that a query asks for, until there are no more or ctx ends. One
// that follows goes on with the superd that comes after this one, and asks that one for
// what was written between: up to 20,000 lines of each process, those in files too.
func (c *Client) Logs(ctx context.Context, q LogQuery) iter.Seq2[LogLine, error] {
	return func(yield func(LogLine, error) bool) {
		f := logFollower{client: c, query: q, yield: yield, shown: map[logKey][]LogLine{}}
		last(yield, f.run(ctx))
	}
}

// A logFollower reads lines of several processes and knows which were the last.
type logFollower struct {
	client   *Client
	query    LogQuery
	yield    func(LogLine, error) bool
	deadline time.Time // for superd to come back
	lost     time.Time // when the superd before was lost; zero: this is the first

	shown  map[logKey][]LogLine // the last of each
	behind map[logKey][]LogLine // of processes whose past is not told yet
	caught map[string]bool      // processes whose past is told
}

type logKey struct{ process, stream string }

// mostPast is how many lines of each process the next superd is asked for: those of
// some minutes in which nobody could be reached.
const mostPast = 20_000

// mostShown is how many lines are remembered to recognize where one was.
const mostShown = 100

func (f *logFollower) run(ctx context.Context) error {
	for {
		connected, err := f.read(ctx)
		if !f.query.Follow || ctx.Err() != nil || err != nil && !passes(err) {
			return err
		}
		if connected {
			f.deadline = time.Now().Add(comeback)
			f.lost = time.Now()
		}
		if time.Now().After(f.deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return f.client.unreachable(ctx, nil)
		case <-time.After(retry):
		}
	}
}

func (f *logFollower) read(ctx context.Context) (connected bool, err error) {
	q := f.query
	query := url.Values{}
	if q.Follow {
		query.Set("follow", "1")
	}
	if q.Stream != "" {
		query.Set("stream", q.Stream)
	}
	if !f.lost.IsZero() {
		q.Lines, q.Since = mostPast, time.Time{}
		query.Set("mark", "1")
		f.behind, f.caught = map[logKey][]LogLine{}, map[string]bool{}
	}
	query.Set("lines", strconv.Itoa(q.Lines))
	for name, at := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !at.IsZero() {
			query.Set(name, at.Format(time.RFC3339Nano))
		}
	}
	return lines(ctx, f.client, "/v1/logs/"+url.PathEscape(q.Name)+"?"+query.Encode(), f.each)
}

// each takes a line. After a superd was lost those of the past wait until all of a
// process are there.
func (f *logFollower) each(l LogLine) error {
	switch {
	case l.CaughtUp:
		return f.catchUp(l.Process)
	case !f.lost.IsZero() && !f.caught[l.Process] && l.Note == "":
		key := logKey{l.Process, l.Stream}
		f.behind[key] = append(f.behind[key], l)
		return nil
	}
	return f.show(l)
}

func (f *logFollower) show(l LogLine) error {
	if f.query.Follow && l.Missed == 0 && l.Note == "" {
		key := logKey{l.Process, l.Stream}
		f.shown[key] = append(f.shown[key], l)
		if n := len(f.shown[key]); n > 2*mostShown {
			f.shown[key] = append([]LogLine(nil), f.shown[key][n-mostShown:]...)
		}
	}
	return enough(f.yield(l, nil))
}

// catchUp shows what a process has written since its last line was shown.
func (f *logFollower) catchUp(process string) error {
	f.caught[process] = true
	for key, past := range f.behind {
		if key.process != process {
			continue
		}
		delete(f.behind, key)
		fresh, known := unseen(f.shown[key], past)
		switch {
		case known:
		case len(f.shown[key]) > 0:
			note := LogLine{Process: process, Stream: key.stream, Note: "superd was replaced, and lines may be missing or be here twice"}
			if err := f.show(note); err != nil {
				return err
			}
		default: // nothing of it was shown: its past is not what was asked for
			fresh = after(past, f.lost)
		}
		for _, l := range fresh {
			if err := f.show(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// Unseen are the lines of past behind those that are known already, for each stream.
func Unseen(known, past []LogLine) []LogLine {
	var fresh []LogLine
	for stream, own := range byStream(past) {
		more, _ := unseen(byStream(known)[stream], own)
		fresh = append(fresh, more...)
	}
	return fresh
}

func byStream(lines []LogLine) map[string][]LogLine {
	all := map[string][]LogLine{}
	for _, l := range lines {
		all[l.Stream] = append(all[l.Stream], l)
	}
	return all
}

// unseen are the lines of past behind those that were shown last: where most of these
// stand in a row. known is false when none of them is there.
func unseen(shown, past []LogLine) (fresh []LogLine, known bool) {
	most, end := 0, 0
	for i := range past {
		n := 0
		for n < len(shown) && n <= i && shown[len(shown)-1-n].Line == past[i-n].Line {
			n++
		}
		if n > 0 && n >= most {
			most, end = n, i+1
		}
	}
	return past[end:], most > 0
}

func after(lines []LogLine, at time.Time) []LogLine {
	var late []LogLine
	for _, l := range lines {
		if l.At.After(at) {
			late = append(late, l)
		}
	}
	return late
}
