package fpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"superd/fpm/fastcgi"
	"superd/fpm/traffic"
	"superd/release"
)

// answering has the status that it is asked for, and says which release it is.
const answering = `<?php http_response_code((int) ($_GET['status'] ?? 200)); echo '@release@';`

// visit asks as a user does, through the public path.
func (s *shop) visit(query string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	params := fastcgi.Script(filepath.Join(s.dir, "releases/r1/public"), "index.php", "/?"+query, "GET", "")
	delete(params, fastcgi.Own)
	r, err := fastcgi.Do(ctx, "unix", s.public(), fastcgi.Request{Params: params})
	if err != nil {
		return "", err
	}
	return string(r.Body), nil
}

// visitors are users who keep count themselves.
type visitors struct {
	answers, errors map[string]*atomic.Int64 // of a release
	stop            chan struct{}
	users           sync.WaitGroup
}

func (s *shop) visitors(n int) *visitors {
	v := &visitors{answers: map[string]*atomic.Int64{}, errors: map[string]*atomic.Int64{}, stop: make(chan struct{})}
	for _, r := range []string{"r1", "r2"} {
		v.answers[r], v.errors[r] = new(atomic.Int64), new(atomic.Int64)
	}
	for range n {
		v.users.Go(func() {
			for i := 0; !isClosed(v.stop); i++ {
				status := 200
				if i%7 == 0 {
					status = 503
				}
				by, err := s.visit(fmt.Sprint("status=", status))
				if err != nil || v.answers[by] == nil {
					s.t.Errorf("answer %q, %v", by, err)
					return
				}
				v.answers[by].Add(1)
				if status == 503 {
					v.errors[by].Add(1)
				}
			}
		})
	}
	return v
}

func (v *visitors) leave() {
	close(v.stop)
	v.users.Wait()
}

// sees waits until exactly what the users of g have counted is known of it.
func (l *life) sees(g release.Generation, v *visitors) {
	l.shop.t.Helper()
	answers, failed := uint64(v.answers[g.Release].Load()), uint64(v.errors[g.Release].Load())
	var got traffic.Counts
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) { // a line is written after its answer
		got = l.Traffic(g).Total
		if got.Answers == answers && got.Errors == failed && got.Killed == 0 {
			break
		}
		if time.Since(start) > 30*time.Second {
			l.shop.t.Errorf("%s has %d answers, %d errors and %d killed; its users count %d and %d", g, got.Answers, got.Errors, got.Killed, answers, failed)
			return
		}
	}
	if answers < 50 || got.Quantile(0.95) == 0 {
		l.shop.t.Errorf("%d answers, 95 %% within %s: that proves little", answers, got.Quantile(0.95))
	}
}

// Every answer of either generation is counted, once, while one superd follows the
// other and one generation the other; what superd asks itself is not.
func TestTrafficIsCountedExactly(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	s.deploy("r1", answering)
	s.deploy("r2", answering)
	l := s.superd()
	g1, g2 := s.generation(1), s.generation(2)
	l.serve(g1)
	v := s.visitors(6)
	for range 2 {
		eventually(t, "traffic", func() bool { return l.Traffic(g1).Total.Answers > 100 })
		l.end()
		time.Sleep(300 * time.Millisecond) // nobody reads
		l = s.superd()
	}
	l.must("start", l.Start(t.Context(), g2))
	if err := l.find(g2).ping(t.Context()); err != nil {
		t.Error(err)
	}
	l.must("promote", l.Promote(t.Context(), g2))
	eventually(t, "traffic of the next one", func() bool { return l.Traffic(g2).Total.Answers > 100 })
	l.end() // both are there
	l = s.superd()
	l.must("retire", l.Retire(t.Context(), g1))
	l.gone(g1)
	v.leave()
	l.sees(g1, v)
	l.sees(g2, v)
	st, _ := l.status(g2)
	if st.Traffic != l.Traffic(g2) || st.Traffic.Total.Answers == 0 {
		t.Errorf("the status has %d answers", st.Traffic.Total.Answers)
	}
	if notes := s.told(Note); len(notes) > 0 {
		t.Errorf("%+v", notes)
	}
}

