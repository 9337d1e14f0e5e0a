package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"superd/release"
)

// Patience with a superd that is being replaced. The keeper begins another one at
// once; one that had to be tried several times is there within this.
const (
	comeback = 30 * time.Second
	retry    = 200 * time.Millisecond
)

// maxAnswerLine is more than superd writes in one line, of a log too.
const maxAnswerLine = 1 << 20

var (
	errEnough = errors.New("the reader has had enough")
	errNotYet = errors.New("superd has just begun and does not know yet")
)

// Events are the events after since that are kept and, with follow, those to come,
// until ctx ends or superd is gone and does not come back. One of kind EventLagged
// stands where some are missing.
func (c *Client) Events(ctx context.Context, since uint64, follow bool) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := follower{client: c, since: since, once: !follow}
		f.each = func(e Event) error { return enough(yield(e, nil)) }
		f.again = func() error { return nil }
		last(yield, f.run(ctx))
	}
}

// FollowSwitch are the events of one switch after since, to its end: see
// SwitchAnswer. The last one is of kind EventSwitchEnded, or there is an error.
func (c *Client) FollowSwitch(ctx context.Context, app, id string, since uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := follower{client: c, since: since, deadline: time.Now().Add(comeback)}
		f.again = func() error {
			e, err := c.whatBecame(ctx, app, id)
			if err == nil && e.Kind == EventSwitchEnded {
				yield(e, nil)
				return errEnough
			}
			return err
		}
		f.each = func(e Event) error {
			switch {
			case e.Kind == EventLagged:
				return f.again()
			case e.Switch != id || e.App != app: // another app's may be called the same
				return nil
			}
			return enough(yield(e, nil) && e.Kind != EventSwitchEnded)
		}
		last(yield, f.run(ctx))
	}
}

func enough(more bool) error {
	if more {
		return nil
	}
	return errEnough
}

// last yields how a stream ended, unless that is by its reader's will.
func last[T any](yield func(T, error) bool, err error) {
	if err != nil && !errors.Is(err, errEnough) {
		var none T
		yield(none, err)
	}
}

// A follower reads events and, when superd is gone, goes on where it was with the
// next one.
type follower struct {
	client   *Client
	since    uint64
	once     bool // do not wait for more
	each     func(Event) error
	again    func() error // before it connects anew
	deadline time.Time    // for superd to come back
}

func (f *follower) run(ctx context.Context) error {
	for err := f.read(ctx); ; err = f.resume(ctx) {
		switch {
		case f.once, err != nil && !passes(err), time.Now().After(f.deadline):
			return err
		}
		select {
		case <-ctx.Done():
			return f.client.unreachable(ctx, nil)
		case <-time.After(retry):
		}
	}
}

// passes tells whether an error may be over in a moment.
func passes(err error) bool {
	return errors.Is(err, errNotYet) || KindOf(err) == Unreachable
}

func (f *follower) resume(ctx context.Context) error {
	err := f.again()
	if errors.Is(err, errNotYet) {
		f.deadline = time.Now().Add(comeback) // it is there, and has begun
	}
	if err != nil {
		return err
	}
	return f.read(ctx)
}

// read reads until superd ends the stream or is gone.
func (f *follower) read(ctx context.Context) error {
	query := url.Values{"since": {strconv.FormatUint(f.since, 10)}}
	if !f.once {
		query.Set("follow", "1")
	}
	connected, err := lines(ctx, f.client, "/v1/events?"+query.Encode(), func(e Event) error {
		f.since = e.Seq // smaller than before when superd has lost its events
		return f.each(e)
	})
	if connected {
		f.deadline = time.Now().Add(comeback)
	}
	return err
}

// lines reads a stream of JSON values, one a line, until it ends or each says so.
func lines[T any](ctx context.Context, c *Client, path string, each func(T) error) (connected bool, err error) {
	response, err := c.ask(ctx, http.MethodGet, path, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswerLine))
		return true, errorIn(response.StatusCode, text)
	}
	in := bufio.NewScanner(response.Body)
	in.Buffer(nil, maxAnswerLine)
	for in.Scan() {
		var failed ErrorAnswer
		if err := json.Unmarshal(in.Bytes(), &failed); err == nil && failed.Error.Kind != "" {
			return true, &failed.Error
		}
		var value T
		if err := json.Unmarshal(in.Bytes(), &value); err != nil {
			return true, &Error{Kind: Internal, Message: fmt.Sprintf("read stream of superd: %v", err), Hint: otherVersion}
		}
		if err := each(value); err != nil {
			return true, err
		}
	}
	if in.Err() != nil {
		return true, c.unreachable(ctx, in.Err())
	}
	return true, nil
}

// whatBecame is the event of the end of a switch that has ended, as the next superd
// knows it; the zero Event while it goes on.
func (c *Client) whatBecame(ctx context.Context, app, id string) (Event, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return Event{}, err
	}
	at := slices.IndexFunc(status.Apps, func(a AppStatus) bool { return a.Name == app })
	if at < 0 {
		return Event{}, &Error{Kind: NotFound, Message: fmt.Sprintf("there is no app %s any longer", app)}
	}
	current := status.Apps[at].Switch
	if current != nil && current.ID == id {
		return Event{}, nil
	}
	history, err := c.History(ctx, app) // after the status, so that one has it
	if err != nil {
		return Event{}, err
	}
	for _, r := range slices.Backward(history) {
		if r.ID == id {
			return ended(app, r.Record), nil
		}
	}
	if status.Apps[at].State == AppSettling {
		return Event{}, errNotYet
	}
	return Event{}, &Error{Kind: Rejected, Message: "superd ended before the switch began; nothing was changed", Hint: "ask for it again"}
}

// ended is the last event of a switch, made from what is kept of it.
func ended(app string, r release.Record) Event {
	return SwitchEvent(app, release.Event{
		Kind: EventSwitchEnded, Switch: r.ID, At: r.Ended, Phase: r.Phase, From: r.From, To: r.To,
		Verdict: r.Verdict, Reason: r.Cause, Lines: r.Lines, Took: r.Ended.Sub(r.Started),
	})
}
