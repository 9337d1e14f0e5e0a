package config

import (
	"testing"
	"time"
)

// TestTimes: when schedules are due, also where the clocks change.
func TestTimes(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		when, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for name, one := range map[string]struct {
		schedule, zone, from string
		want                 []string
	}{
		"fields":            {"*/5 9-10 * * *", "UTC", "2026-03-02T09:52:10Z", []string{"2026-03-02T09:55:00Z", "2026-03-02T10:00:00Z"}},
		"another zone":      {"30 8 * * *", "Asia/Tokyo", "2026-03-02T00:00:00Z", []string{"2026-03-02T23:30:00Z"}},
		"an hour skipped":   {"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-30T00:30:00Z"}},
		"an hour twice":     {"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"}},
		"a leap day":        {"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z"}},
		"Sunday as 7":       {"0 4 * * 7", "UTC", "2026-03-02T00:00:00Z", []string{"2026-03-08T04:00:00Z", "2026-03-15T04:00:00Z"}},
		"days up to 7":      {"0 4 * * 1,5-7/2", "UTC", "2026-03-03T00:00:00Z", []string{"2026-03-06T04:00:00Z", "2026-03-08T04:00:00Z", "2026-03-09T04:00:00Z", "2026-03-13T04:00:00Z"}},
		"a word":            {"@daily", "UTC", "2026-01-01T00:00:00Z", []string{"2026-01-02T00:00:00Z"}},
		"every so often":    {"every 90s", "", "2026-01-01T00:00:00Z", []string{"2026-01-01T00:01:30Z", "2026-01-01T00:03:00Z"}},
		"every day of days": {"every 1d", "", "2026-01-01T00:00:00Z", []string{"2026-01-02T00:00:00Z"}},
	} {
		p := Program{Schedule: one.schedule, Timezone: one.zone}
		times, err := p.Times()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		now := at(one.from)
		for _, want := range one.want {
			if now = times.Next(now); !now.Equal(at(want)) {
				t.Errorf("%s: got %s, want %s", name, now.UTC().Format(time.RFC3339), want)
				break
			}
		}
	}
	if times, err := (&Program{}).Times(); times != nil || err != nil {
		t.Errorf("without a schedule: %v, error %v", times, err)
	}
}
