package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// StartSuperd runs `superd run` with the configuration, and waits until superctl
// says that all is as it should be.
func (l *Lab) StartSuperd(env ...string) (*Server, error) {
	s, err := l.LaunchSuperd(env...)
	if err != nil {
		return nil, err
	}
	return s, s.ready(func() bool { return l.Ctl("status").Code == 0 })
}

// LaunchSuperd runs it and does not wait.
func (l *Lab) LaunchSuperd(env ...string) (*Server, error) {
	return l.run(&Server{Name: "superd", stop: syscall.SIGTERM, wait: time.Minute}, env,
		filepath.Join(l.Bin, "superd"), "run", "--config", l.ConfigFile())
}

// An Outcome is how a call of superctl went.
type Outcome struct {
	Args   []string
	Code   int
	Out    string // stdout
	Err    string // stderr
	Began  time.Time
	Ended  time.Time
	Failed error // it could not be run at all
}

// Took is how long it ran.
func (o Outcome) Took() time.Duration { return o.Ended.Sub(o.Began) }

// String is the call with all that it said, for people.
func (o Outcome) String() string {
	text := []string{fmt.Sprintf("superctl %s: exit %d after %s", strings.Join(o.Args, " "), o.Code, o.Took().Round(time.Millisecond))}
	for _, said := range []string{o.Out, o.Err} {
		if said = strings.TrimSpace(said); said != "" {
			text = append(text, strings.Split(said, "\n")...)
		}
	}
	if o.Failed != nil {
		text = append(text, o.Failed.Error())
	}
	return strings.Join(text, "\n    ")
}

// Ctl runs superctl to its end, for five minutes at most.
func (l *Lab) Ctl(args ...string) Outcome {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	c := l.Superctl(ctx, args...)
	c.Stdout, c.Stderr = &out, &errs
	o := Outcome{Args: args, Began: time.Now()}
	err := c.Run()
	o.Ended, o.Out, o.Err = time.Now(), out.String(), errs.String()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		o.Failed = err
	}
	o.Code = c.ProcessState.ExitCode()
	return o
}

// Superctl is a call of superctl that is not run yet.
func (l *Lab) Superctl(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, filepath.Join(l.Bin, "superctl"), args...)
	c.Env = append(os.Environ(), "SUPERD_SOCKET="+l.ControlSocket())
	c.Dir = l.Dir
	return c
}

// Status is what these stories read of GET /v1/status. The names are the contract's
// and written down here once more: one that is renamed breaks the stories.
type Status struct {
	PID      int      `json:"pid"`
	Healthy  bool     `json:"healthy"`
	Problems []string `json:"problems"`
	Apps     []struct {
		Name   string     `json:"name"`
		State  string     `json:"state"`
		Live   Generation `json:"live"`
		Switch *struct {
			ID    string `json:"id"`
			Phase string `json:"phase"`
		} `json:"switch"`
		FPM struct {
			Generations []struct {
				Generation
				State  string `json:"state"`
				PID    int    `json:"pid"`
				Active int    `json:"active"`
			} `json:"generations"`
		} `json:"fpm"`
		Pools []Pool `json:"pools"`
	} `json:"apps"`
}

// A Pool is one of workers.
type Pool struct {
	Name     string `json:"name"`
	Wanted   int    `json:"wanted"`
	Running  int    `json:"running"`
	Draining int    `json:"draining"`
	Workers  []struct {
		Name    string `json:"name"`
		State   string `json:"state"`
		PID     int    `json:"pid"`
		Release string `json:"release"`
		Last    string `json:"last"`
	} `json:"workers"`
}

// A Generation is one deployment of a release.
type Generation struct {
	Number  uint64 `json:"generation"`
	Release string `json:"release"`
}

// Status asks superd on its socket, as a script with curl would.
func (l *Lab) Status() (Status, error) {
	var s Status
	body, err := l.Get("/v1/status")
	if err != nil {
		return s, err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return s, fmt.Errorf("read status: %w", err)
	}
	if len(s.Apps) != 1 {
		return s, fmt.Errorf("read status: %d apps", len(s.Apps))
	}
	return s, nil
}

// Get asks the control socket for a path.
func (l *Lab) Get(path string) (io.ReadCloser, error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", l.ControlSocket())
		},
	}}
	response, err := client.Get("http://superd" + path)
	if err != nil {
		return nil, fmt.Errorf("ask superd: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body) // for the message only
		return nil, errors.Join(fmt.Errorf("ask superd: %s: %s", response.Status, text), response.Body.Close())
	}
	return response.Body, nil
}

// An Event is one of GET /v1/events.
type Event struct {
	Seq     uint64     `json:"seq"`
	At      time.Time  `json:"at"`
	Kind    string     `json:"kind"`
	Switch  string     `json:"switch"`
	Phase   string     `json:"phase"`
	To      Generation `json:"to"`
	Verdict string     `json:"verdict"`
	Reason  string     `json:"reason"`
	Took    float64    `json:"took"`
	Process string     `json:"process"`
	PID     int        `json:"pid"`
	Message string     `json:"message"`
}

// Events are those after since.
func (l *Lab) Events(since uint64) ([]Event, error) {
	body, err := l.Get("/v1/events?since=" + strconv.FormatUint(since, 10))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var events []Event
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read event %q: %w", lines.Text(), err)
		}
		events = append(events, e)
	}
	return events, lines.Err()
}

// KillSuperd kills the superd of now, and tells its PID.
func (l *Lab) KillSuperd() (int, error) {
	serving := Of(l.Processes(), "superd")
	if len(serving) != 1 {
		return 0, fmt.Errorf("kill superd: there are %v", serving)
	}
	if err := syscall.Kill(serving[0].PID, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill superd: %w", err)
	}
	return serving[0].PID, nil
}

// Unlike tells what is not as it must be when the shop runs wholly on release, and
// nothing else is going on: by what superd says, by the link, and by what the
// kernel says. "" when all is so.
func (l *Lab) Unlike(release string) string {
	s, err := l.Status()
	if err != nil {
		return err.Error()
	}
	app := s.Apps[0]
	switch {
	case !s.Healthy || app.State != "ok":
		return fmt.Sprintf("state %s, problems %q", app.State, s.Problems)
	case app.Live.Release != release:
		return "live is " + app.Live.Release
	case l.Shop.Current() != release:
		return "the link leads to " + l.Shop.Current()
	}
	return l.processesUnlike(release, app.Pools[0].Wanted)
}

// processesUnlike counts masters and workers as the kernel has them: one too many
// is as wrong as one too few.
func (l *Lab) processesUnlike(release string, workers int) string {
	all := l.Processes()
	if n := len(Of(all, "master")); n != 1 {
		return fmt.Sprintf("%d masters of php-fpm: %v", n, Of(all, "master"))
	}
	if n := len(Of(all, "superd")); n != 1 {
		return fmt.Sprintf("%d superds", n)
	}
	slots := map[string]int{}
	for _, p := range Of(all, "worker") {
		slots[p.Slot]++
	}
	if n := len(Of(all, "worker")); n != workers || len(slots) != workers {
		return fmt.Sprintf("%d workers in slots %v, want %d", n, slots, workers)
	}
	for _, kind := range []string{"pool", "worker"} {
		for _, p := range Of(all, kind) {
			if p.Release != release {
				return "not of " + release + ": " + p.String()
			}
		}
	}
	return ""
}
