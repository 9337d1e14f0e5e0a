package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"superd/release"
)

var (
	was  = release.Generation{Number: 6, Release: "r41", Dir: "/srv/shop/releases/r41"}
	will = release.Generation{Number: 7, Release: "r42", Dir: "/srv/shop/releases/r42"}

	errSick  = errors.New("answered 500")
	errOther = errors.New("someone took it back")
)

// A patient is an app whose answers a test makes up. It keeps what it was asked.
type patient struct {
	mu    sync.Mutex
	tries map[string]int // by "check@generation"
	told  []string
	beats int
	start time.Time

	answer func(ctx context.Context, c Check, g release.Generation, try int) error
	socket func(release.Generation) string
	other  release.Generation
	tail   []string
}

func (p *patient) site() Site {
	p.start, p.tries = time.Now(), map[string]int{}
	s := Site{
		Socket:   p.socket,
		Against:  func(release.Generation) release.Generation { return p.other },
		Tell:     func(what string, _ []string) { p.note(func() { p.told = append(p.told, what) }) },
		Progress: func() { p.note(func() { p.beats++ }) },
		Tail:     func(release.Generation) []string { return p.tail },
	}
	if s.Socket == nil {
		s.Socket = func(release.Generation) string { return "/run/fpm.sock" }
	}
	return s
}

func (p *patient) note(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

func (p *patient) ask(ctx context.Context, c Check, g release.Generation) error {
	key := fmt.Sprintf("%s@%d", c.Name, g.Number)
	var try int
	p.note(func() { p.tries[key]++; try = p.tries[key] })
	return p.answer(ctx, c, g, try)
}

func (p *patient) verifier(warmup []string, checks ...Check) *Verifier {
	v := NewVerifier(p.site(), checks, warmup)
	v.ask = p.ask
	return v
}

func (p *patient) since() time.Duration { return time.Since(p.start) }

// hang answers nothing until the try is over.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// late is a deadline that no try begins at.
const late = 59500 * time.Millisecond

func up(phase string) Check {
	return Check{
		Name: "up", Phase: phase, Kind: KindFastCGI, Interval: time.Second, Timeout: 5 * time.Second,
		HealthyThreshold: 3, UnhealthyThreshold: 3, Deadline: late,
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	always := func(err error) func(context.Context, Check, release.Generation, int) error {
		return func(context.Context, Check, release.Generation, int) error { return err }
	}
	for name, c := range map[string]struct {
		answer func(ctx context.Context, c Check, g release.Generation, try int) error
		other  release.Generation
		check  func(*Check)
		alone  bool // what serves has no socket of its own

		took         time.Duration
		tries        int // of the candidate
		others       int // of what serves
		says         []string
		inconclusive bool
	}{
		"well from the start": {answer: always(nil), took: 2 * time.Second, tries: 3},
		"successes count in a row only": {
			answer: func(_ context.Context, _ Check, _ release.Generation, try int) error {
				if try == 1 || try == 4 {
					return errSick
				}
				return nil
			},
			took: 6 * time.Second, tries: 7,
		},
		"sick until the deadline": {
			answer: always(errSick), took: late, tries: 60,
			says: []string{`check "up"`, "r42 (generation 7)", "not healthy within 59.5s", "answered 500"},
		},
		"each try hangs": {
			answer: func(ctx context.Context, _ Check, _ release.Generation, _ int) error { return hang(ctx) },
			check:  func(c *Check) { c.Deadline = 20 * time.Second },
			took:   20 * time.Second, tries: 4, says: []string{"no answer before the deadline"},
		},
		"a try that hangs is cut by its timeout": {
			answer: func(ctx context.Context, _ Check, _ release.Generation, try int) error {
				if try == 1 {
					return hang(ctx)
				}
				return nil
			},
			took: 8 * time.Second, tries: 4,
		},
		"says that a timeout is one": {
			answer: func(ctx context.Context, _ Check, _ release.Generation, try int) error {
				if try == 1 {
					return hang(ctx)
				}
				return errSick
			},
			check: func(c *Check) { c.Deadline = 5 * time.Second },
			took:  5 * time.Second, tries: 1, says: []string{"no answer"},
		},
		"well too late": {
			answer: func(_ context.Context, _ Check, _ release.Generation, try int) error {
				if try < 59 {
					return errSick
				}
				return nil
			},
			took: late, tries: 60, says: []string{"succeeded 2 times in a row of the 3 it needs"},
		},
		"what serves is well": {
			answer: func(_ context.Context, _ Check, g release.Generation, _ int) error {
				if g.Number == 7 {
					return errSick
				}
				return nil
			},
			other: was, took: late, tries: 60, others: 1, says: []string{"answered 500"},
		},
		"what serves is sick too": {
			answer: always(errSick), other: was, took: late, tries: 60, others: 1,
			says: []string{"inconclusive", "r41 (generation 6) fails it too: answered 500"}, inconclusive: true,
		},
		"what serves hangs": {
			answer: func(ctx context.Context, _ Check, g release.Generation, _ int) error {
				if g.Number == 7 {
					return errSick
				}
				return hang(ctx)
			},
			other: was, took: late + 5*time.Second, tries: 60, others: 1,
			says: []string{"r41 (generation 6) fails it too: no answer within 5s"}, inconclusive: true,
		},
		"what serves cannot be asked": {
			answer: always(errSick), other: was, alone: true, took: late, tries: 60, says: []string{"answered 500"},
		},
		"is not compared with itself": {answer: always(errSick), other: will, took: late, tries: 60, says: []string{"answered 500"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				one := up(PhaseVerify)
				if c.check != nil {
					c.check(&one)
				}
				p := &patient{answer: c.answer, other: c.other}
				if c.alone {
					p.socket = func(g release.Generation) string { return map[uint64]string{7: "/s"}[g.Number] }
				}
				err := p.verifier(nil, one).Verify(t.Context(), will)
				if took := p.since(); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if (err == nil) != (c.says == nil) {
					t.Fatalf("error %v", err)
				}
				for _, text := range c.says {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("%q is not in %q", text, err)
					}
				}
				if got := errors.Is(err, release.ErrInconclusive); got != c.inconclusive {
					t.Errorf("inconclusive is %v: %v", got, err)
				}
				if p.tries["up@7"] != c.tries || p.tries["up@6"] != c.others {
					t.Errorf("tries %v, want %d and %d", p.tries, c.tries, c.others)
				}
				if p.beats != c.tries+c.others {
					t.Errorf("%d signs of life for %v", p.beats, p.tries)
				}
			})
		})
	}
}

