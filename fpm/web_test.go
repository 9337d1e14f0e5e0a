package fpm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"superd/fpm/fastcgi"
	"superd/release"
	"superd/supervisor"
	"superd/supervisor/keeper/keepertest"
	"superd/supervisor/notify"
	"superd/supervisor/output"
)

// A shop is an app with releases, a keeper, and one superd after the other.
type shop struct {
	t       testing.TB
	dir     string
	keeper  *keepertest.Keeper
	address string                // where users come by TCP
	keep    [2]string             // directives of nginx, for the location and the upstream
	change  func(*Options, *Pool) // what a test wants different

	mu     sync.Mutex
	events []Event
}

func newShop(t testing.TB) *shop {
	t.Helper()
	s := &shop{t: t, dir: scratch(t), keeper: keepertest.Start(t)}
	for _, r := range []string{"r1", "r2"} {
		s.deploy(r, index)
	}
	return s
}

// index tells which release every part of an answer is of, and how long it slept.
const index = `<?php
$asked = ($_GET['ms'] ?? 0) * 1000;
if (isset($_GET['spin'])) { while (true) { } }
while (isset($_GET['crash'])) { posix_kill(posix_getpid(), 11); }
if (isset($_GET['until'])) { touch("{$_GET['until']}-{$_GET['user']}"); }
$cut = false;
while (isset($_GET['until']) && !is_file($_GET['until'])) {
    $cut = time_nanosleep(0, 100000000) !== true || $cut;
    clearstatcache();
}
$begun = microtime(true);
if ($asked) { usleep($asked); }
$cut = $cut || $asked && (microtime(true) - $begun) * 1e6 < $asked * 0.99;
header('Content-Type: application/json');
echo json_encode([
    'self' => '@release@', 'part' => include __DIR__ . '/../part.php',
    'cwd' => @include getcwd() . '/../part.php', 'root' => @include $_SERVER['DOCUMENT_ROOT'] . '/../part.php',
    'env' => getenv('SUPERD_RELEASE'), 'cut' => $cut, 'server' => isset($_GET['server']) ? $_SERVER : null,
    'ini' => array_map('ini_get', (array) ($_GET['ini'] ?? [])), 'getenv' => array_map('getenv', (array) ($_GET['env'] ?? [])),
    'vars' => array_keys(array_diff_key(get_defined_vars(), ['asked' => 1, 'begun' => 1, 'cut' => 1])),
    'prepended' => defined('PREPENDED') ? PREPENDED : null, 'pid' => getmypid(),
], JSON_INVALID_UTF8_SUBSTITUTE);
`

func (s *shop) deploy(name, script string) release.Generation {
	s.t.Helper()
	dir := filepath.Join(s.dir, "releases", name)
	for path, text := range map[string]string{
		"public/index.php": strings.ReplaceAll(script, "@release@", name),
		"part.php":         fmt.Sprintf("<?php return '%s';", name),
	} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			s.t.Fatal(err)
		}
	}
	return release.Generation{Release: name, Dir: dir}
}

// generation is number n, of release r1 when odd and r2 when even.
func (s *shop) generation(n uint64) release.Generation {
	name := fmt.Sprintf("r%d", 2-n%2)
	return release.Generation{Number: n, Release: name, Dir: filepath.Join(s.dir, "releases", name)}
}

func (s *shop) public() string { return filepath.Join(s.dir, "run", "fpm.sock") }

// listen is where users come.
func (s *shop) listen() string { return cmp.Or(s.address, s.public()) }

func (s *shop) network() string {
	if s.address != "" {
		return "tcp"
	}
	return "unix"
}

// open tells whether users get in.
func (s *shop) open() bool {
	c, err := net.Dial(s.network(), s.listen())
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// everyWay tells a story of users who come by a unix socket, and by TCP.
func everyWay(t *testing.T, story func(*testing.T, *shop)) {
	for name, host := range map[string]string{"unix": "", "IPv4": "127.0.0.1", "IPv6": "::1"} {
		if name == "IPv6" && t.Name() != "TestSwitchesLoseNothingUnderLoad" && t.Name() != "TestMasterAndSuperdDieTogether" {
			continue // the other stories know no difference
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			if host != "" {
				s.address = freeAddress(t, host)
			}
			story(t, s)
		})
	}
}

func (s *shop) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

func (s *shop) told(kind string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Event
	for _, e := range s.events {
		if e.Kind == kind {
			all = append(all, e)
		}
	}
	return all
}

// A life is one superd.
type life struct {
	*Web
	shop     *shop
	children *supervisor.Children
	end      func()       // as a SIGKILL would: nothing is stopped
	follows  *atomic.Bool // it reads what the masters write from now on
}

