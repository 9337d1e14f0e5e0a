package schedule

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
)

// in is a schedule of cron in a time zone.
type in struct {
	cron.Schedule
	zone *time.Location
}

func (z in) Next(t time.Time) time.Time { return z.Schedule.Next(t.In(z.zone)) }

func times(t *testing.T, fields, zone string) Times {
	t.Helper()
	s, err := cron.ParseStandard(fields)
	if err != nil {
		t.Fatal(err)
	}
	z, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return in{s, z}
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	is, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return is
}

// Every case is one look at a clock.
func TestLook(t *testing.T) {
	const five, daily, month = "*/5 * * * *", "30 9 * * *", "0 0 1 * *"
	for _, tt := range []struct {
		name, fields, settled, now string
		missed                     Missed
		run                        bool
		left                       int
		next                       string
	}{
		{name: "new", fields: five, now: "2026-11-25T10:02:00Z", missed: Once, next: "2026-11-25T10:05:00Z"},
		{name: "not yet", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T10:04:59Z", next: "2026-11-25T10:05:00Z"},
		{name: "now", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T10:05:00Z", run: true, next: "2026-11-25T10:10:00Z"},
		{name: "a little late", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T10:05:30Z", run: true, next: "2026-11-25T10:10:00Z"},
		{name: "late", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T10:07:00Z", left: 1, next: "2026-11-25T10:10:00Z"},
		{name: "late, made up for", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T10:07:00Z", missed: Once, run: true, next: "2026-11-25T10:10:00Z"},
		{name: "away for an hour", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T11:02:00Z", left: 12, next: "2026-11-25T11:05:00Z"},
		{name: "away for an hour, made up for once", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T11:02:00Z", missed: Once, run: true, left: 11, next: "2026-11-25T11:05:00Z"},
		{name: "away, and back in time", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T11:00:01Z", run: true, left: 11, next: "2026-11-25T11:05:00Z"},
		{name: "away for years", fields: "* * * * *", settled: "1996-11-25T10:00:00Z", now: "2026-11-25T11:00:01Z", run: true, left: manyMissed - 1, next: "2026-11-25T11:01:00Z"},
		{name: "away for centuries", fields: month, settled: "1826-11-25T10:00:00Z", now: "2026-11-25T11:00:01Z", left: manyMissed, next: "2026-12-01T00:00:00Z"},
		{name: "set back a little", fields: daily, settled: "2026-11-25T09:30:00Z", now: "2026-11-25T09:29:58Z", next: "2026-11-26T09:30:00Z"},
		{name: "set back an hour, daily", fields: daily, settled: "2026-11-25T09:30:00Z", now: "2026-11-25T08:35:00Z", missed: Once, next: "2026-11-26T09:30:00Z"},
		{name: "set back an hour, often", fields: five, settled: "2026-11-25T10:00:00Z", now: "2026-11-25T09:02:00Z", missed: Once, next: "2026-11-25T09:05:00Z"},
		{name: "from another century", fields: daily, settled: "2096-11-25T09:30:00Z", now: "2026-11-25T08:35:00Z", next: "2026-11-25T09:30:00Z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Plan{Times: times(t, tt.fields, "UTC"), Missed: tt.missed}
			var settled time.Time
			if tt.settled != "" {
				settled = at(t, tt.settled)
			}
			now := at(t, tt.now)
			l := p.Look(settled, now)
			if l.Run != tt.run || l.Missed != tt.left || !l.Next.Equal(at(t, tt.next)) {
				t.Errorf("%+v, next %s", l, l.Next)
			}
			if again := p.Look(l.Settled, now); again.Run || again.Missed > 0 || !again.Next.Equal(l.Next) {
				t.Errorf("a second look at the same time: %+v", again)
			}
			if l.Again <= 0 || l.Again > Slowest || now.Add(l.Again).After(l.Next) {
				t.Errorf("look again after %s, next is %s", l.Again, l.Next)
			}
		})
	}
}

// What is due every so often counts from the run before, also from one that makes up.
func TestEvery(t *testing.T) {
	p := Plan{Times: cron.Every(6 * time.Hour), Missed: Once}
	settled, now := at(t, "2026-11-25T03:10:00Z"), at(t, "2026-11-25T10:00:00Z")
	if l := p.Look(settled, now); !l.Run || l.Missed != 0 || !l.Next.Equal(now.Add(6*time.Hour)) {
		t.Errorf("%+v", l)
	}
	p.Missed = Never
	if l := p.Look(settled, now); l.Run || l.Missed != 1 || !l.Next.Equal(settled.Add(12*time.Hour)) {
		t.Errorf("%+v", l)
	}
	if l := p.Look(settled, at(t, "2026-11-25T03:11:00Z")); l.Run || !l.Next.Equal(settled.Add(6*time.Hour)) {
		t.Errorf("another superd begins the count anew: %+v", l)
	}
}

type never struct{}

func (never) Next(time.Time) time.Time { return time.Time{} }

func TestNever(t *testing.T) {
	p := Plan{Times: never{}, Missed: Once}
	for _, settled := range []time.Time{{}, at(t, "2026-11-25T10:00:00Z"), at(t, "2036-11-25T10:00:00Z")} {
		if l := p.Look(settled, at(t, "2026-11-25T11:00:00Z")); l.Run || !l.Next.IsZero() || l.Again != Slowest {
			t.Errorf("%+v", l)
		}
	}
}

// single is due at one time only.
type single time.Time

func (s single) Next(t time.Time) time.Time {
	if due := time.Time(s); t.Before(due) {
		return due
	}
	return time.Time{}
}

// What is due once is not due again when the clock is set back, and is in time for a minute.
func TestSingle(t *testing.T) {
	due := at(t, "2026-11-25T10:00:00Z")
	p := Plan{Times: single(due), Missed: Never}
	for _, tt := range []struct {
		settled, now time.Duration // from then
		run          bool
		left         int
	}{
		{-time.Hour, 0, true, 0}, {-time.Hour, Late, true, 0}, {-time.Hour, Late + 1, false, 1}, {0, -time.Hour, false, 0}, {0, 0, false, 0},
	} {
		if l := p.Look(due.Add(tt.settled), due.Add(tt.now)); l.Run != tt.run || l.Missed != tt.left || !l.Next.IsZero() {
			t.Errorf("settled %s, now %s: %+v", tt.settled, tt.now, l)
		}
	}
}

// A wall is a clock that can be set.
type wall struct{ off time.Duration }

func (w *wall) now() time.Time { return time.Now().Add(w.off) }

// A keeper of programs, as it will be: it looks, runs, and looks again.
func (w *wall) keep(t *testing.T, p Plan, settled time.Time, d time.Duration, set map[time.Duration]time.Duration) (runs []time.Time, left int) {
	t.Helper()
	begin := time.Now()
	for time.Since(begin) < d {
		for after, by := range set {
			if time.Since(begin) >= after {
				w.off += by
				delete(set, after)
			}
		}
		l := p.Look(settled, w.now())
		settled, left = l.Settled, left+l.Missed
		if l.Run {
			runs = append(runs, w.now())
		}
		time.Sleep(max(l.Again, time.Millisecond))
	}
	return runs, left
}

func clocks(runs []time.Time, zone *time.Location) []string {
	var all []string
	for _, r := range runs {
		all = append(all, r.In(zone).Format("15:04"))
	}
	return all
}

// The clock is set while somebody looks: what runs often goes on at once, what runs
// once a day runs once that day, and what was jumped over is left out or made up for.
func TestClockIsSet(t *testing.T) {
	for _, tt := range []struct {
		name, fields string
		missed       Missed
		by           time.Duration // after 65 minutes; it is midnight at first
		lasts        time.Duration
		want         []string
		left         int
	}{
		{"often, back", "*/30 * * * *", Never, -time.Hour, 2 * time.Hour, []string{"00:30", "01:00", "00:30"}, 0},
		{"often, forward", "*/30 * * * *", Never, time.Hour, 2 * time.Hour, []string{"00:30", "01:00", "02:30"}, 2},
		{"often, forward, made up for", "*/30 * * * *", Once, time.Hour, 2 * time.Hour, []string{"00:30", "01:00", "02:05", "02:30"}, 1},
		{"daily, back over it", "30 0 * * *", Once, -time.Hour, 26 * time.Hour, []string{"00:30", "00:30"}, 0},
		{"daily, forward over it", "0 2 * * *", Never, time.Hour, 30 * time.Hour, []string{"02:00"}, 1},
		{"daily, forward over it, made up for", "0 2 * * *", Once, time.Hour, 30 * time.Hour, []string{"02:05", "02:00"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := Plan{Times: times(t, tt.fields, "UTC"), Missed: tt.missed}
				runs, left := new(wall).keep(t, p, time.Time{}, tt.lasts, map[time.Duration]time.Duration{65 * time.Minute: tt.by})
				if got := clocks(runs, time.UTC); !slices.Equal(got, tt.want) || left != tt.left {
					t.Errorf("runs at %v, %d left out; want %v, %d", got, left, tt.want, tt.left)
				}
			})
		})
	}
}

// The nights in which Berlin changes its clocks: times of every hour go on, an hour that
// does not exist has no runs, one that comes twice has them twice.
func TestDaylightSaving(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, fields string
		begin        time.Time
		want         []string
	}{
		{"spring, hourly", "0 * * * *", time.Date(2026, 3, 29, 0, 30, 0, 0, berlin), []string{"01:00", "03:00", "04:00"}},
		{"spring, in the hour that is not", "30 2 * * *", time.Date(2026, 3, 29, 0, 30, 0, 0, berlin), nil},
		{"autumn, half-hourly", "*/30 * * * *", time.Date(2026, 10, 25, 1, 45, 0, 0, berlin), []string{"02:00", "02:30", "02:00", "02:30", "03:00", "03:30"}},
		{"autumn, daily at six", "0 6 * * *", time.Date(2026, 10, 25, 4, 0, 0, 0, berlin), []string{"06:00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := Plan{Times: times(t, tt.fields, "Europe/Berlin"), Missed: Once}
				w := &wall{off: time.Until(tt.begin)}
				runs, left := w.keep(t, p, time.Time{}, 3*time.Hour, nil)
				if got := clocks(runs, berlin); !slices.Equal(got, tt.want) || left != 0 {
					t.Errorf("runs at %v, %d left out", got, left)
				}
			})
		})
	}
}

// Every second is every second, with no drift, and superd's own delays lose none.
func TestEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs, left := new(wall).keep(t, Plan{Times: cron.Every(time.Second)}, time.Now(), time.Minute+time.Millisecond, nil)
		if len(runs) != 60 || left != 0 {
			t.Errorf("%d runs, %d left out", len(runs), left)
		}
	})
}

func TestMeet(t *testing.T) {
	for _, tt := range []struct {
		overlap          Overlap
		running, waiting bool
		want             Act
	}{
		{Skip, false, false, Begin}, {Queue, false, false, Begin}, {Kill, false, false, Begin},
		{Skip, true, false, Leave}, {Queue, true, false, Wait}, {Kill, true, false, End},
		{Queue, true, true, Leave}, {Kill, true, true, Leave}, {Queue, false, true, Leave},
	} {
		if got := (Plan{Overlap: tt.overlap}).Meet(tt.running, tt.waiting); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}
