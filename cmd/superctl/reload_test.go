package main

import (
	"context"
	"strings"
	"testing"

	"superd/control"
	"superd/release"
)

func (f *fakeDaemon) Reload(_ context.Context, plan bool, _ release.By) (control.Reload, error) {
	if len(f.apps) == 0 {
		return control.Reload{}, &control.Error{Kind: control.Rejected, Message: "superd.toml:3:1: socket: is wrong\nsuperd.toml:9:1: log: too"}
	}
	return control.Reload{
		Plan: plan, Message: "1 live, 1 restart, 1 later", Warnings: []string{"superd.toml:1:1: mind this"},
		Switches: []control.ReloadSwitch{{App: "shop", Switch: "s7"}},
		Changes: []control.Change{
			{Name: "superd", Action: "later", Reasons: []control.Reason{{Key: "socket", Class: "later"}}},
			{Name: "shop", Action: "nothing"},
			{Name: "shop/fpm", Action: "restart", Reasons: []control.Reason{{Key: "app.shop.fpm.pm", Class: "restart"}, {Key: "app.shop.fpm.warmup", Class: "live"}}},
			{Name: "nginx", Action: "start", Reasons: []control.Reason{{Key: "program.nginx", Class: "live"}}},
		},
	}, nil
}

func TestReloadTellsWhatAndWhy(t *testing.T) {
	socket := superd(t, &fakeDaemon{apps: []string{"shop"}})
	got := run(t, false, "--socket", socket, "reload", "--plan")
	want := `NAME      WHAT     WHY
superd    later    socket
shop/fpm  restart  app.shop.fpm.pm, app.shop.fpm.warmup (live)
nginx     start    program.nginx
nothing was changed; a reload would be: 1 live, 1 restart, 1 later, 1 untouched
`
	if got.code != 0 || got.out != want {
		t.Errorf("exit %d\n%s", got.code, got.out)
	}
	for _, words := range []string{"warning: superd.toml:1:1: mind this", "switch s7", "superd: what is later counts when superd itself starts again"} {
		if !strings.Contains(got.talk, words) {
			t.Errorf("it does not say %q: %s", words, got.talk)
		}
	}
	if got := run(t, false, "--socket", socket, "reload"); !strings.Contains(got.out, "\nreloaded: 1 live") {
		t.Errorf("without --plan: %s", got.out)
	}
	if got := run(t, false, "--socket", socket, "reload", "--json", "--plan"); !strings.Contains(got.out, `"plan": true`) || strings.Contains(got.out, "NAME") {
		t.Errorf("as JSON: %s", got.out)
	}
}

func TestReloadOfABadFile(t *testing.T) {
	socket := superd(t, &fakeDaemon{})
	got := run(t, false, "--socket", socket, "reload")
	if got.code != 5 || !strings.Contains(got.talk, "superd.toml:3:1") || !strings.Contains(got.talk, "superd.toml:9:1") {
		t.Errorf("exit %d: %s", got.code, got.talk)
	}
}