func (s *shop) superd() *life {
	s.t.Helper()
	return s.superdOf(func(o Options) (*Web, someWeb) {
		w := New(o)
		return w, w
	})
}

// someWeb is a Web, or several of them.
type someWeb interface {
	Adopt(c *supervisor.Child) bool
	Run(ctx context.Context) error
}

func (s *shop) superdOf(build func(o Options) (*Web, someWeb)) *life {
	s.t.Helper()
	t := s.t
	heard, err := notify.Listen(filepath.Join(s.dir, "notify"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	out := output.Open(output.Options{Dir: filepath.Join(s.dir, "log"), MaxSize: 1 << 20, Keep: 1, Log: log})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	children, err := supervisor.Open(ctx, supervisor.Options{Keeper: s.keeper.Socket(), State: filepath.Join(s.dir, "state"), Notify: heard, Output: out, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p := Pool{
		Binary: phpFPM, User: "www-data", Group: "www-data", DocumentRoot: "public", Pin: true,
		PM: "static", MaxChildren: 8, DrainTimeout: 20 * time.Second, Env: map[string]string{"PATH": os.Getenv("PATH")},
	}
	access, err := Allow("www-data", "www-data", 0o660)
	if err != nil {
		t.Fatal(err)
	}
	follows := new(atomic.Bool)
	o := Options{
		App: "shop", RunDir: filepath.Join(s.dir, "run"), Listen: s.listen(), Access: access, Backlog: 1024,
		Handoff: Parallel, Drain: 20 * time.Second, Output: "shop/fpm.log", Children: children, Log: log, Tell: s.tell,
		Lines: func(ctx context.Context) (<-chan string, error) {
			defer follows.Store(true)
			return follow(ctx, out, "shop/fpm")
		},
	}
	if s.change != nil {
		s.change(&o, &p)
	}
	p.DrainTimeout = o.Drain
	o.Pool = func(release.Generation) (Pool, error) { return p, nil }
	first, whole := build(o)
	l := &life{Web: first, shop: s, children: children, follows: follows}
	for _, c := range children.Adopted() {
		if !whole.Adopt(c) {
			t.Errorf("%s has no owner", c.Name())
		}
	}
	l.run(heard, out, whole)
	eventually(t, "superd knows what is there", func() bool { return isClosed(l.begun) })
	return l
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (l *life) run(heard *notify.Server, out *output.Store, whole someWeb) {
	ctx, cancel := context.WithCancel(context.Background())
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := l.children.Run(ctx); err != nil {
			l.shop.t.Errorf("children: %v", err)
		}
	})
	webCtx, endWeb := context.WithCancel(context.Background())
	var web sync.WaitGroup
	web.Go(func() {
		if err := whole.Run(webCtx); err != nil {
			l.shop.t.Errorf("web: %v", err)
		}
	})
	l.end = sync.OnceFunc(func() {
		endWeb()
		web.Wait()
		cancel()
		parts.Wait()
		_ = l.children.Close()
		_ = heard.Close()
		out.Close()
	})
	l.shop.t.Cleanup(l.end)
}

func follow(ctx context.Context, out *output.Store, name string) (<-chan string, error) {
	from := out.Follow(ctx, name, 0, "")
	to := make(chan string)
	go func() {
		defer close(to)
		for line := range from {
			select {
			case to <- line.Text:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to, nil
}

func (l *life) must(what string, err error) {
	l.shop.t.Helper()
	if err != nil {
		l.shop.t.Fatalf("%s: %v", what, err)
	}
}

// serve brings g up and makes it serve; the generation before is retired.
func (l *life) serve(g release.Generation) {
	l.shop.t.Helper()
	before, _ := l.Serving()
	l.must("start", l.Start(l.shop.t.Context(), g))
	l.must("promote", l.Promote(l.shop.t.Context(), g))
	if before.Number != g.Number {
		l.must("retire", l.Retire(l.shop.t.Context(), before))
	}
}

func (l *life) status(g release.Generation) (Status, bool) {
	for _, st := range l.Status(context.Background()) {
		if st.Generation == g {
			return st, true
		}
	}
	return Status{}, false
}

// gone waits until g has left without a trace.
func (l *life) gone(g release.Generation) {
	l.shop.t.Helper()
	eventually(l.shop.t, g.String()+" is gone", func() bool {
		_, there := l.status(g)
		return !there
	})
	if dir := filepath.Join(l.shop.dir, "run", fmt.Sprint(g.Number)); exists(dir) {
		l.shop.t.Errorf("%s is still there", dir)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

type reply struct {
	Self, Part, Cwd, Root, Env string
	Cut                        bool
	Server                     map[string]any
	INI                        []string `json:"ini"`
	Getenv                     []any
	Vars                       []string
	Prepended                  string
	PID                        int `json:"pid"`
}

// get asks through a socket, as a web server with the document root of dir would.
func get(ctx context.Context, network, socket, dir, query string) (reply, error) {
	params := fastcgi.Script(dir, "index.php", "/index.php?"+query, http.MethodGet, "")
	var a reply
	r, err := fastcgi.Do(ctx, network, socket, fastcgi.Request{Params: params})
	if err != nil {
		return a, err
	}
	if r.Status != http.StatusOK {
		return a, fmt.Errorf("status %d: %s %s", r.Status, r.Body, r.Stderr)
	}
	if err := json.Unmarshal(r.Body, &a); err != nil {
		return a, fmt.Errorf("%w: %s", err, r.Body)
	}
	return a, nil
}

func (s *shop) get(query string) (reply, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return get(ctx, s.network(), s.listen(), filepath.Join(s.dir, "releases/r1/public"), query)
}

// A load is users who ask through the public path.
type load struct {
	stop     chan struct{}
	users    sync.WaitGroup
	asked    atomic.Int64
	answered atomic.Int64
	slept    atomic.Int64
	shop     *shop

	mu      sync.Mutex
	wrong   []string
	longest time.Duration
	last    time.Time
}

func (s *shop) load() *load { return &load{stop: make(chan struct{}), shop: s, last: time.Now()} }

// open asks at a constant rate, whatever becomes of the answers. Every tenth sleeps.
func (l *load) open(perSecond int) {
	l.users.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(perSecond))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			query := ""
			if n%10 == 0 {
				query = "ms=300"
			}
			l.users.Go(func() { l.ask(query) })
		}
	})
}

// closed is users who ask again as soon as they are answered.
func (l *load) closed(users int, query string) {
	for range users {
		l.users.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
					l.ask(query)
				}
			}
		})
	}
}

