// Package top is the live view of superctl top: what runs, what it takes and what
// users are answered, looked at once a second.
//
// The invariant: what is shown is one status and the one before; nothing is asked of
// superd that superctl status does not ask.
package top

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"superd/control"
)

// Options are what Run needs.
type Options struct {
	Ask    func(context.Context) (control.Status, error)
	Every  time.Duration
	In     io.Reader
	Out    io.Writer
	Colour bool
}

// Run shows the view until somebody presses q or ctx ends. That superd is away for a
// while is shown, and no error.
func Run(ctx context.Context, o Options) error {
	p := tea.NewProgram(newModel(ctx, o), tea.WithContext(ctx), tea.WithInput(o.In), tea.WithOutput(o.Out))
	if _, err := p.Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("show: %w", err)
	}
	return nil
}

type order string

// What the processes are sorted by.
const (
	byName   order = "name"
	byCPU    order = "processor"
	byMemory order = "memory"
)

type model struct {
	ctx    context.Context //nolint:containedctx // a command of bubbletea is given none
	o      Options
	style  styles
	width  int
	height int

	now, before *control.Status
	failed      error
	by          order
	from        int // rows scrolled away
	paused      bool
}

type (
	looked struct {
		status control.Status
		err    error
	}
	due struct{}
)

func newModel(ctx context.Context, o Options) model {
	return model{ctx: ctx, o: o, style: newStyles(o.Colour), width: 80, height: 24, by: byCPU}
}

// Init looks for the first time.
func (m model) Init() tea.Cmd { return m.look }

func (m model) look() tea.Msg {
	status, err := m.o.Ask(m.ctx)
	return looked{status, err}
}

func (m model) later() tea.Cmd { return tea.Tick(m.o.Every, func(time.Time) tea.Msg { return due{} }) }

// Update takes a key, an answer, or the time to ask again.
func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case due:
		if m.paused {
			return m, m.later()
		}
		return m, m.look
	case looked:
		m.failed = msg.err
		if msg.err == nil {
			m.before, m.now = m.now, &msg.status
		}
		return m, m.later()
	case tea.KeyPressMsg:
		return m.key(msg.String())
	}
	return m, nil
}

func (m model) key(name string) (tea.Model, tea.Cmd) {
	switch name {
	case "q", "esc", "ctrl+c":
		return m, tea.Quit
	case "c":
		m.by = byCPU
	case "m":
		m.by = byMemory
	case "n":
		m.by = byName
	case "p", "space":
		m.paused = !m.paused
	case "down", "j":
		m.from++
	case "up", "k":
		m.from = max(0, m.from-1)
	case "pgdown":
		m.from += m.height / 2
	case "pgup":
		m.from = max(0, m.from-m.height/2)
	case "home":
		m.from = 0
	}
	return m, nil
}

// View takes the whole screen, and gives it back.
func (m model) View() tea.View {
	view := tea.NewView(m.text())
	view.AltScreen = true
	return view
}

// text draws all of it.
func (m model) text() string {
	if m.now == nil {
		if m.failed != nil {
			return m.style.bad.Styled(m.failed.Error()) + "\n"
		}
		return "asking superd …\n"
	}
	lines := m.head()
	rows := m.rows()
	room := max(1, m.height-len(lines)-2)
	from := min(m.from, max(0, len(rows)-room))
	lines = append(lines, m.style.faint.Styled(m.cut(fmt.Sprintf("%-32s %-14s %-16s %8s %10s %8s %8s", "NAME", "STATE", "RELEASE", "PID", "MEMORY", "CPU", "RESTARTS"))))
	for _, r := range rows[from:min(len(rows), from+room)] {
		lines = append(lines, m.cut(r.text))
	}
	lines = append(lines, m.style.faint.Styled(m.cut(m.foot(len(rows), from, room))))
	return strings.Join(lines, "\n")
}

func (m model) foot(rows, from, room int) string {
	text := fmt.Sprintf("q quit  c m n sort by processor, memory, name (now: %s)  p pause  ↑↓ scroll", m.by)
	if rows > room {
		text = fmt.Sprintf("%d–%d of %d  ", from+1, min(rows, from+room), rows) + text
	}
	if m.paused {
		text = "PAUSED  " + text
	}
	return text
}

// head is superd itself, each app, and what is wrong.
func (m model) head() []string {
	s := m.now
	state := m.style.good.Styled("all as it should be")
	if !s.Healthy {
		state = m.style.bad.Styled(fmt.Sprintf("%d problems", len(s.Problems)))
	}
	lines := []string{fmt.Sprintf("superd %s  pid %d  %s  %s", s.Version, s.PID, s.Time.Format(time.TimeOnly), state)}
	if m.failed != nil {
		lines = append(lines, m.style.bad.Styled(m.cut("superd does not answer: "+m.failed.Error())))
	}
	for i := range s.Apps {
		lines = append(lines, m.app(&s.Apps[i])...)
	}
	for _, p := range s.Problems[:min(len(s.Problems), 3)] {
		lines = append(lines, m.style.bad.Styled(m.cut("! "+p)))
	}
	return append(lines, "")
}