func TestVerifyNothing(t *testing.T) {
	t.Parallel()
	p := &patient{}
	if err := p.verifier([]string{"/"}, up(PhaseBoth)).Verify(t.Context(), release.Generation{}); err != nil {
		t.Error(err)
	}
}

// TestVerifySideBySide: checks do not wait for each other, and the first that is
// lost ends all, whatever the others are at.
func TestVerifySideBySide(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		short, long, live := up(PhaseVerify), up(PhaseBoth), up(PhaseLive)
		short.Name, short.Deadline = "short", 10*time.Second
		long.Name, live.Name = "long", "live"
		p := &patient{answer: func(ctx context.Context, c Check, _ release.Generation, _ int) error {
			if c.Name == "short" {
				return errSick
			}
			return hang(ctx)
		}}
		err := p.verifier(nil, long, short, live).Verify(t.Context(), will)
		if err == nil || !strings.Contains(err.Error(), `"short"`) || p.since() != 10*time.Second {
			t.Errorf("after %s: %v", p.since(), err)
		}
		if p.tries["long@7"] == 0 || p.tries["live@7"] != 0 {
			t.Errorf("tries %v", p.tries)
		}
	})
}

// TestVerifyCancelled: superd waits for nothing when a switch is taken back, and
// hears why; synctest finds a goroutine that is left.
func TestVerifyCancelled(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(ctx context.Context, c Check, g release.Generation, _ int) error{
		"in a try":       func(ctx context.Context, _ Check, _ release.Generation, _ int) error { return hang(ctx) },
		"between tries":  func(context.Context, Check, release.Generation, int) error { return errSick },
		"while it is ok": func(context.Context, Check, release.Generation, int) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				p := &patient{answer: answer, other: was}
				v := p.verifier(nil, up(PhaseVerify))
				var ended sync.WaitGroup
				ended.Go(func() {
					err := v.Verify(ctx, will)
					if !errors.Is(err, errOther) || p.since() != 1500*time.Millisecond {
						t.Errorf("after %s: %v", p.since(), err)
					}
				})
				<-time.After(1500 * time.Millisecond)
				cancel(errOther)
				ended.Wait()
				if p.tries["up@6"] != 0 {
					t.Error("what serves was asked though nobody wants to know")
				}
				if name != "between tries" && len(p.told) > 0 {
					t.Errorf("told %q", p.told)
				}
			})
		})
	}
}

