// Command bench puts the same load on superd and on the ways people switch releases
// with today, in the same run, and prints a table for docs/benchmarks.md.
//
// Each way gets a fresh lab, a constant rate of requests, and a deployment every
// few seconds. Rounds go around the ways, so that a noisy minute of the machine
// meets all of them; the table has medians over the rounds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 3, "how often each way is measured")
	flag.IntVar(&b.rate, "rate", 300, "requests a second")
	flag.IntVar(&b.deployments, "deployments", 4, "deployments in each measurement")
	flag.Parse()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	rounds, rate, deployments int
}

// A way is one of moving an app to another release.
type way struct {
	name string
	// begin starts PHP in l and tells its socket, and how to deploy a release there.
	begin func(l *lab.Lab, redis *lab.Redis) (socket string, deploy func(release string) error, err error)
	got   []measurement
}

// A measurement is one way in one round.
type measurement struct {
	load.Report
	took  []time.Duration // deployments
	flips []time.Duration // superd only
}

const children = 32

func ways() []*way {
	all := []*way{
		{name: "no deployment at all", begin: nothing},
		{name: "superd: `superctl switch`", begin: superd},
		{name: "link and SIGUSR2, process_control_timeout = 0 (the default)", begin: reload("0")},
		{name: "link and SIGUSR2, process_control_timeout = 10s", begin: reload("10s")},
	}
	all = append(all, &way{name: "link and `supervisorctl restart`", begin: supervisord})
	return all
}

func (b *bench) run(ctx context.Context) error {
	all := ways()
	for round := range b.rounds {
		for _, w := range all {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, b.rounds, w.name)
			m, err := b.measure(ctx, w)
			if ctx.Err() != nil {
				return errors.Join(errors.New("interrupted"), err)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			w.got = append(w.got, m)
		}
	}
	back, err := b.measureRollbacks()
	if err != nil {
		return fmt.Errorf("rollbacks: %w", err)
	}
	fmt.Print(b.markdown(all, back))
	return nil
}

// measure runs one way for one round.
func (b *bench) measure(ctx context.Context, w *way) (m measurement, err error) {
	l, redis, err := newLab()
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, l.End()) }()
	socket, deploy, err := w.begin(l, redis)
	if err != nil {
		return m, err
	}
	nginx, err := l.StartNginx(socket, "$realpath_root")
	if err != nil {
		return m, err
	}
	run := load.Start(load.Plan{URL: nginx.URL, Rate: b.rate})
	for i := range b.deployments {
		pause(ctx, 4*time.Second)
		if ctx.Err() != nil {
			break
		}
		began := time.Now()
		if err = deploy([]string{"r2", "r1"}[i%2]); err != nil {
			break
		}
		m.took = append(m.took, time.Since(began))
	}
	pause(ctx, 4*time.Second)
	m.Report = run.Stop()
	if events, eventsErr := l.Events(0); eventsErr == nil {
		m.flips = flips(events)
	}
	return m, err
}

func newLab() (*lab.Lab, *lab.Redis, error) {
	l, err := lab.New()
	if err != nil {
		return nil, nil, err
	}
	redis, err := l.StartRedis()
	err = errors.Join(err, l.Shop.Add("r1"), l.Shop.Add("r2"), l.Shop.Point("r1"),
		l.Configure(lab.Config{Children: children, Watch: "1s", Workers: 2}))
	if err != nil {
		return nil, nil, errors.Join(err, l.End())
	}
	return l, redis, nil
}

func nothing(l *lab.Lab, redis *lab.Redis) (string, func(string) error, error) {
	fpm, err := l.StartPHPFPM("php-fpm", children, "0", redis.Socket)
	if err != nil {
		return "", nil, err
	}
	return fpm.Socket, func(string) error { return nil }, nil
}

func superd(l *lab.Lab, _ *lab.Redis) (string, func(string) error, error) {
	_, err := l.StartSuperd()
	return l.FPMSocket(), func(release string) error {
		if o := l.Ctl("switch", release); o.Code != 0 {
			return errors.New(o.String())
		}
		return nil
	}, err
}

// reload is what deployment tools do: the link is replaced, then php-fpm told.
func reload(timeout string) func(*lab.Lab, *lab.Redis) (string, func(string) error, error) {
	return func(l *lab.Lab, redis *lab.Redis) (string, func(string) error, error) {
		fpm, err := l.StartPHPFPM("php-fpm", children, timeout, redis.Socket)
		if err != nil {
			return "", nil, err
		}
		return fpm.Socket, func(release string) error {
			return errors.Join(l.Shop.Point(release), fpm.Signal(syscall.SIGUSR2))
		}, nil
	}
}

func supervisord(l *lab.Lab, redis *lab.Redis) (string, func(string) error, error) {
	fpm, err := l.StartSupervisedPHPFPM(children, redis.Socket)
	if err != nil {
		return "", nil, err
	}
	return fpm.Socket, func(release string) error {
		return errors.Join(l.Shop.Point(release), fpm.Restart())
	}, nil
}

