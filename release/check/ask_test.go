package check

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"superd/release"
)

func TestHTTP(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/up":
			fmt.Fprintf(w, "%s %s", r.Host, r.Header.Get("X-Check"))
		case "/moved":
			http.Redirect(w, r, "/up", http.StatusFound)
		case "/hang":
			<-release
		case "/stalls":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-release
		case "/endless":
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		default:
			http.Error(w, "the queue is full", http.StatusBadGateway)
		}
	}))
	defer server.Close()
	defer close(release)
	address := server.Listener.Addr().String()
	for name, c := range map[string]struct {
		check Check
		says  []string
	}{
		"well":             {check: Check{URL: "/up"}},
		"headers":          {check: Check{URL: "/up", Headers: map[string]string{"host": "shop.example", "X-Check": "yes"}, Body: regexp.MustCompile("^shop.example yes$")}},
		"redirection":      {check: Check{URL: "/moved", Status: []int{302}}},
		"is not followed":  {check: Check{URL: "/moved"}, says: []string{"answered 302, wanted 200"}},
		"wrong status":     {check: Check{URL: "/"}, says: []string{"answered 502", "the queue is full"}},
		"wrong body":       {check: Check{URL: "/up", Body: regexp.MustCompile("fine")}, says: []string{`does not match "fine"`}},
		"hangs":            {check: Check{URL: "/hang", Timeout: 200 * time.Millisecond}, says: []string{"no answer within 200ms"}},
		"stalls":           {check: Check{URL: "/stalls", Timeout: 2 * time.Second}, says: []string{"read body: no answer within 2s"}},
		"never ends":       {check: Check{URL: "/endless"}, says: []string{"answer is too large"}},
		"nothing there":    {check: Check{URL: "http://127.0.0.1:1/"}, says: []string{"connection refused"}},
		"not even a URL":   {check: Check{URL: "http://[/"}, says: []string{"parse"}},
		"another protocol": {check: Check{URL: "gopher://127.0.0.1/"}, says: []string{"unsupported protocol"}},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasPrefix(c.check.URL, "/") {
				c.check.URL = "http://" + address + c.check.URL
			}
			c.check.Kind = KindHTTP
			once(t, Site{}, c.check, c.says)
		})
	}
}

// once makes one try of a check, and looks for what its failure must say.
func once(t *testing.T, s Site, c Check, says []string) error {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = time.Minute
	}
	err := newProber(s).try(t.Context(), c.orDefaults(), release.Generation{Number: 7, Release: "r42", Dir: t.TempDir()})
	if (err != nil) != (len(says) > 0) {
		t.Errorf("error %v", err)
		return err
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q is not in %q", text, err)
		}
	}
	return err
}

func TestTCP(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(t.TempDir(), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	once(t, Site{}, Check{Kind: KindTCP, Address: tcp.Addr().String()}, nil)
	once(t, Site{}, Check{Kind: KindTCP, Address: path}, nil)
	once(t, Site{}, Check{Kind: KindTCP, Address: "127.0.0.1:1"}, []string{"connection refused"})
	once(t, Site{}, Check{Kind: KindTCP, Address: path + "-"}, []string{"no such file"})
	once(t, Site{}, Check{Kind: "ftp"}, []string{`"ftp" is unknown`})
}

// TestTCPHangs: a server whose queue is full drops what asks to connect.
func TestTCPHangs(t *testing.T) {
	t.Parallel()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprint("127.0.0.1:", bound.(*syscall.SockaddrInet4).Port)
	for full := false; !full; {
		conn, err := net.DialTimeout("tcp", address, 500*time.Millisecond)
		if full = err != nil; !full {
			defer conn.Close()
		}
	}
	once(t, Site{}, Check{Kind: KindTCP, Address: address, Timeout: 300 * time.Millisecond}, []string{"no answer within 300ms"})
}

// shell is a command check that runs text in a shell.
func shell(text string) Check {
	return Check{Kind: KindCommand, Command: []string{"sh", "-c", text}}
}

func processes(env ...string) Site {
	return Site{Process: func(_ release.Generation, command []string) (Process, error) {
		return Process{Argv: command, Env: append([]string{"PATH=/usr/bin:/bin"}, env...)}, nil
	}}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	once(t, processes(), shell("true"), nil)
	once(t, processes("SHOP=open"), shell(`[ "$SHOP" = open ] && [ -z "$HOME" ]`), nil)
	err := once(t, processes(), shell("echo one; echo; echo two >&2; exit 3"), []string{"sh -c", "exit status 3"})
	if got := linesOf(err); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("lines %q", got)
	}
	err = once(t, processes(), shell("seq 1 100000; kill -9 $$"), []string{"signal: killed"})
	if got := linesOf(err); len(got) != maxLines || got[maxLines-1] != "100000" {
		t.Errorf("lines %q", got)
	}
	once(t, processes(), Check{Kind: KindCommand, Command: []string{"no-such-program"}}, []string{"no-such-program: not found in PATH=/usr/bin:/bin"})
	once(t, processes(), Check{Kind: KindCommand, Command: []string{"./no-such-program"}}, []string{"no such file"})
	once(t, processes(), Check{Kind: KindCommand}, []string{"command is empty"})
	refused := Site{Process: func(release.Generation, []string) (Process, error) { return Process{}, errSick }}
	once(t, refused, shell("true"), []string{errSick.Error()})
}