// A reload begins another log, and the one before is counted to its end.
func TestTrafficAcrossAReload(t *testing.T) {
	t.Parallel()
	s := reloading(t)
	s.deploy("r1", answering)
	s.deploy("r2", answering)
	l := s.superd()
	l.serve(s.generation(1))
	v := s.visitors(4)
	eventually(t, "traffic", func() bool { return l.Traffic(s.generation(1)).Total.Answers > 100 })
	l.must("promote", l.Promote(t.Context(), s.generation(2)))
	eventually(t, "traffic of the next one", func() bool { return l.Traffic(s.generation(2)).Total.Answers > 100 })
	v.leave()
	l.sees(s.generation(1), v)
	l.sees(s.generation(2), v)
	if left, _ := filepath.Glob(filepath.Join(s.dir, "run", reloadBase, "access.log*")); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// What a generation has answered just before it is gone counts, although nobody has
// asked for it.
func TestTrafficOfTheLastMoment(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	for n := uint64(1); n <= 5; n++ { // one reading by chance hides nothing
		g := s.generation(n)
		l.serve(g)
		for range 10 {
			if _, err := s.visit(""); err != nil {
				t.Fatal(err)
			}
		}
		l.serve(s.generation(n + 1))
		eventually(t, "its directory is gone", func() bool { return !exists(filepath.Join(s.dir, "run", fmt.Sprint(n))) })
		if got := l.Traffic(g).Total.Answers; got != 10 {
			t.Errorf("%s has %d answers, want 10", g, got)
		}
	}
}

// A worker that crashes writes nothing down: it counts as a request that failed.
func TestCrashedWorkerIsAFailedRequest(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	l := s.superd()
	l.serve(s.generation(1))
	if _, err := s.visit(""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "superd reads what is written", l.follows.Load)
	if _, err := s.visit("crash=1"); err == nil {
		t.Error("the worker did not crash")
	}
	eventually(t, "it is counted", func() bool {
		c := l.Traffic(s.generation(1)).Total
		return c.Answers == 1 && c.Killed == 1 && c.Failed() == 1 && c.Requests() == 2
	})
}

// The user's own files cannot take the access log away from superd, who would see
// nothing; and no other log is written.
func TestAccessLogIsOurs(t *testing.T) {
	t.Parallel()
	dir := scratch(t)
	extra := filepath.Join(dir, "extra.conf")
	if err := os.WriteFile(extra, []byte("access.log = "+dir+"/theirs.log\naccess.format = \"%R\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := renderingOf(dir, Pool{Binary: phpFPM, User: "www-data", PM: "static", MaxChildren: 1, Include: []string{extra}})
	if err := errors.Join(r.write(dir), try(t.Context(), r, dir)); err != nil {
		t.Fatal(err)
	}
	for directive, want := range map[string]string{"access.log": dir + "/access.log", "access.format": traffic.Format} {
		if got, ok := dump(t, filepath.Join(dir, confFile), directive); !ok || got != want {
			t.Errorf("%s = %q, want %q", directive, got, want)
		}
	}
	if exists(dir + "/theirs.log") {
		t.Error("their log was written")
	}
}

// With a full disk below the logs every user is answered, and nobody is waited for;
// once there is room, counting goes on.
func TestFullDiskKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	s := newShop(t)
	s.deploy("r1", answering)
	run := filepath.Join(s.dir, "run")
	if err := errors.Join(os.Mkdir(run, 0o755), unix.Mount("superd-test", run, "tmpfs", 0, "size=256k,mode=755")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(run, unix.MNT_DETACH) })
	l := s.superd()
	l.serve(s.generation(1))
	fill, err := os.Create(filepath.Join(run, "fill"))
	for err == nil {
		_, err = fill.Write(make([]byte, 512))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_ = fill.Close()
	v := s.visitors(6)
	eventually(t, "many answers", func() bool { return v.answers["r1"].Load() > 3000 })
	v.leave()
	if err := os.Remove(fill.Name()); err != nil {
		t.Fatal(err)
	}
	before := l.Traffic(s.generation(1)).Total.Answers
	if total := uint64(v.answers["r1"].Load()); before > total {
		t.Errorf("%d answers are known of %d", before, total)
	}
	for range 5 { // the first one may come behind half a line
		if _, err := s.visit(""); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is counted again", func() bool { return l.Traffic(s.generation(1)).Total.Answers >= before+4 })
	t.Logf("%d of %d answers were written down", before, v.answers["r1"].Load())
}
