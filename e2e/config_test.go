//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"superd/e2e/lab"
)

// tenMistakes has ten, each on the line with a ! at its end.
const tenMistakes = `sokcet = "/tmp/x.sock" #!
run_dir = "relative/run" #!
[log]
level = "chatty" #!
[app.shop]
root = "%[1]s/shop"
user = "nobody-has-this-name" #!
[app.shop.switch]
watch = "30 seconds" #!
keep_releases = "five" #!
[app.shop.fpm]
max_children = 0 #!
pm = "statc" #!
[app.shop.worker.jobs]
command = "php worker.php | tee log" #!
stop_signal = "SIGTREM" #!
`

// A configuration with ten mistakes: ten messages, each with its line, all at once,
// and nothing is started.
func TestTenMistakes(t *testing.T) {
	l, _ := newLab(t)
	if err := os.WriteFile(l.ConfigFile(), fmt.Appendf(nil, tenMistakes, l.Dir), 0o644); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	superctl := l.Ctl("check", l.ConfigFile())
	said["superctl check"] = superctl.Out + superctl.Err
	if superctl.Code != 5 {
		t.Errorf("superctl check: want exit 5: %s", superctl)
	}
	superd, err := l.LaunchSuperd()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-superd.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("superd runs with it")
	}
	if superd.Code() == 0 {
		t.Error("superd run: exit 0")
	}
	said["superd run"] = superd.Tail(1 << 20)
	for who, text := range said {
		t.Logf("%s says:\n%s", who, text)
		eachMistakeIsTold(t, who, text, l.ConfigFile())
	}
	for _, p := range l.Processes() {
		if p.Kind != "other" {
			t.Errorf("it was started: %s", p)
		}
	}
	if _, err := os.Stat(l.ControlSocket()); err == nil {
		t.Error("a socket was made")
	}
}

func eachMistakeIsTold(t *testing.T, who, text, file string) {
	t.Helper()
	wanted := 0
	for i, line := range strings.Split(tenMistakes, "\n") {
		if !strings.HasSuffix(line, "#!") {
			continue
		}
		wanted++
		key, _, _ := strings.Cut(line, " ")
		told := regexp.MustCompile(fmt.Sprintf(`(?m)^.*%s:%d:.*\b%s\b.*$`, regexp.QuoteMeta(file), i+1, key))
		if !told.MatchString(text) {
			t.Errorf("%s does not tell of %s on line %d", who, key, i+1)
		}
	}
	if n := strings.Count(text, file+":"); wanted != 10 || n != wanted {
		t.Errorf("%s tells of %d mistakes, there are %d", who, n, wanted)
	}
}

// The mistakes of one's own: a good file is good.
func TestGoodConfiguration(t *testing.T) {
	l, _ := newLab(t)
	if err := l.Configure(lab.Config{}); err != nil {
		t.Fatal(err)
	}
	if o := l.Ctl("check", l.ConfigFile()); o.Code != 0 {
		t.Errorf("want exit 0: %s", o)
	}
}