// TestCommandDirectory: it runs in the release, its program is found from there,
// and in the PATH of the app, not in superd's.
func TestCommandDirectory(t *testing.T) {
	t.Parallel()
	g := release.Generation{Number: 7, Release: "r42", Dir: t.TempDir()}
	for _, name := range []string{"bin/health", "bin/not-executable", "plain/health"} {
		write(t, filepath.Join(g.Dir, name), "#!/bin/sh\n[ \"$(pwd)\" = "+g.Dir+" ]\n")
	}
	if err := os.Chmod(filepath.Join(g.Dir, "bin/health"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv, path string
		well       bool
	}{
		{"bin/health", "/usr/bin:/bin", true},
		{"./bin/health", "/usr/bin:/bin", true},
		{"health", "/nowhere:" + g.Dir + "/plain:" + g.Dir + "/bin:/usr/bin", true},
		{"health", "/usr/bin:/bin", false},
		{"not-executable", g.Dir + "/bin", false},
		{"bin/not-executable", "/usr/bin:/bin", false},
	} {
		p := newProber(Site{Process: func(_ release.Generation, command []string) (Process, error) {
			return Process{Argv: command, Env: []string{"PATH=" + c.path}}, nil
		}})
		check := Check{Kind: KindCommand, Command: []string{c.argv}, Timeout: time.Minute}.orDefaults()
		if err := p.try(t.Context(), check, g); (err == nil) != c.well {
			t.Errorf("%s in %s: %v", c.argv, c.path, err)
		}
	}
}

// TestCommandUser: it runs as the app's user.
func TestCommandUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become someone else")
	}
	site := Site{Process: func(_ release.Generation, command []string) (Process, error) {
		who := &syscall.Credential{Uid: 65534, Gid: 65534}
		return Process{Argv: command, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/", Credential: who}, nil
	}}
	once(t, site, shell("[ $(id -u) = 65534 ] && [ $(id -g) = 65534 ] && [ $(pwd) = / ]"), nil)
}

// TestCommandLeavesNothing: whatever a command started in its group is gone when
// its try is over, and nobody waits for what holds its output.
func TestCommandLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script  string
		timeout time.Duration
		says    []string
	}{
		"ends":                   {script: "sleep 600 & echo $! >pid", timeout: time.Minute},
		"fails":                  {script: "sleep 600 & echo $! >pid; exit 1", timeout: time.Minute, says: []string{"exit status 1"}},
		"hangs":                  {script: "sleep 600 & echo $! >pid; wait", timeout: 5 * time.Second, says: []string{"no answer within 5s"}},
		"hangs, deaf to SIGTERM": {script: "trap '' TERM INT; sleep 600 & echo $! >pid; while true; do sleep 600; done", timeout: 5 * time.Second, says: []string{"no answer within 5s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			site := Site{Process: func(_ release.Generation, command []string) (Process, error) {
				return Process{Argv: command, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir}, nil
			}}
			check := shell(c.script)
			check.Timeout = c.timeout
			start := time.Now()
			once(t, site, check, c.says)
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %s", took)
			}
			waitGone(t, pidIn(t, filepath.Join(dir, "pid")))
		})
	}
}

