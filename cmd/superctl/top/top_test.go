package top

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"superd/control"
	"superd/release"
)

func statusAt(second int, requests uint64, busy float64) control.Status {
	g := release.Generation{Number: 7, Release: "r42"}
	return control.Status{
		Version: "1", PID: 9, Time: time.Date(2026, 1, 1, 12, 0, second, 0, time.UTC), Problems: []string{"shop/emails has 1 of 2 workers"},
		Apps: []control.AppStatus{{
			Name: "shop", State: control.AppOK, Live: &g,
			FPM: &control.FPMStatus{Name: "shop/fpm", Generations: []control.GenerationStatus{{
				Generation: g, State: "live", PID: 11, Active: 3, Idle: 5, Consumption: control.Consumption{Memory: 100 << 20, CPUSeconds: 5},
				Traffic: &control.TrafficStatus{Requests: 10, Total: control.TrafficTotal{Requests: requests}},
			}}},
			Pools: []control.PoolStatus{{Name: "shop/emails", Workers: []control.ProcessStatus{
				{Name: "shop/emails:0", State: "running", PID: 12, Consumption: control.Consumption{Memory: 10 << 20, CPUSeconds: busy}},
				{Name: "shop/emails:1", State: "backoff", Restarts: 4},
			}}},
		}},
		Programs: []control.ProcessStatus{{Name: "nginx:0", State: "running", PID: 13}},
	}
}

func after(m tea.Model, messages ...tea.Msg) model {
	for _, msg := range messages {
		m, _ = m.Update(msg)
	}
	return m.(model)
}

func key(name string) tea.KeyPressMsg { return tea.KeyPressMsg{Code: []rune(name)[0], Text: name} }

func TestViewShowsRatesBetweenTwoLooks(t *testing.T) {
	m := newModel(t.Context(), Options{Every: time.Second, Out: io.Discard})
	m = after(m, tea.WindowSizeMsg{Width: 120, Height: 30}, looked{status: statusAt(0, 1000, 1)}, looked{status: statusAt(2, 1300, 2)})
	view := m.text()
	for _, want := range []string{"150.0/s", "r42", "3/8", "1 problems", "! shop/emails has 1 of 2", "50.0 %", "nginx:0", "backoff"} {
		if !strings.Contains(view, want) {
			t.Errorf("no %q in\n%s", want, view)
		}
	}
	if first := m.rows()[0].name; first != "shop/emails:0" {
		t.Errorf("the busiest is %s", first)
	}
	if first := after(m, key("m")).rows()[0].name; first != "shop/fpm" {
		t.Errorf("the largest is %s", first)
	}
	if first := after(m, key("n")).rows()[0].name; first != "nginx:0" {
		t.Errorf("the first by name is %s", first)
	}
}

// Whatever the terminal's size, nothing is wider or higher than it.
func TestViewFits(t *testing.T) {
	for _, size := range []tea.WindowSizeMsg{{Width: 1, Height: 1}, {Width: 40, Height: 12}, {Width: 200, Height: 60}} {
		m := after(newModel(t.Context(), Options{Out: io.Discard}), size, looked{status: statusAt(0, 1, 1)}, key("j"), key("j"), key("j"), key("j"), key("j"), key("j"))
		lines := strings.Split(m.text(), "\n")
		if size.Height > 10 && len(lines) > size.Height {
			t.Errorf("%d lines on %d", len(lines), size.Height)
		}
	}
}

func TestSuperdGoneIsShownAndAskedAgain(t *testing.T) {
	m := after(newModel(t.Context(), Options{Out: io.Discard}), looked{status: statusAt(0, 1, 1)}, looked{err: errors.New("nobody there")})
	if view := m.text(); !strings.Contains(view, "nobody there") || !strings.Contains(view, "nginx:0") {
		t.Errorf("shows\n%s", view)
	}
	if _, next := m.Update(looked{err: errors.New("x")}); next == nil {
		t.Error("it does not ask again")
	}
	paused := after(m, key(" "))
	asked := false
	paused.o.Ask = func(context.Context) (control.Status, error) { asked = true; return control.Status{}, nil }
	paused.o.Every = time.Millisecond
	if _, next := paused.Update(due{}); next == nil {
		t.Error("a paused view does not come back")
	} else {
		next()
	}
	if asked {
		t.Error("a paused view asks")
	}
}

func TestQuit(t *testing.T) {
	_, cmd := newModel(t.Context(), Options{Out: io.Discard}).Update(key("q"))
	if cmd == nil {
		t.Fatal("q does nothing")
	}
	if _, ok := cmd().(tea.QuitMsg); !ok {
		t.Error("q does not quit")
	}
}
