package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"superd/release"
)

// Metrics are the status in the language of dashboards. Nothing is counted for them
// that is not counted anyway: a scrape is one status, and who does not scrape pays
// nothing.

// openMetrics is what is spoken unless the client asks for the older text format.
const openMetrics = "application/openmetrics-text; version=1.0.0"

// maxScrapers is how many connections the address of the metrics has at once.
const maxScrapers = 16

// metrics answers with what the grant of the peer shows.
func (q *request) metrics() error {
	seen, err := q.server.measure(q.http.Context(), q.grant)
	if err != nil {
		return err
	}
	q.begun = true
	seen.write(q.w, q.http)
	return nil
}

// ServeMetrics answers on a TCP address, to whoever can reach it, until ctx ends:
// everything that there is to see, and nothing can be changed there.
func (s *Server) ServeMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		seen, err := s.measure(r.Context(), grant{admin: true})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		seen.write(w, r)
	})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerPatience, ReadTimeout: bodyPatience, WriteTimeout: writePatience, IdleTimeout: idlePatience,
		MaxHeaderBytes: maxHeader, BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // nobody minds a scrape less
	defer stop()
	if err := server.Serve(netutil.LimitListener(l, maxScrapers)); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// A measurement is one look at everything.
type measurement struct {
	status   Status
	switches map[string][]release.Record // by app
	events   map[string]uint64           // since this superd began, by kind
}

func (s *Server) measure(ctx context.Context, g grant) (*measurement, error) {
	status, err := s.daemon.Status(ctx)
	if err != nil {
		return nil, err
	}
	m := &measurement{status: g.see(status), switches: map[string][]release.Record{}, events: map[string]uint64{}}
	for _, a := range m.status.Apps {
		if m.switches[a.Name], err = s.daemon.History(ctx, a.Name); err != nil && KindOf(err) != NotFound { // it was removed since
			return nil, err
		}
	}
	s.events.count(m.events, g.sees)
	return m, nil
}

func (m *measurement) write(w http.ResponseWriter, r *http.Request) {
	if accept := r.Header.Get("Accept"); accept == "" || accept == "*/*" {
		r.Header.Set("Accept", openMetrics)
	}
	all := prometheus.NewRegistry()
	all.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	promhttp.HandlerFor(all, promhttp.HandlerOpts{EnableOpenMetrics: true, EnableOpenMetricsTextCreatedSamples: false}).ServeHTTP(w, r)
}

// Describe tells nothing: which series there are depends on what runs.
func (m *measurement) Describe(chan<- *prometheus.Desc) {}

// Collect puts the measurement into series.
func (m *measurement) Collect(out chan<- prometheus.Metric) {
	s := series(out)
	s.gauge("superd_info", "The version of superd that runs.", 1, "version", m.status.Version)
	s.gauge("superd_start_time_seconds", "When this superd began; what it runs may be older.", float64(m.status.Started.Unix()))
	s.gauge("superd_healthy", "1 when everything is as it should be.", truth(m.status.Healthy))
	s.gauge("superd_problems", "What is not as it should be.", float64(len(m.status.Problems)))
	for kind, n := range m.events {
		s.counter("superd_events", "What has happened since this superd began.", float64(n), "kind", kind)
	}
	for i := range m.status.Apps {
		s.app(&m.status.Apps[i], m.switches[m.status.Apps[i].Name])
	}
	for i := range m.status.Programs {
		s.process(&m.status.Programs[i])
	}
}

// series is where they go.
type series chan<- prometheus.Metric

// A label's name is followed by its value.
func (s series) put(kind prometheus.ValueType, name, help string, value float64, labels []string) {
	names, values := make([]string, 0, len(labels)/2), make([]string, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		names = append(names, labels[i])
		values = append(values, strings.ToValidUTF8(labels[i+1], "?"))
	}
	s <- prometheus.MustNewConstMetric(prometheus.NewDesc(name, help, names, nil), kind, value, values...)
}

func (s series) gauge(name, help string, value float64, labels ...string) {
	s.put(prometheus.GaugeValue, name, help, value, labels)
}