func (m model) app(a *control.AppStatus) []string {
	state := m.style.warn
	switch a.State {
	case control.AppOK:
		state = m.style.good
	case control.AppDegraded:
		state = m.style.bad
	case control.AppSettling, control.AppWaiting, control.AppSwitching, control.AppPaused, control.AppHeld:
	}
	line := a.Name + "  " + state.Styled(string(a.State))
	if a.Live != nil {
		line += "  " + a.Live.Release
	}
	if sw := a.Switch; sw != nil {
		line += fmt.Sprintf("  → %s: %s for %s", sw.To.Release, sw.Phase, m.now.Time.Sub(sw.Since).Round(time.Second))
	}
	lines := []string{line}
	if a.FPM == nil {
		return lines
	}
	for i := range a.FPM.Generations {
		g := &a.FPM.Generations[i]
		text := fmt.Sprintf("  %-10s %-8s %3d/%-3d busy  queue %-4d", g.Release, g.State, g.Active, g.Active+g.Idle, g.Queue)
		if t := g.Traffic; t != nil {
			text += fmt.Sprintf("  %6.1f/s  %5.2f %% failed  p50 %s  p95 %s", m.rate(a.Name, g), 100*t.ErrorShare, seconds(t.P50), seconds(t.P95))
		}
		lines = append(lines, m.cut(text))
	}
	return lines
}

// rate is how many requests a second g has answered since the look before.
func (m model) rate(app string, g *control.GenerationStatus) float64 {
	if m.before == nil {
		return 0
	}
	for _, a := range m.before.Apps {
		if a.Name != app || a.FPM == nil {
			continue
		}
		for _, old := range a.FPM.Generations {
			took := m.now.Time.Sub(m.before.Time).Seconds()
			if old.Number == g.Number && old.Traffic != nil && took > 0 && g.Traffic.Total.Requests >= old.Traffic.Total.Requests {
				return float64(g.Traffic.Total.Requests-old.Traffic.Total.Requests) / took
			}
		}
	}
	return 0
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond).String()
}

// A row is one process.
type row struct {
	name   string
	cpu    float64
	memory uint64
	text   string
}

func (m model) rows() []row {
	earlier := map[int]float64{} // seconds of processors, by PID
	each(m.before, func(_, _, _ string, pid, _ int, c *control.Consumption) { earlier[pid] = c.CPUSeconds })
	var all []row
	each(m.now, func(name, state, release string, pid, restarts int, c *control.Consumption) {
		r := row{name: name, cpu: c.CPU, memory: c.Memory}
		if was, ok := earlier[pid]; ok && pid != 0 && c.CPUSeconds >= was {
			if took := m.now.Time.Sub(m.before.Time).Seconds(); took > 0 {
				r.cpu = 100 * (c.CPUSeconds - was) / took
			}
		}
		r.text = fmt.Sprintf("%-32s %-14s %-16s %8d %7.1f MB %6.1f %% %8d", name, state, release, pid, float64(c.Memory)/(1<<20), r.cpu, restarts)
		all = append(all, r)
	})
	slices.SortStableFunc(all, func(a, b row) int {
		switch m.by {
		case byCPU:
			return cmp.Or(cmp.Compare(b.cpu, a.cpu), cmp.Compare(a.name, b.name))
		case byMemory:
			return cmp.Or(cmp.Compare(b.memory, a.memory), cmp.Compare(a.name, b.name))
		case byName:
		}
		return cmp.Compare(a.name, b.name)
	})
	return all
}

// each calls do with every process of a status, which may be nil.
func each(s *control.Status, do func(name, state, release string, pid, restarts int, c *control.Consumption)) {
	if s == nil {
		return
	}
	process := func(p *control.ProcessStatus) { do(p.Name, p.State, p.Release, p.PID, p.Restarts, &p.Consumption) }
	for i := range s.Apps {
		a := &s.Apps[i]
		if a.FPM != nil {
			for j := range a.FPM.Generations {
				g := &a.FPM.Generations[j]
				do(a.FPM.Name, g.State, g.Release, g.PID, g.Restarts, &g.Consumption)
			}
		}
		for j := range a.Pools {
			for k := range a.Pools[j].Workers {
				process(&a.Pools[j].Workers[k])
			}
		}
	}
	for i := range s.Programs {
		process(&s.Programs[i])
	}
}

// cut keeps a line from running into the next.
func (m model) cut(line string) string {
	if letters := []rune(line); len(letters) > m.width {
		return string(letters[:max(0, m.width-1)]) + "…"
	}
	return line
}

type styles struct{ good, warn, bad, faint ansi.Style }

func newStyles(colour bool) styles {
	if !colour {
		return styles{}
	}
	return styles{
		good: ansi.Style{}.ForegroundColor(ansi.Green), warn: ansi.Style{}.ForegroundColor(ansi.Yellow),
		bad: ansi.Style{}.ForegroundColor(ansi.Red), faint: ansi.Style{}.Faint(),
	}
}