// flips are how long each promotion took: the link is moved, synced, and the socket
// leads to the other PHP-FPM.
func flips(events []lab.Event) []time.Duration {
	var took []time.Duration
	var began lab.Event
	for _, e := range events {
		switch {
		case e.Kind != "switch.phase":
		case e.Phase == "promoting":
			began = e
		case e.Phase == "rotating" && e.Switch == began.Switch:
			took = append(took, e.At.Sub(began.At))
		}
	}
	return took
}

// measureRollbacks aborts switches while they are watched: how long from the
// decision to the first page of the old release?
func (b *bench) measureRollbacks() (back []time.Duration, err error) {
	l, redis, err := newLab()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.End()) }()
	if err := l.Configure(lab.Config{Children: children, Watch: "30s", Workers: 2}); err != nil {
		return nil, err
	}
	socket, _, err := superd(l, redis)
	if err != nil {
		return nil, err
	}
	nginx, err := l.StartNginx(socket, "$realpath_root")
	if err != nil {
		return nil, err
	}
	run := load.Start(load.Plan{URL: nginx.URL, Rate: b.rate, Mix: []load.Route{{Name: "5 ms", Path: "/", Share: 1}}})
	for range 3 * b.rounds {
		if err := abortWhileWatched(l); err != nil {
			return nil, errors.Join(err, l.End())
		}
	}
	r := run.Stop()
	events, err := l.Events(0)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Kind != "switch.phase" || e.Phase != "rolling-back" {
			continue
		}
		if first, ok := r.FirstAnswer("r1", e.At); ok {
			back = append(back, first.Sub(e.At))
		}
	}
	return back, nil
}

func abortWhileWatched(l *lab.Lab) error {
	if o := l.Ctl("switch", "r2", "--wait=no"); o.Code != 0 && o.Code != 7 {
		return errors.New(o.String())
	}
	told := false
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		s, err := l.Status()
		switch {
		case err != nil:
			return err
		case s.Apps[0].Switch == nil && told:
			return nil
		case s.Apps[0].Switch != nil && s.Apps[0].Switch.Phase == "watching" && !told:
			if o := l.Ctl("abort"); o.Code != 0 {
				return errors.New(o.String())
			}
			told = true
		}
	}
	return errors.New("a switch was not taken back within 30s")
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// markdown is the table.
func (b *bench) markdown(all []*way, back []time.Duration) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d requests a second (%s), %d children, %d deployments in each of %d rounds; medians over the rounds.\n\n",
		b.rate, mixWords(), children, b.deployments, b.rounds)
	s.WriteString("| way | requests failed per deployment | longest time without a page | × no deployment | sleeps cut short per deployment | 99% of 5 ms pages within | slowest 5 ms page |\n")
	s.WriteString("|---|---|---|---|---|---|---|\n")
	still := median(all[0].got, func(m measurement) float64 { return m.Gap.Seconds() })
	for _, w := range all {
		gap := median(w.got, func(m measurement) float64 { return m.Gap.Seconds() })
		fmt.Fprintf(&s, "| %s | %.1f | %s | %.1f | %.1f | %s | %s |\n", w.name,
			median(w.got, func(m measurement) float64 { return float64(m.Failed()) / float64(b.deployments) }),
			milliseconds(gap), gap/still,
			median(w.got, func(m measurement) float64 { return float64(m.Cut) / float64(b.deployments) }),
			milliseconds(median(w.got, func(m measurement) float64 { return m.Route(0, 0.99).Seconds() })),
			milliseconds(median(w.got, func(m measurement) float64 { return m.Route(0, 1).Seconds() })))
	}
	var flips, took []time.Duration
	for _, m := range all[1].got {
		flips, took = append(flips, m.flips...), append(took, m.took...)
	}
	s.WriteString("\n| superd | median | longest | times |\n|---|---|---|---|\n")
	for _, row := range []struct {
		name  string
		times []time.Duration
	}{
		{"promotion: the link is moved and synced, the socket flipped", flips},
		{"rollback while watched: from the decision to the first page of the old release", back},
		{"a whole switch: start, checks, workers, 1 s of watching", took},
	} {
		slices.Sort(row.times)
		if n := len(row.times); n > 0 {
			fmt.Fprintf(&s, "| %s | %s | %s | %d |\n", row.name, milliseconds(row.times[n/2].Seconds()), milliseconds(row.times[n-1].Seconds()), n)
		}
	}
	return s.String()
}

func mixWords() string {
	var words []string
	for _, route := range load.Mix() {
		words = append(words, fmt.Sprintf("%.1f%% %s", float64(route.Share)/10, route.Name))
	}
	return strings.Join(words, ", ")
}

func median(got []measurement, of func(measurement) float64) float64 {
	values := make([]float64, 0, len(got))
	for _, m := range got {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func milliseconds(seconds float64) string {
	if ms := seconds * 1000; ms < 10 {
		return fmt.Sprintf("%.2f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", seconds*1000)
}
