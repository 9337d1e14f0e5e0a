package keeper_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/client"
)

// The test binary is also what keepers keep and who commands them: its first
// argument may name a mood.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if mood, ok := moods[strings.TrimPrefix(os.Args[1], "mood:")]; ok && strings.HasPrefix(os.Args[1], "mood:") {
			if err := mood(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, "mood:", err)
				os.Exit(99)
			}
			os.Exit(0)
		}
	}
	// What these tests do most is wait: more of them than there are processors may.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var moods = map[string]func(args []string) error{
	"superd": beSuperd, "victim": beVictim, "dirty": beDirty, "dial": beDialer,
	"pulsing": bePulsing, "crashing": beCrashing, "unprivileged": beUnprivileged, "breeder": beBreeder, "burst": beBurst,
	"relaxed": beRelaxed,
}

func mood(name string, args ...string) []string {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return append([]string{self, "mood:" + name}, args...)
}

func note(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return err
}

// beSuperd claims the fleet and writes down what happens to it, until it is told
// to end. Arguments: file, what to do on SIGTERM ("shutdown", "ignore"), how long
// to wait before it claims.
func beSuperd(args []string) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	if err := note(args[0], fmt.Sprintf("began %d", os.Getpid())); err != nil {
		return err
	}
	wait, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	select {
	case s := <-signals: // a superd that is told to end before it has claimed just ends
		return note(args[0], fmt.Sprintf("%d got %s too early", os.Getpid(), s))
	case <-time.After(wait):
	}
	c, err := client.Dial(context.Background(), os.Getenv("SUPERD_KEEPER"))
	if err != nil {
		return err
	}
	line := fmt.Sprintf("claimed %d epoch %d children %d pgid %d", os.Getpid(), c.Epoch(), len(c.Children()), syscall.Getpgrp())
	if err := note(args[0], line); err != nil {
		return err
	}
	if args[1] == "ignore" && len(c.Children()) == 0 {
		ch, err := c.Spawn(context.Background(), client.Spec{Slot: "s", Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			return err
		}
		if err := ch.Open(); err != nil {
			return err
		}
	}
	for {
		var s os.Signal
		select {
		case s = <-signals:
		case <-c.Fenced():
			return note(args[0], fmt.Sprintf("%d fenced", os.Getpid()))
		}
		if err := note(args[0], fmt.Sprintf("%d got %s", os.Getpid(), s)); err != nil {
			return err
		}
		if s == unix.SIGTERM && args[1] == "shutdown" {
			if err := c.Shutdown(5); err != nil {
				return err
			}
			return note(args[0], "shut down")
		}
	}
}

// beCrashing claims, makes one child if there is none, and ends.
func beCrashing(args []string) error {
	c, err := client.Dial(context.Background(), os.Getenv("SUPERD_KEEPER"))
	if err != nil {
		return err
	}
	pid := 0
	for _, ch := range c.Children() {
		pid = ch.PID
	}
	if pid == 0 {
		ch, err := c.Spawn(context.Background(), client.Spec{Slot: "s", Argv: []string{"/bin/sleep", "1000"}})
		if err != nil {
			return err
		}
		if err := ch.Open(); err != nil {
			return err
		}
		pid = ch.PID
	}
	if err := note(args[0], fmt.Sprintf("life %d child %d", os.Getpid(), pid)); err != nil {
		return err
	}
	os.Exit(3)
	return nil
}

