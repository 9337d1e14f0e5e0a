package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a container may have no zones, and must not lose its schedules for it

	"github.com/robfig/cron/v3"
)

// When a program is due.

const wantSchedule = `a schedule: five fields of cron, such as "*/5 * * * *", a word such as "@daily", or "every 1m"`

// Times tells when a program with a schedule is due.
type Times interface {
	// Next is the first time after t.
	Next(t time.Time) time.Time
}

// Times is the program's schedule in its time zone; nil: it has none. An hour that a
// change of the clocks skips is skipped, one that comes twice is due twice.
func (p *Program) Times() (Times, error) {
	if p.Schedule == "" {
		return nil, nil //nolint:nilnil // no schedule, no times
	}
	return parseSchedule(p.Schedule, p.Timezone)
}

// shortestPause is the shortest time between two runs: what is due more often is a
// program that stays up.
const shortestPause = time.Second

func parseSchedule(schedule, zone string) (Times, error) {
	if pause, ok := strings.CutPrefix(schedule, "every "); ok {
		d, err := parseDuration(strings.TrimSpace(pause))
		switch {
		case err != nil:
			return nil, err
		case d < shortestPause || d == Infinity || d%time.Second != 0:
			return nil, fmt.Errorf(`must be every so many whole seconds, such as "every 1m", is %q`, short(schedule))
		}
		return cron.Every(d), nil
	}
	if pause, ok := strings.CutPrefix(schedule, "@every "); ok {
		return nil, fmt.Errorf(`must be %s, is %q; write "every %s"`, wantSchedule, short(schedule), short(strings.TrimSpace(pause)))
	}
	if strings.Contains(schedule, "TZ=") {
		return nil, fmt.Errorf(`must be %s, is %q; the time zone is a key of its own, timezone`, wantSchedule, short(schedule))
	}
	in, err := time.LoadLocation(zoneName(zone))
	if err != nil {
		return nil, fmt.Errorf("time zone %q: %w", short(zone), err)
	}
	times, err := cron.ParseStandard(sundays(schedule))
	if err != nil {
		return nil, fmt.Errorf("must be %s, is %q: %w", wantSchedule, short(schedule), err)
	}
	// Next gives up after five years, so it is asked from a year that has a 29 February.
	if from := time.Date(2028, 1, 1, 0, 0, 0, 0, time.UTC); times.Next(from).IsZero() {
		return nil, fmt.Errorf("never comes: there is no such day as %q asks for", short(schedule))
	}
	return inZone{times, in}, nil
}

// sundays is a schedule of cron in which no Sunday is written as 7, which crontab(5) has and
// the library has not (robfig/cron, parser.go: days of the week are 0 to 6).
func sundays(schedule string) string {
	fields := strings.Fields(schedule)
	if len(fields) != 5 {
		return schedule
	}
	parts := strings.Split(fields[4], ",")
	for i, part := range parts {
		parts[i] = sunday(part)
	}
	fields[4] = strings.Join(parts, ",")
	return strings.Join(fields, " ")
}

// sunday is one part of the days: a range that ends with 7 becomes a list of its days.
func sunday(part string) string {
	if part == "7" {
		return "0"
	}
	days, each, stepped := strings.Cut(part, "/")
	from, to, _ := strings.Cut(days, "-")
	first, err := strconv.Atoi(from)
	step := 1
	if stepped && err == nil {
		step, err = strconv.Atoi(each)
	}
	if err != nil || to != "7" || first < 0 || step < 1 {
		return part
	}
	var list []string
	for day := first; day <= 7; day += step {
		list = append(list, strconv.Itoa(day%7))
	}
	return strings.Join(list, ",")
}

// zoneName is a zone as package time names it; empty is the machine's own there too,
// but written otherwise.
func zoneName(zone string) string {
	if zone == "" {
		return "Local"
	}
	return zone
}

type inZone struct {
	times cron.Schedule
	zone  *time.Location
}

func (z inZone) Next(t time.Time) time.Time { return z.times.Next(t.In(z.zone)) }

// checkSchedule holds a schedule to what can be done with it.
func checkSchedule(n node, p *Program) {
	if p.Schedule == "" {
		for _, name := range []string{"timezone", "overlap", "missed"} {
			if n.has(name) && n.at(name).value != "" {
				n.at(name).wrong(`counts with schedule only, such as schedule = "*/5 * * * *"; set that, or leave it out`)
			}
		}
		return
	}
	zone := p.Timezone
	if _, err := time.LoadLocation(zoneName(zone)); err != nil {
		n.at("timezone").wrong(`must be the name of a time zone, such as "Europe/Berlin" or "UTC", is %q`, short(zone))
		zone = "UTC"
	}
	if _, err := parseSchedule(p.Schedule, zone); err != nil {
		n.at("schedule").wrong("%v", err)
	}
	if n.has("timezone") && strings.HasPrefix(p.Schedule, "every ") {
		n.at("timezone").wrong(`has no meaning with schedule = %q, which counts from the last run; leave it out`, short(p.Schedule))
	}
	if !n.has("restart") {
		p.Restart = "never" // the schedule is what starts it again
	}
	if p.Restart == "always" {
		n.at("restart").wrong(`cannot be "always" with a schedule, which starts the program itself; write "unexpected" to try a failed run again, or "never"`)
	}
	if p.Processes != 1 {
		n.at("processes").wrong("must be 1 with a schedule, is %d: each run is one process", p.Processes)
	}
}