// TestVerifyCancelledWhileComparing: the comparison must not turn "taken back"
// into a verdict.
func TestVerifyCancelledWhileComparing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		p := &patient{other: was}
		p.answer = func(ctx context.Context, _ Check, g release.Generation, _ int) error {
			if g.Number == 7 {
				return errSick
			}
			cancel(errOther)
			return hang(ctx)
		}
		err := p.verifier(nil, up(PhaseVerify)).Verify(ctx, will)
		if !errors.Is(err, errOther) || errors.Is(err, release.ErrInconclusive) {
			t.Errorf("error %v", err)
		}
	})
}

// TestVerifyOutside: a check that cannot reach the candidate says nothing about it.
func TestVerifyOutside(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind, phase string
		other       release.Generation
		socket      string
		alone       bool

		asked        bool
		told         string
		inconclusive bool
	}{
		"http, something serves":        {kind: KindHTTP, phase: PhaseBoth, other: was, socket: "/s", asked: true, inconclusive: true},
		"tcp, something serves":         {kind: KindTCP, phase: PhaseBoth, other: was, socket: "/s", asked: true, inconclusive: true},
		"http, nothing serves yet":      {kind: KindHTTP, phase: PhaseBoth, socket: "/s", told: "nothing serves yet"},
		"http, nothing serves, but now": {kind: KindHTTP, phase: PhaseVerify, socket: "/s", asked: true},
		"fastcgi, runs not beside":      {kind: KindFastCGI, phase: PhaseBoth, other: was, socket: "/s", alone: true, told: "does not run beside what serves"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				one := up(c.phase)
				one.Kind = c.kind
				p := &patient{
					answer: func(context.Context, Check, release.Generation, int) error { return errSick },
					socket: func(release.Generation) string { return c.socket }, other: c.other,
				}
				v := p.verifier(nil, one)
				v.Alone = c.alone
				err := v.Verify(t.Context(), will)
				if asked := p.tries["up@7"] > 0; asked != c.asked || asked != (err != nil) {
					t.Errorf("tries %v, error %v", p.tries, err)
				}
				if errors.Is(err, release.ErrInconclusive) != c.inconclusive {
					t.Errorf("error %v", err)
				}
				if p.tries["up@6"] != 0 {
					t.Errorf("asked what serves by name: %v", p.tries)
				}
				if c.told != "" && (len(p.told) != 1 || !strings.Contains(p.told[0], c.told)) {
					t.Errorf("told %q", p.told)
				}
			})
		})
	}
}

// TestVerifyExplains: the lines of the master come before those of the answer, for
// what is too many is cut at the front; a first failure is told at once, and once.
func TestVerifyExplains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &patient{tail: make([]string, 30)}
		for i := range p.tail {
			p.tail[i] = fmt.Sprint("master ", i)
		}
		p.answer = func(context.Context, Check, release.Generation, int) error {
			return &explained{errSick, []string{"PHP Fatal error"}}
		}
		err := p.verifier(nil, up(PhaseVerify)).Verify(t.Context(), will)
		var e release.Explained
		if !errors.As(err, &e) {
			t.Fatalf("%T", err)
		}
		want := append(slices.Clone(p.tail[22:]), "PHP Fatal error")
		if !slices.Equal(e.LastLines(), want) {
			t.Errorf("lines %q", e.LastLines())
		}
		if len(p.told) != 1 || !strings.Contains(p.told[0], "answered 500") {
			t.Errorf("told %q", p.told)
		}
	})
}
