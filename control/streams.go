package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"superd/release"
)

// events sends what is kept after a number and, with follow, what comes. A gap is
// told; one that opens while someone follows means that he is too slow, and is the
// last that he hears: he may come again, from where he was.
func (q *request) events() error {
	since, follow, err := q.eventQuery()
	if err != nil {
		return err
	}
	if follow {
		leave, err := q.follow()
		if err != nil {
			return err
		}
		defer leave()
	}
	if err := q.begin(); err == nil {
		q.sendEvents(since, follow)
	}
	return nil
}

func (q *request) sendEvents(since uint64, follow bool) {
	for first := true; ; first = false {
		next, from, more := q.server.events.after(since)
		if since != from && (since != 0 || !first) {
			err := q.tell(lagged(time.Now(), from, "%s", gap(since, from)))
			if err != nil || !first {
				return
			}
		}
		since = from
		if q.send(q.lines(next, q.sees)) != nil {
			return // it is gone, or does not read
		}
		if len(next) > 0 {
			since = next[len(next)-1].seq
			continue
		}
		if !follow {
			return
		}
		select {
		case <-more:
		case <-q.http.Context().Done():
			return
		}
	}
}

// gap says why a reader goes on after from, and not after since as it asked for.
func gap(since, from uint64) string {
	if since > from {
		return fmt.Sprintf("there is no event number %d: the last one is %d", since, from)
	}
	return fmt.Sprintf("events after number %d are not kept any longer", since)
}

// follow takes one of the places that followers have.
func (q *request) follow() (leave func(), err error) {
	if !q.server.followers.take(q.peer) {
		return nil, &Error{Kind: Overloaded, Message: "too many followers", Hint: "end some, or try again in a moment"}
	}
	return func() { q.server.followers.give(q.peer) }, nil
}

func (q *request) sees(k kept) bool { return k.kind == EventLagged || q.grant.sees(k.app) }

func (q *request) lines(from []kept, want func(kept) bool) []byte {
	var text []byte
	for _, k := range from {
		if want(k) {
			text = append(text, k.line...)
		}
	}
	return text
}

func (q *request) tell(e Event) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write event: %w", err)
	}
	return q.send(append(text, '\n'))
}

// followSwitch sends the events of one switch, to its end.
func (q *request) followSwitch(r release.Record, since uint64) error {
	if err := q.begin(); err != nil {
		return nil // it is gone; the switch goes on
	}
	own := func(k kept) bool { return k.app == q.app && k.of == r.ID }
	for {
		next, from, more := q.server.events.after(since)
		if from != since {
			return q.outcome(r)
		}
		if err := q.send(q.lines(next, own)); err != nil {
			return nil
		}
		for _, k := range next {
			since = k.seq
			if own(k) && k.kind == EventSwitchEnded {
				return nil
			}
		}
		if len(next) > 0 {
			continue
		}
		select {
		case <-more:
		case <-q.http.Context().Done():
			return q.leftGoing(r)
		}
	}
}

// outcome is for when events of the switch are missing.
func (q *request) outcome(r release.Record) error {
	if err := q.tell(lagged(time.Now(), 0, "events are missing; the end will be told")); err != nil {
		return nil
	}
	end, err := q.server.daemon.Outcome(q.http.Context(), q.app, r.ID)
	switch {
	case q.http.Context().Err() != nil:
		return q.leftGoing(r)
	case err != nil:
		return err
	}
	_ = q.tell(ended(q.app, end)) // an error means that it is gone
	return nil
}

// leftGoing is for when superd stops before the switch has ended.
func (q *request) leftGoing(r release.Record) error {
	return &Error{
		Kind: StillGoing, Message: fmt.Sprintf("superd stops, and switch %s to %s is left to the next one", r.ID, r.To.Release),
		Hint: fmt.Sprintf("GET /v1/apps/%s/history tells what became of it", q.app),
	}
}

// nothingToDo is the one event of a switch to what is live already.
func (q *request) nothingToDo(r release.Record, why error) error {
	if err := q.begin(); err != nil {
		return nil
	}
	e := ended(q.app, release.Record{Verdict: release.Live, To: r.To})
	e.At, e.Took, e.Message = time.Now(), 0, why.Error()
	_ = q.tell(e)
	return nil
}

// logs sends what processes wrote. Nothing is answered before there is something, or
// it is known that there is nothing: until then an error has a status of its own.
func (q *request) logs() error {
	query, err := q.logQuery()
	if err != nil {
		return err
	}
	if query.Follow {
		leave, err := q.follow()
		if err != nil {
			return err
		}
		defer leave()
	}
	names, err := q.callees(RoleRead)
	if err != nil {
		return err
	}
	query.Name, query.More = names[0], names[1:]
	err = q.server.daemon.Logs(q.http.Context(), query, q.logLine)
	if q.http.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return nil
	}
	if err == nil && !q.begun {
		return q.begin()
	}
	return err
}

// maxLogLine is where a line is cut for those who look at it; on disk it is whole.
const maxLogLine = 64 << 10

func (q *request) logLine(l LogLine) error {
	l.Line = l.Line[:min(len(l.Line), maxLogLine)]
	text, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("write log line: %w", err)
	}
	if !q.begun {
		if err := q.begin(); err != nil {
			return err
		}
	}
	return q.send(append(text, '\n'))
}