func (s series) counter(name, help string, value float64, labels ...string) {
	s.put(prometheus.CounterValue, name+"_total", help, value, labels)
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

var appStates = []AppState{AppOK, AppSettling, AppWaiting, AppSwitching, AppPaused, AppHeld, AppDegraded}

func (s series) app(a *AppStatus, switches []release.Record) {
	for _, state := range appStates {
		s.gauge("superd_app_state", "1 for the state that the app is in.", truth(a.State == state), "app", a.Name, "state", string(state))
	}
	s.gauge("superd_app_problems", "What is not as it should be.", float64(len(a.Problems)), "app", a.Name)
	if a.Live != nil {
		s.gauge("superd_app_release_info", "The release that is live.", 1, "app", a.Name, "release", a.Live.Release, "generation", number(a.Live.Number))
	}
	if a.Switch != nil {
		s.gauge("superd_switch_info", "The switch that is going on.", 1, "app", a.Name, "phase", string(a.Switch.Phase), "release", a.Switch.To.Release)
	}
	s.switches(a.Name, switches)
	if a.FPM != nil {
		for i := range a.FPM.Generations {
			s.generation(a.Name, &a.FPM.Generations[i])
		}
	}
	for i := range a.Pools {
		s.pool(a.Name, &a.Pools[i])
	}
}

// switches tells of those that have ended.
func (s series) switches(app string, all []release.Record) {
	type ended struct{ kind, verdict string }
	counts := map[ended]int{}
	for _, r := range all {
		counts[ended{string(r.Kind), string(r.Verdict)}]++
	}
	for e, n := range counts {
		s.counter("superd_switches", "Switches and rollbacks that have ended, as far back as the history goes.", float64(n),
			"app", app, "kind", e.kind, "verdict", e.verdict)
	}
	if len(all) == 0 {
		return
	}
	last := all[len(all)-1]
	s.gauge("superd_last_switch_timestamp_seconds", "When the last switch or rollback ended.", float64(last.Ended.Unix()), "app", app)
	s.gauge("superd_last_switch_duration_seconds", "How long it took, the watch included.", last.Ended.Sub(last.Started).Seconds(), "app", app)
	s.gauge("superd_last_switch_exit", "What superctl exited with: 0 live, 3 rolled back, 4 degraded.", float64(ExitOf(last)), "app", app)
}

func (s series) generation(app string, g *GenerationStatus) {
	of := []string{"app", app, "release", g.Release, "generation", number(g.Number)}
	with := func(more ...string) []string { return append(slices.Clone(of), more...) }
	s.gauge("superd_fpm_info", "A master of PHP-FPM and what it is for.", 1, with("state", g.State)...)
	s.gauge("superd_fpm_children", "Children of PHP-FPM.", float64(g.Active), with("state", "active")...)
	s.gauge("superd_fpm_children", "Children of PHP-FPM.", float64(g.Idle), with("state", "idle")...)
	s.gauge("superd_fpm_queue", "Connections that wait for a child.", float64(g.Queue), of...)
	s.counter("superd_fpm_restarts", "Masters that died.", float64(g.Restarts), of...)
	s.consumed(&g.Consumption, with("process", app+"/fpm"))
	if g.Traffic == nil {
		return
	}
	t := &g.Traffic.Total
	s.counter("superd_fpm_requests", "Requests that have ended, well or not.", float64(t.Requests), of...)
	s.counter("superd_fpm_failed_requests", "Of these, with a status of 500 and more, or because a signal ended the child.", float64(t.Failed), of...)
	s <- prometheus.MustNewConstHistogram(
		prometheus.NewDesc("superd_fpm_request_duration_seconds", "How long PHP took to answer.", []string{"app", "release", "generation"}, nil),
		t.Requests, t.Seconds, t.Times, app, g.Release, number(g.Number))
}

func (s series) pool(app string, p *PoolStatus) {
	s.gauge("superd_pool_wanted", "Workers that are to run.", float64(p.Wanted), "app", app, "pool", p.Name)
	s.gauge("superd_pool_running", "Workers that are proven, of the live release.", float64(p.Running), "app", app, "pool", p.Name)
	s.gauge("superd_pool_draining", "Workers that were told to go, with a job in hand.", float64(p.Draining), "app", app, "pool", p.Name)
	for i := range p.Workers {
		s.process(&p.Workers[i])
	}
}

// process tells of a worker or a program. Of one slot two may be there, of two
// generations.
func (s series) process(p *ProcessStatus) {
	of := []string{"app", p.App, "process", p.Name, "generation", number(p.Generation)}
	if p.Generation == 0 {
		of[5] = ""
	}
	with := func(more ...string) []string { return append(slices.Clone(of), more...) }
	s.gauge("superd_process_info", "A process and the state it is in.", 1, with("state", p.State, "release", p.Release)...)
	s.gauge("superd_process_up", "1 when it runs and has proved itself.", truth(p.State == "running"), of...)
	s.counter("superd_process_restarts", "Lives after the first, and tries at one that could not be made.", float64(p.Restarts), of...)
	if p.PID != 0 {
		s.gauge("superd_process_state_timestamp_seconds", "Since when it is in its present state.", float64(p.Since.Unix()), of...)
		s.consumed(&p.Consumption, append([]string{"release", p.Release}, of...))
	}
}

func (s series) consumed(c *Consumption, of []string) {
	s.gauge("superd_process_memory_bytes", "Memory of the process and all below it.", float64(c.Memory), of...)
	s.counter("superd_process_cpu_seconds", "Processor time of the process and all below it.", c.CPUSeconds, of...)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
