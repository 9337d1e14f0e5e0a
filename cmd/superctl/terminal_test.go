package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asItself in the environment makes the test program superctl.
const asItself = "SUPERCTL_AS_ITSELF"

func TestMain(m *testing.M) {
	if os.Getenv(asItself) != "" {
		main()
	}
	os.Exit(m.Run())
}

// A screen is a terminal that shows everything and answers nothing, and a shell on it
// in which superctl is run.
type screen struct {
	t     *testing.T
	keys  *os.File
	shell *exec.Cmd

	watching sync.WaitGroup
	mu       sync.Mutex
	shown    strings.Builder

	seen int // of what was shown
}

// onScreen runs a line of shell, in which "$superctl" is one, on a terminal of its own.
func onScreen(t *testing.T, line string) *screen {
	t.Helper()
	keys, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(keys.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(keys.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(keys.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, keys: keys, shell: exec.CommandContext(t.Context(), "/bin/sh", "-c", line)}
	s.shell.Stdin, s.shell.Stdout, s.shell.Stderr = tty, tty, tty
	s.shell.Env = []string{asItself + "=1", "superctl=" + self, "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "HOME=" + t.TempDir()}
	s.shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := s.shell.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	s.watching.Go(s.watch)
	t.Cleanup(func() {
		_ = s.shell.Process.Kill()
		_ = s.shell.Wait()
		s.watching.Wait()
		keys.Close()
	})
	return s
}

// watch reads until nobody has the terminal any more.
func (s *screen) watch() {
	b := make([]byte, 4096)
	for {
		n, err := s.keys.Read(b)
		s.mu.Lock()
		s.shown.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shown.String()
}

// wait waits until text is shown, behind what was waited for before.
func (s *screen) wait(text string) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if at := strings.Index(s.text()[s.seen:], text); at >= 0 {
			s.seen += at + len(text)
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%q is not shown:\n%q", text, s.text())
		}
	}
}

func (s *screen) press(keys string) {
	s.t.Helper()
	if _, err := s.keys.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// Terminals are not asked who they are: many do not answer, and waiting for an answer
// takes seconds and what was typed meanwhile.
func TestTerminalIsAskedNothing(t *testing.T) {
	t.Parallel()
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	for _, args := range []string{"--help", "version", "--json status"} {
		s := onScreen(t, `"$superctl" --socket `+socket+` `+args+`; read -r line; echo "then came <$line>"`)
		s.press("typed ahead\n")
		s.wait("then came <typed ahead>")
		if strings.Contains(s.text(), "\x1b") {
			t.Errorf("superctl %s writes %q", args, s.text())
		}
	}
}

func TestTopTakesTheScreenAndGivesItBack(t *testing.T) {
	t.Parallel()
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	s := onScreen(t, `"$superctl" --socket `+socket+` top; echo "exit $?"`)
	s.wait("shop/emails:0")
	s.press("q")
	s.wait("exit 0")
	if _, shown, taken := strings.Cut(s.text(), "\x1b[?1049h"); !taken || !strings.Contains(shown, "\x1b[?1049l") {
		t.Errorf("it wrote %q", s.text())
	}
}

// Ctrl-C right behind the words that tell of it is no error, however early it comes.
func TestCtrlCBeforeTheFirstLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	th := &theirs{cli: &cli{out: &out, talk: &out, socket: superd(t, &fakeDaemon{apps: []string{"shop"}})}}
	ctx, pressed := context.WithCancel(t.Context())
	pressed()
	if err := th.follow(ctx, "shop:fpm", "stdout"); err != nil || out.String() != "==> Press Ctrl-C to exit <==\n\n" {
		t.Errorf("%v, %q", err, &out)
	}
}

// Ctrl-C at a verb is for the verb: whoever has seen enough of a log goes on at the prompt.
func TestCtrlCLeadsBackToThePrompt(t *testing.T) {
	t.Parallel()
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	s := onScreen(t, `trap : INT; "$superctl" --socket `+socket+`; echo "exit $?"`)
	for _, line := range []string{"tail -f shop:fpm", "fg shop:emails_00"} {
		s.wait("superctl> ")
		s.press(line + "\r")
		s.wait("Press Ctrl-C to exit")
		s.press("\x03")
	}
	s.wait("Exiting foreground")
	s.wait("superctl> ")
	s.press("\x03version\r")
	s.wait("\n4.2.5\r\n")
	s.wait("superctl> ")
	s.press("exit\r")
	s.wait("exit 0")
	if strings.Contains(s.text(), "rror") || strings.Contains(s.text(), "\x1b[6n") || strings.Contains(s.text(), "\x1b]") {
		t.Errorf("it wrote %q", s.text())
	}
}
