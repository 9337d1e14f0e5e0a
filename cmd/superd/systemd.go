package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"superd/config"
)

// systemd listens to its main process only (NotifyAccess=main), and that is the keeper:
// with NotifyAccess=all any worker could speak for superd. So superd speaks in the
// keeper's name, which the kernel lets root do (unix(7), SCM_CREDENTIALS; the same as
// sd_pid_notify(3)). Who is not root speaks in his own, for a unit that allows that.

// tellSystemd sends lines of sd_notify(3). Nothing depends on it: without systemd it does
// nothing, and what does not go is logged.
func (d *daemon) tellSystemd(lines string) {
	if err := notifySystemd(os.Getenv("NOTIFY_SOCKET"), systemdKnows(), lines); err != nil {
		d.log.Warn("systemd cannot be told", "error", err)
	}
}

// systemdKnows is the PID of the process that systemd has started. superd's parent may be
// an older superd that is about to leave, so what systemd itself says comes first.
func systemdKnows() int {
	if pid, err := strconv.Atoi(os.Getenv("WATCHDOG_PID")); err == nil && pid > 0 {
		return pid
	}
	return os.Getppid()
}

func underSystemd() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

func notifySystemd(socket string, sender int, lines string) error {
	if socket == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }() // a datagram is sent or not
	to := &unix.SockaddrUnix{Name: socket}
	if os.Geteuid() == 0 && sender > 0 {
		who := unix.UnixCredentials(&unix.Ucred{Pid: int32(sender)})
		err := unix.Sendmsg(fd, []byte(lines), who, to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
			return notSent(err)
		}
	}
	return notSent(unix.Sendmsg(fd, []byte(lines), nil, to, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL))
}

func notSent(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("send: %w", err)
}

// reloadingLine tells that a reload has begun; READY=1 tells its end. systemd wants to know
// when on the clock that it uses itself (sd_notify(3), MONOTONIC_USEC).
func reloadingLine() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return "RELOADING=1" // cannot be: the clock is always there
	}
	return "RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10)
}

// stoppingLine asks for as much time as the slowest process may take, whatever
// TimeoutStopSec= says. Before a restart PHP-FPM ends after the work: the two times add.
func stoppingLine(cfg *config.Config) string {
	longest := time.Duration(0)
	for i := range cfg.Apps {
		longest = max(longest, slowest(&cfg.Apps[i]))
	}
	longest = min(longest, year) + slowestPrograms(cfg) // some go before the apps, some behind
	const spare = 20 * time.Second                      // the keeper ends what is left
	return "STOPPING=1\nSTATUS=stopping; requests and jobs finish first\nEXTEND_TIMEOUT_USEC=" +
		strconv.FormatInt((min(longest, year)+spare).Microseconds(), 10) // systemd adds it to its clock
}

// slowest is how long a stop of an app may take.
func slowest(a *config.App) time.Duration {
	var work, web time.Duration
	if a.FPM != nil {
		web = a.FPM.DrainTimeout
	}
	for _, w := range a.Workers {
		work = max(work, w.StopTimeout)
	}
	if most := time.Duration(math.MaxInt64) - web; work > most {
		return most
	}
	return work + web
}

// startPatience is for how long systemd is asked to go on waiting, again and again.
const startPatience = 30 * time.Second

// tellWhenReady tells systemd that superd is here once every program that is to be up is,
// or has had its say, and every app too, so that a unit that comes after superd comes after
// them. From then on it tells how things are.
func (d *daemon) tellWhenReady(ctx context.Context) error {
	again, look := time.NewTicker(startPatience/3), time.NewTicker(50*time.Millisecond)
	defer again.Stop()
	defer look.Stop()
	for programs := d.programs.Settled(); programs != nil || !d.appsSettled(); {
		select {
		case <-ctx.Done():
			return nil
		case <-programs:
			programs = nil
		case <-look.C:
		case <-again.C:
			d.tellSystemd(fmt.Sprintf("STATUS=apps and programs are on their way up\nEXTEND_TIMEOUT_USEC=%d", startPatience.Microseconds()))
		}
	}
	look.Stop()
	again.Stop()
	d.tellSystemd("READY=1")
	if err := giveBack(); err != nil {
		d.log.Warn("superd takes more memory than it needs", "error", err)
	}
	d.tellHowItIs(ctx)
	return nil
}

// appsSettled tells whether every app is up, or has had its say. One in the middle of a
// switch, which this superd goes on with, is up.
func (d *daemon) appsSettled() bool {
	for _, a := range d.allApps() {
		if shot := a.switcher.Snapshot(); shot.Settling && shot.Current == nil {
			return false
		}
	}
	return true
}
