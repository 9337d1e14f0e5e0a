package workers_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary a worker too, in a mood.
func TestMain(m *testing.M) {
	if os.Getenv("MOOD") != "" {
		work()
	}
	os.Exit(m.Run())
}

// A mood is how a worker of the test behaves.
type mood struct {
	kind   string
	job    time.Duration // how long it takes to finish the job in hand
	hold   string        // the job in hand lasts until this file is there
	marker string        // with dieOnce: made by the one that dies, which it does when marker-PID is there
}

// The kinds of moods.
const (
	well    = "well"     // says READY=1, and on TERM finishes its job and exits 0
	mute    = "mute"     // as well, but says nothing
	deaf    = "deaf"     // takes note of TERM and goes on
	exit0   = "exit0"    // writes a line and exits at once
	exit1   = "exit1"    // likewise
	dieOnce = "die-once" // the first one exits 7, once it has proved itself; the others are well
	forks   = "forks"    // as well, with a child of its own, which it kills when it has finished
	family  = "family"   // as deaf, with a child of its own
	hangs   = "hangs"    // says READY=1, and is in an endless loop from then on
	fed     = "fed"      // as well, and says WATCHDOG=1 all the time
)

func (m mood) env() []string {
	return []string{
		"MOOD=" + m.kind, "JOB=" + m.job.String(), "HOLD=" + m.hold, "MARKER=" + m.marker,
	}
}

// note writes a line to the ledger: what happened to whom, and when by a clock
// that all processes share.
func note(word string) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	f, err := os.OpenFile(os.Getenv("LEDGER"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(f, "%d %s %s %d\n", now.Nano(), word, os.Getenv("WHO"), os.Getpid())
	_ = f.Close()
}

func work() {
	terms := make(chan os.Signal, 10)
	signal.Notify(terms, syscall.SIGTERM, syscall.SIGUSR1)
	kind := os.Getenv("MOOD")
	switch kind {
	case exit0, exit1:
		fmt.Println("cannot find vendor/autoload.php")
		code, _ := strconv.Atoi(strings.TrimPrefix(kind, "exit"))
		os.Exit(code)
	}
	var child *exec.Cmd
	if kind == forks || kind == family {
		child = exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), "MOOD="+mute, "WHO=child-of-"+os.Getenv("WHO"))
		if err := child.Start(); err != nil {
			panic(err)
		}
	}
	note("start")
	if kind != mute {
		ready()
	}
	if kind == dieOnce {
		if f, err := os.OpenFile(os.Getenv("MARKER"), os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			_ = f.Close()
			proved := fmt.Sprintf("%s-%d", os.Getenv("MARKER"), os.Getpid())
			for err := os.ErrNotExist; err != nil; _, err = os.Stat(proved) {
				time.Sleep(10 * time.Millisecond)
			}
			fmt.Println("the database went away")
			os.Exit(7)
		}
	}
	if kind == hangs {
		for n := 0; ; n++ {
		}
	}
	if kind == fed {
		go func() {
			for {
				say("WATCHDOG=1")
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	for sig := range terms {
		if sig == syscall.SIGUSR1 {
			note("usr1")
			continue
		}
		note("term")
		if kind != deaf && kind != family {
			break
		}
	}
	finish(terms)
	if child != nil {
		_ = child.Process.Kill()
		_ = child.Wait()
	}
	note("end")
	os.Exit(0)
}

// finish is the job in hand. A second TERM would be noted.
func finish(terms chan os.Signal) {
	job, _ := time.ParseDuration(os.Getenv("JOB"))
	over := time.After(job)
	for {
		select {
		case <-terms:
			note("term")
		case <-over:
			hold := os.Getenv("HOLD")
			if _, err := os.Stat(hold); hold == "" || err == nil {
				return
			}
			over = time.After(10 * time.Millisecond)
		}
	}
}

func ready() { say("READY=1\nSTATUS=waits for jobs") }

func say(what string) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return
	}
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, _ = c.Write([]byte(what))
		_ = c.Close()
	}
}
