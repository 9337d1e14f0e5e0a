package load

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A Report is what the users of a run would have noticed.
type Report struct {
	Plan    Plan
	Start   time.Time
	Took    time.Duration // while requests were sent
	Samples []Sample      // in the order in which they were sent

	Failures map[string]int // by what it was
	Mixed    int
	Cut      int
	Gap      time.Duration // the longest time between two pages that arrived
	GapAt    time.Duration // when it began
	Late     time.Duration // at most, that a request was sent after it was due: the machine's doing, not the server's
	Releases map[string]int
}

func newReport(p Plan, start time.Time, took time.Duration, samples []Sample) Report {
	r := Report{
		Plan: p, Start: start, Took: took, Samples: slices.Clone(samples),
		Failures: map[string]int{}, Releases: map[string]int{},
	}
	slices.SortFunc(r.Samples, func(a, b Sample) int { return int(a.Sent - b.Sent) })
	for _, s := range r.Samples {
		r.Late = max(r.Late, s.Sent-s.Due)
		if s.Failure != "" {
			r.Failures[s.Failure]++
			continue
		}
		r.Releases[s.Release]++
		if s.Mixed {
			r.Mixed++
		}
		if s.Cut {
			r.Cut++
		}
	}
	r.Gap, r.GapAt = longestGap(r.Samples, took)
	return r
}

// longestGap is between two pages that arrived while requests were sent, and from
// the last one to the end of the sending: a server that is frozen then is found too.
func longestGap(samples []Sample, took time.Duration) (gap, at time.Duration) {
	arrivals := make([]time.Duration, 0, len(samples)+1)
	for _, s := range samples {
		if s.Failure == "" && s.Done < took {
			arrivals = append(arrivals, s.Done)
		}
	}
	arrivals = append(arrivals, took)
	slices.Sort(arrivals)
	last := time.Duration(0)
	for _, done := range arrivals {
		if done-last > gap {
			gap, at = done-last, last
		}
		last = done
	}
	return gap, at
}

// Failed is how many users got something other than their page.
func (r Report) Failed() int {
	failed := 0
	for _, n := range r.Failures {
		failed += n
	}
	return failed
}

// Resets are those whose connection was reset, refused or cut off.
func (r Report) Resets() int {
	return r.Failures["reset"] + r.Failures["refused"] + r.Failures["cut off"]
}

// Latency is the p-th part (0.5: the median) of all answers, from when each was due.
func (r Report) Latency(p float64) time.Duration {
	return quantile(r.Samples, -1, p)
}

// Route is the same for one route of the mix.
func (r Report) Route(route int, p float64) time.Duration {
	return quantile(r.Samples, route, p)
}

func quantile(samples []Sample, route int, p float64) time.Duration {
	var took []time.Duration
	for _, s := range samples {
		if s.Failure == "" && (route < 0 || s.Route == route) {
			took = append(took, s.Done-s.Due)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(len(took)-1, int(p*float64(len(took))))]
}

// A Span is a time in which no switch was under way: every request sent in it must
// be answered by Release.
type Span struct {
	From, Until time.Time
	Release     string
	Generation  uint64 // 0: not known
}

// Stale counts the answers of an older release to requests sent after a switch was
// over. One that was still waiting when the next switch began may be answered by
// that one's: generation numbers tell them apart, where they are known.
func (r Report) Stale(spans []Span) int {
	stale := 0
	for _, span := range spans {
		from, until := span.From.Sub(r.Start), span.Until.Sub(r.Start)
		for _, s := range r.Samples {
			if s.Failure != "" || s.Sent < from || s.Sent >= until {
				continue
			}
			if s.Generation > 0 && span.Generation > 0 {
				if s.Generation < span.Generation {
					stale++
				}
			} else if s.Release != span.Release && s.Done < until {
				stale++
			}
		}
	}
	return stale
}

// FirstAnswer is when the first page of release arrived whose request was sent at
// or after from.
func (r Report) FirstAnswer(release string, from time.Time) (time.Time, bool) {
	first, found := time.Duration(0), false
	for _, s := range r.Samples {
		if s.Failure == "" && s.Release == release && s.Sent >= from.Sub(r.Start) && (!found || s.Done < first) {
			first, found = s.Done, true
		}
	}
	return r.Start.Add(first), found
}

// String is the report as a table.
func (r Report) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, a ...any) { fmt.Fprintf(w, "  %s\t%s\n", name, fmt.Sprintf(format, a...)) }
	if r.Plan.Clients > 0 {
		row("requests", "%d by %d clients that never pause, in %s", len(r.Samples), r.Plan.Clients, round(r.Took))
	} else {
		row("requests", "%d, %d a second for %s", len(r.Samples), r.Plan.Rate, round(r.Took))
	}
	row("failed", "%d%s", r.Failed(), r.failureWords())
	row("answers of two releases", "%d", r.Mixed)
	row("sleeps cut short", "%d", r.Cut)
	row("longest gap", "%s, at %s%s", round(r.Gap), round(r.GapAt), r.lateWords())
	for i, route := range r.Plan.Mix {
		if quantile(r.Samples, i, 1) == 0 {
			continue // the run was too short for it
		}
		row("latency, "+route.Name, "median %s   99%% %s   longest %s", round(quantile(r.Samples, i, 0.5)),
			round(quantile(r.Samples, i, 0.99)), round(quantile(r.Samples, i, 1)))
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String()
}

func (r Report) failureWords() string {
	var words []string
	for _, kind := range slices.Sorted(maps.Keys(r.Failures)) {
		words = append(words, fmt.Sprintf("%d× %s", r.Failures[kind], kind))
	}
	if len(words) == 0 {
		return ""
	}
	return "  (" + strings.Join(words, ", ") + ")"
}

func (r Report) lateWords() string {
	if r.Late < 20*time.Millisecond {
		return ""
	}
	return fmt.Sprintf("  (this machine itself was late by up to %s)", round(r.Late))
}

func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// Timeline is the time while requests were sent in equal slices: how many pages of
// each release arrived in each, and below "" how many requests failed. What arrived
// later is in the last one.
func (r Report) Timeline(slicesWanted int) []map[string]int {
	line := make([]map[string]int, slicesWanted)
	for i := range line {
		line[i] = map[string]int{}
	}
	for _, s := range r.Samples {
		i := min(slicesWanted-1, int(int64(s.Done)*int64(slicesWanted)/max(1, int64(r.Took))))
		if s.Failure != "" {
			line[i][""]++
			continue
		}
		line[i][s.Release]++
	}
	return line
}