// TestCommandEscapes: a process in a session of its own is not of the group; it is
// left alone, and does not hold up the check although it has its output.
func TestCommandEscapes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	site := Site{Process: func(_ release.Generation, command []string) (Process, error) {
		return Process{Argv: command, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir}, nil
	}}
	start := time.Now()
	once(t, site, shell("setsid sh -c 'echo $$ >pid; exec sleep 600' & while [ ! -s pid ]; do sleep 0.05; done"), nil)
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	pid := pidIn(t, filepath.Join(dir, "pid"))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("kill what escaped: %v", err)
	}
}

// TestCommandCancelled: taking a switch back ends a command at once.
func TestCommandCancelled(t *testing.T) {
	t.Parallel()
	g := release.Generation{Number: 7, Release: "r42", Dir: t.TempDir()}
	check := shell("sleep 600 & echo $! >pid; wait")
	check.Name, check.Phase, check.Timeout = "health", PhaseVerify, time.Hour
	check.Deadline = time.Hour
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewVerifier(processes(), []Check{check}, nil).Verify(ctx, g) }()
	pid := pidIn(t, filepath.Join(g.Dir, "pid"))
	cancel(errOther)
	select {
	case err := <-ended:
		if !errors.Is(err, errOther) {
			t.Errorf("error %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still waits for the command")
	}
	waitGone(t, pid)
}

// TestCommandDiesWithSuperd: a check's command must not outlive a superd that is
// killed: nobody would read its answer, and it would pile up.
func TestCommandDiesWithSuperd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	superd := exec.Command(os.Args[0], "-test.run=^TestCommandAsSuperd$")
	superd.Env = append(os.Environ(), "CHECK_AS_SUPERD="+dir)
	if err := superd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := pidIn(t, filepath.Join(dir, "pid"))
	if err := superd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = superd.Wait()
	waitGone(t, pid)
}

// TestCommandAsSuperd is the superd of TestCommandDiesWithSuperd.
func TestCommandAsSuperd(t *testing.T) {
	dir := os.Getenv("CHECK_AS_SUPERD")
	if dir == "" {
		t.Skip("is a part of TestCommandDiesWithSuperd")
	}
	check := shell("echo $$ >pid; exec sleep 600")
	check.Timeout = time.Hour
	err := newProber(processes()).try(t.Context(), check, release.Generation{Number: 7, Dir: dir})
	t.Fatalf("the command ended: %v", err)
}

// pidIn waits until a whole line is in a file, and returns the number on it.
func pidIn(t *testing.T, path string) int {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(5 * time.Millisecond) {
		text, _ := os.ReadFile(path)
		if line, whole := strings.CutSuffix(string(text), "\n"); whole {
			pid, err := strconv.Atoi(line)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("there is nothing in %s", path)
	return 0
}

// waitGone waits until a process is gone, or a zombie whose parent does not care.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, after, _ := strings.Cut(string(stat), ") ")
		if err != nil || strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X") {
			return
		}
	}
	t.Errorf("process %d is still there", pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// TestTail: a flood keeps memory flat, and its end.
func TestTail(t *testing.T) {
	t.Parallel()
	out := &tail{}
	for i := range 100_000 {
		fmt.Fprintf(out, "line %d\n", i)
	}
	if _, err := out.Write([]byte(strings.Repeat("x", 100_000) + "\nthe end\n")); err != nil {
		t.Fatal(err)
	}
	if len(out.kept) != maxOutput || cap(out.kept) > 4*maxOutput || !strings.HasSuffix(string(out.kept), "\nthe end\n") {
		t.Errorf("%d bytes of %d, ending in %q", len(out.kept), cap(out.kept), out.kept[len(out.kept)-20:])
	}
}
