package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"superd/release"
)

// scraped are the series of a scrape in the older text format, as "name{labels} value".
func scraped(t *testing.T, text string) []string {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "superd_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	if err != nil {
		t.Error(err)
	}
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return l == "" || strings.HasPrefix(l, "#") })
}

func scrape(t *testing.T, h *http.Client, url, accept string) (header http.Header, text string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	answer, err := h.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.Header, string(all)
}

func metricsHouse(t *testing.T) *house {
	t.Helper()
	uid := uint32(65534)
	h := newHouse(t, Rule{User: &uid, Role: RoleRead, Apps: []string{"blog"}})
	status := exampleStatus()
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	h.daemon.status = status
	h.daemon.history = []release.Record{
		{Kind: release.KindSwitch, Verdict: release.Live, Started: at, Ended: at.Add(40 * time.Second)},
		{Kind: release.KindSwitch, Verdict: release.RolledBack, Started: at.Add(time.Hour), Ended: at.Add(time.Hour + 3*time.Second)},
	}
	h.events.Append(Event{Kind: "worker.killed", App: "shop"})
	h.events.Append(Event{Kind: "worker.killed", App: "shop"})
	h.events.Append(Event{Kind: "switch.ended", App: "blog"})
	return h
}

func TestMetrics(t *testing.T) {
	h := metricsHouse(t)
	header, text := scrape(t, h.client().http, "http://superd/v1/metrics", "*/*")
	if !strings.HasPrefix(header.Get("Content-Type"), "application/openmetrics-text") || !strings.HasSuffix(text, "# EOF\n") {
		t.Errorf("%s, ends with %.40q", header.Get("Content-Type"), text[max(0, len(text)-40):])
	}
	_, text = scrape(t, h.client().http, "http://superd/v1/metrics", "text/plain;version=0.0.4")
	lines := scraped(t, text)
	for _, want := range []string{
		`superd_app_state{app="shop",state="switching"} 1`,
		`superd_app_state{app="shop",state="degraded"} 0`,
		`superd_app_release_info{app="shop",generation="7",release="r42"} 1`,
		`superd_switches_total{app="shop",kind="switch",verdict="rolled-back"} 1`,
		`superd_last_switch_exit{app="shop"} 3`,
		`superd_last_switch_duration_seconds{app="shop"} 3`,
		`superd_fpm_children{app="shop",generation="7",release="r42",state="active"} 3`,
		`superd_fpm_requests_total{app="shop",generation="7",release="r42"} 90210`,
		`superd_fpm_failed_requests_total{app="shop",generation="7",release="r42"} 17`,
		`superd_fpm_request_duration_seconds_bucket{app="shop",generation="7",release="r42",le="0.016"} 80000`,
		`superd_fpm_request_duration_seconds_count{app="shop",generation="7",release="r42"} 90210`,
		`superd_pool_draining{app="shop",pool="shop/emails"} 1`,
		`superd_process_restarts_total{app="shop",generation="6",process="shop/emails:1"} 2`,
		`superd_process_memory_bytes{app="shop",generation="7",process="shop/fpm",release="r42"} 1.8874368e+08`,
		`superd_events_total{kind="worker.killed"} 2`,
		`superd_healthy 0`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "process_open_fds ") }) {
		t.Error("superd does not tell of its own descriptors")
	}
}

// Who may see one app sees the series of that app and of no other.
func TestMetricsAreCutToTheRole(t *testing.T) {
	h := metricsHouse(t)
	m, err := h.server.measure(t.Context(), grant{rules: h.rules})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.status.Apps) > 0 || len(m.switches) > 0 || m.events["worker.killed"] > 0 || m.events["switch.ended"] != 1 {
		t.Errorf("sees %v, %v, %v", m.status.Apps, m.switches, m.events)
	}
}

func TestMetricsOverTCP(t *testing.T) {
	h := metricsHouse(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.server.ServeMetrics(ctx, l) }()
	base := "http://" + l.Addr().String()
	if _, text := scrape(t, http.DefaultClient, base+"/metrics", "*/*"); !strings.Contains(text, "superd_app_state") {
		t.Errorf("answered %.200q", text)
	}
	for _, path := range []string{"/", "/v1/status", "/v1/superd/shutdown"} { // nothing but metrics there
		if _, text := scrape(t, http.DefaultClient, base+path, "*/*"); !strings.Contains(text, "404") {
			t.Errorf("%s answers %.200q", path, text)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The dashboard and the alerts ask for series that there are.
func TestDashboardAsksForWhatThereIs(t *testing.T) {
	h := metricsHouse(t)
	_, text := scrape(t, h.client().http, "http://superd/v1/metrics", "text/plain;version=0.0.4")
	for _, file := range []string{"grafana.json", "alerts.yml"} {
		asks, err := os.ReadFile(filepath.Join("..", "packaging", "monitoring", file))
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bsuperd_[a-z_]+`).FindAllString(string(asks), -1)
		if len(names) < 10 {
			t.Errorf("%s asks for %v only", file, names)
		}
		for _, name := range names {
			if !strings.Contains(text, "\n"+name+"{") && !strings.Contains(text, "\n"+name+" ") {
				t.Errorf("%s asks for %s, which is not there", file, name)
			}
		}
	}
}