func (l *load) ask(query string) {
	l.asked.Add(1)
	a, err := l.shop.get(query)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, now.Sub(l.last))
	l.last = now
	switch {
	case err != nil:
		l.wrong = append(l.wrong, err.Error())
		return
	case a.Cut:
		l.wrong = append(l.wrong, "a sleep was cut short")
	case a.Self != a.Part || a.Self != a.Root || a.Self != a.Cwd || a.Self != a.Env:
		l.wrong = append(l.wrong, fmt.Sprintf("a mixed answer: %+v", a))
	}
	if query != "" {
		l.slept.Add(1)
	}
	l.answered.Add(1)
}

// done ends the load and tells what went wrong.
func (l *load) done() {
	l.shop.t.Helper()
	close(l.stop)
	l.users.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range l.wrong {
		if i == 5 {
			break
		}
		l.shop.t.Error(w)
	}
	if len(l.wrong) > 0 || l.answered.Load() == 0 {
		l.shop.t.Errorf("%d of %d requests went wrong", len(l.wrong), l.asked.Load())
	}
	l.shop.t.Logf("%d answered, %d of them slept, longest gap between two answers %s", l.answered.Load(), l.slept.Load(), l.longest)
}

// A gate is where users wait in PHP until it is opened, however slow the machine is.
type gate struct {
	shop *shop
	load *load
	path string
	came int
}

func (s *shop) gate() *gate {
	s.t.Helper()
	dir, err := os.MkdirTemp(s.dir, "gate-")
	if err = errors.Join(err, os.Chmod(dir, 0o777)); err != nil { //nolint:gosec // workers write there
		s.t.Fatal(err)
	}
	return &gate{shop: s, load: s.load(), path: filepath.Join(dir, "open")}
}

// query is what the next user asks, who sleeps for ms once the gate is open.
func (g *gate) query(ms int) string {
	g.came++
	return fmt.Sprintf("until=%s&user=%d&ms=%d", g.path, g.came, ms)
}

// arrived waits until the script runs for who came last.
func (g *gate) arrived() {
	g.shop.t.Helper()
	eventually(g.shop.t, "a user is at the gate", func() bool { return exists(fmt.Sprintf("%s-%d", g.path, g.came)) })
}

// come has a user ask.
func (g *gate) come(ms int) {
	query := g.query(ms)
	g.load.users.Go(func() { g.load.ask(query) })
}

// enter has a user ask, and waits until the script runs for him.
func (g *gate) enter(ms int) {
	g.shop.t.Helper()
	g.come(ms)
	g.arrived()
}

// open lets everybody go on, and waits for their answers.
func (g *gate) open() {
	g.shop.t.Helper()
	if err := os.WriteFile(g.path, nil, 0o600); err != nil {
		g.shop.t.Error(err)
	}
	g.load.done()
}