// beVictim is a superd that is killed by SIGKILL at one step.
func beVictim(args []string) error {
	socket, step := args[0], args[1]
	reached := func(s string) {
		if s == step {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	ctx := context.Background()
	reached("start")
	c, err := client.Dial(ctx, socket)
	if err != nil {
		return err
	}
	reached("claimed")
	r, _, err := os.Pipe()
	if err != nil {
		return err
	}
	if err := c.Put("thing", r); err != nil {
		return err
	}
	reached("put")
	long, err := c.Spawn(ctx, client.Spec{Slot: "long", Note: []byte("n"), Argv: []string{"/bin/sh", "-c", "echo out; exec sleep 1000"}})
	if err != nil {
		return err
	}
	reached("spawned")
	if err := long.Open(); err != nil {
		return err
	}
	reached("opened")
	short, err := c.Spawn(ctx, client.Spec{Slot: "short", Argv: []string{"/bin/sh", "-c", "exit 7"}})
	if err != nil {
		return err
	}
	if err := short.Open(); err != nil {
		return err
	}
	reached("second")
	e := <-c.Exits()
	reached("heard")
	if err := c.Acknowledge(e.Slot, e.PID); err != nil {
		return err
	}
	reached("acknowledged")
	if err := c.Drop("thing"); err != nil {
		return err
	}
	reached("dropped")
	return fmt.Errorf("no step %s", step)
}

// beDirty is a bad parent: it ignores and blocks signals, leaves descriptors open,
// and has odd limits, and becomes what it is told.
func beDirty(args []string) error {
	runtime.LockOSThread() // exec hands on the mask of this thread
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE, unix.SIGUSR1, unix.SIGCHLD, unix.SIGTSTP)
	unix.Umask(0o777)
	for _, name := range []string{"/etc/passwd", "/dev/null"} {
		fd, err := unix.Open(name, unix.O_RDONLY, 0) // without CLOEXEC
		if err != nil {
			return err
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD, 40+fd); err != nil {
			return err
		}
	}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 777, Max: 4000}); err != nil {
		return err
	}
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("300"), 0); err != nil {
		return err
	}
	blocked := unix.Sigset_t{}
	blocked.Val[0] = 1<<(unix.SIGUSR1-1) | 1<<(unix.SIGCHLD-1) | 1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1) | 1<<33
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &blocked, nil); err != nil {
		return err
	}
	return syscall.Exec(args[0], args, append(os.Environ(), "LD_PRELOAD=/nothing.so", "SECRET=1"))
}

// beUnprivileged is a superd under a keeper that is not root.
func beUnprivileged(args []string) error {
	c, err := client.Dial(context.Background(), os.Getenv("SUPERD_KEEPER"))
	if err != nil {
		return err
	}
	own := client.Spec{Slot: "s", Argv: []string{"/bin/sh", "-c", "exit 7"}, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	root, groups := own, own
	root.UID, root.GID = 0, 0
	groups.Groups = []uint32{4}
	for name, s := range map[string]client.Spec{"same user": own, "root": root, "groups": groups} {
		ch, err := c.Spawn(context.Background(), s)
		if err != nil {
			return err
		}
		if err := ch.Open(); err != nil {
			return err
		}
		e := <-c.Exits()
		told := e.Failure
		if told == "" {
			told = fmt.Sprintf("exit %d", e.Status.ExitStatus())
		}
		if err := note(args[0], name+": "+told); err != nil {
			return err
		}
		if err := c.Acknowledge(e.Slot, e.PID); err != nil {
			return err
		}
	}
	return c.Shutdown(0)
}

// beBreeder makes children until the system refuses, then ends one and makes
// another in its place.
func beBreeder(args []string) error {
	c, err := client.Dial(context.Background(), os.Getenv("SUPERD_KEEPER"))
	if err != nil {
		return err
	}
	spec := client.Spec{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	refused := ""
	living := map[string]int{}
	for i := 0; i < 200 && refused == ""; i++ {
		spec.Slot, spec.Argv = fmt.Sprintf("s%d", i), []string{"/bin/sleep", "1000"}
		ch, err := c.Spawn(context.Background(), spec)
		if err != nil {
			refused = err.Error() // the keeper could not fork
			break
		}
		if err := ch.Open(); err != nil {
			return err
		}
		living[ch.Slot] = ch.PID
		select {
		case e := <-c.Exits(): // or the stage died
			refused = e.Failure
			if refused == "" {
				return fmt.Errorf("a stage that died looks like a program: %+v", e)
			}
			delete(living, e.Slot)
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := note(args[0], fmt.Sprintf("after %d refused: %s", len(living), refused)); err != nil {
		return err
	}
	for _, pid := range living {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return err
		}
	}
	for range living {
		<-c.Exits()
	}
	spec.Slot, spec.Argv = "last", []string{"/bin/sh", "-c", "exit 7"}
	ch, err := c.Spawn(context.Background(), spec)
	if err != nil {
		return err
	}
	if err := ch.Open(); err != nil {
		return err
	}
	e := <-c.Exits()
	if err := note(args[0], fmt.Sprintf("afterwards: exit %d %s", e.Status.ExitStatus(), e.Failure)); err != nil {
		return err
	}
	return c.Shutdown(0)
}

// beDialer tells whether the keeper lets it in.
func beDialer(args []string) error {
	c, err := client.Dial(context.Background(), args[0])
	if err != nil {
		fmt.Println("refused:", err)
		return nil
	}
	fmt.Println("let in")
	return c.Close()
}

// beBurst leaves orphans behind: args[0] of them, each forked twice, then ends.
func beBurst(args []string) error {
	n := 0
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		return err
	}
	for range n {
		pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", args[1]}, &syscall.ProcAttr{
			Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			return err
		}
		_ = pid // whoever becomes its parent reaps it
	}
	return nil
}
