// Command demo shows the main job on a small but real PHP shop, in less than a
// minute: nginx in front, visitors and jobs all the time, and behind that a switch
// to another release, a bad release that is taken back, and a rollback in the middle
// of which superd is killed. It ends with a report of what the visitors noticed.
//
// It exits with 1 when a promise was broken, and leaves nothing running.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"superd/e2e/lab"
	"superd/e2e/load"
	"superd/e2e/shop"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	d := &demo{began: time.Now()}
	err := errors.Join(d.run(ctx), d.end())
	if ctx.Err() != nil {
		err = errors.Join(errors.New("interrupted; nothing is left running"), err)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

const (
	rate     = 200 // visitors a second
	jobsRate = 50
)

// A demo is one performance.
type demo struct {
	began  time.Time
	lab    *lab.Lab
	redis  *lab.Redis
	nginx  *lab.WebServer
	calls  []call
	spans  []load.Span
	killed time.Time // superd
	pid    int       // which it was

	visitors *load.Run
	buying   sync.WaitGroup
	enough   context.CancelFunc // of jobs
	pushed   []string
}

// A call of superctl, and what was expected of it.
type call struct {
	lab.Outcome
	want int
	why  string
}

func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.build, d.open, d.switchOver, d.tryBad, d.rollBack, d.closeDoors,
	} {
		err := step(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && d.visitors != nil {
			return errors.Join(err, d.tell()) // what is known helps to find out why
		}
		if err != nil {
			return err
		}
	}
	return d.tell()
}

func (d *demo) end() error {
	d.stopBuying()
	if d.visitors != nil {
		d.visitors.Stop()
	}
	if d.lab == nil {
		return nil
	}
	return d.lab.End()
}

func (d *demo) stopBuying() {
	if d.enough != nil {
		d.enough()
	}
	d.buying.Wait()
}

func (d *demo) say(format string, a ...any) {
	fmt.Printf("%5.1fs  %s\n", time.Since(d.began).Seconds(), fmt.Sprintf(format, a...))
}

// build makes the shop and three releases of it.
func (d *demo) build(context.Context) (err error) {
	if d.lab, err = lab.New(); err != nil {
		return err
	}
	d.say("a shop in %s: releases r1 and r2 are good, r3 is well until it is live", d.lab.Shop.Root)
	err = errors.Join(d.lab.Shop.Add("r1"), d.lab.Shop.Add("r2"), d.lab.Shop.Add("r3", shop.SickOnceLive()),
		d.lab.Shop.Point("r1"), d.lab.Configure(lab.Config{Children: 24, Workers: 4, Watch: "3s", Canary: 1}))
	if err != nil {
		return err
	}
	if d.redis, err = d.lab.StartRedis(); err != nil {
		return err
	}
	if _, err = d.lab.StartSuperd(); err != nil {
		return err
	}
	if d.nginx, err = d.lab.StartNginx(d.lab.FPMSocket(), "$realpath_root"); err != nil {
		return err
	}
	d.say("superd runs it: PHP-FPM with 24 children, 4 queue workers; nginx is in front, Redis holds the queue")
	return nil
}

// open lets visitors and jobs in.
func (d *demo) open(ctx context.Context) error {
	d.visitors = load.Start(load.Plan{URL: d.nginx.URL, Rate: rate})
	ctx, d.enough = context.WithCancel(ctx)
	d.buying.Go(func() { d.buy(ctx) })
	d.say("open: %d visitors and %d jobs a second, from now on without a pause", rate, jobsRate)
	d.spans = append(d.spans, load.Span{From: time.Now(), Release: "r1"})
	return pause(ctx, 2*time.Second)
}

func (d *demo) buy(ctx context.Context) {
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second / jobsRate):
		}
		id := fmt.Sprintf("job-%d", i)
		length := 10 + i*7%60 // milliseconds
		if i%50 == 0 {
			length = 2000 // outlasts the rotation of the workers
		}
		if err := d.redis.Push(id, length); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return
		}
		d.pushed = append(d.pushed, id)
	}
}

func (d *demo) switchOver(ctx context.Context) error {
	d.superctl(0, "to a good release", "switch", "r2")
	return errors.Join(d.live("r2"), pause(ctx, time.Second))
}

func (d *demo) tryBad(ctx context.Context) error {
	d.superctl(3, "a bad release: superd takes it back by itself", "switch", "r3")
	return errors.Join(d.live("r2"), pause(ctx, time.Second))
}

// rollBack goes back to r1, and kills superd when users are back on it already but
// the switch is not over.
func (d *demo) rollBack(ctx context.Context) error {
	watch, enough := context.WithCancel(ctx)
	var killing sync.WaitGroup
	killing.Go(func() { d.kill(watch) })
	d.superctl(0, "back to r1; superd is killed in the middle of it", "rollback")
	enough()
	killing.Wait()
	if d.killed.IsZero() && ctx.Err() == nil {
		return errors.New("superd could not be killed in time")
	}
	if err := d.whole(ctx, "r1"); err != nil {
		return err
	}
	return errors.Join(d.live("r1"), pause(ctx, time.Second))
}

func (d *demo) kill(ctx context.Context) {
	for ctx.Err() == nil {
		s, err := d.lab.Status()
		if err == nil && s.Apps[0].Switch != nil && s.Apps[0].Switch.Phase == "watching" {
			if d.pid, err = d.lab.KillSuperd(); err == nil {
				d.killed = time.Now()
				d.say("kill -9 %d: superd is dead, its children are not", d.pid)
			}
			return
		}
		_ = pause(ctx, 20*time.Millisecond) // or it is over
	}
}

// whole waits until the next superd has settled the rollback.
func (d *demo) whole(ctx context.Context, release string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		unlike := d.lab.Unlike(release)
		if unlike == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not wholly on %s after 20s: %s", release, unlike)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// closeDoors lets nobody in any more and waits for what is under way.
func (d *demo) closeDoors(ctx context.Context) error {
	d.stopBuying()
	for range 200 {
		account, err := d.account()
		if err != nil {
			return err
		}
		if account.Done == account.Pushed {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	d.say("closed: no more visitors, all jobs are taken")
	return nil
}

func (d *demo) account() (shop.Account, error) {
	jobs, err := d.lab.Shop.Jobs()
	if err != nil {
		return shop.Account{}, err
	}
	return shop.Settle(d.pushed, jobs), nil
}

func (d *demo) superctl(want int, why string, args ...string) {
	d.say("superctl %s   (%s)", strings.Join(args, " "), why)
	if n := len(d.spans); n > 0 {
		d.spans[n-1].Until = time.Now()
	}
	o := d.lab.CtlOnTerminal(nil, args...)
	d.calls = append(d.calls, call{o, want, why})
	for line := range strings.Lines(o.Out + o.Err) {
		fmt.Printf("        │ %s", strings.TrimRight(line, "\n")+"\n")
	}
	d.say("exit %d after %s", o.Code, o.Took().Round(time.Millisecond))
}

// live notes that from now on only release may answer.
func (d *demo) live(release string) error {
	s, err := d.lab.Status()
	if err != nil {
		return err
	}
	live := s.Apps[0].Live
	if live.Release != release {
		return fmt.Errorf("%s is live, %s should be", live.Release, release)
	}
	d.spans = append(d.spans, load.Span{From: time.Now(), Until: time.Now().Add(time.Hour), Release: release, Generation: live.Number})
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}
