package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"superd/config"
)

// systemd looks at superd's unit.
func (e *examination) systemd(ctx context.Context) {
	out, err := e.Run(ctx, Call{Argv: []string{
		"systemctl", "show", e.Unit, "-p",
		"LoadState,Type,NotifyAccess,TimeoutStopUSec,KillMode,Delegate,DelegateSubgroup,PrivateTmp,ProtectHome,LimitNOFILE," +
			"FileDescriptorStoreMax,RuntimeDirectory,RuntimeDirectoryPreserve",
	}})
	if err != nil {
		e.unseen("systemd", e.Unit, err, "nothing if superd is not run by systemd; else systemctl show "+e.Unit)
		return
	}
	unit := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			unit[name] = value
		}
	}
	if unit["LoadState"] != "loaded" {
		return // superd is run by something else
	}
	e.unit = unit
	e.stopTime()
	e.killMode()
	e.kept()
	e.privateDirectories()
}

func (e *examination) do(settings string) string {
	return fmt.Sprintf("systemctl edit %s: [Service] %s; then systemctl daemon-reload", e.Unit, settings)
}

// longest is what a stop of everything may take, and what of it. Apps, PHP-FPM, pools
// and most programs stop side by side.
func (e *examination) longest() (time.Duration, string) {
	limit, of := time.Duration(0), ""
	longer := func(d time.Duration, what string) {
		if d > limit {
			limit, of = d, what
		}
	}
	for _, app := range e.cfg.Apps {
		if app.FPM != nil {
			longer(app.FPM.DrainTimeout, "drain_timeout of "+app.Name+"/fpm")
		}
		for _, w := range app.Workers {
			longer(w.StopTimeout, "stop_timeout of "+app.Name+"/"+w.Name)
		}
	}
	for _, p := range e.cfg.Programs {
		longer(p.StopTimeout, "stop_timeout of "+p.Name)
	}
	return limit, of
}

// leave is what superd and its keeper need beyond the last process.
const leave = 10 * time.Second

func (e *examination) stopTime() {
	have, err := timespan(e.unit["TimeoutStopUSec"])
	if err != nil {
		e.unseen("systemd-timeout", e.Unit, err, "systemctl show "+e.Unit+" -p TimeoutStopUSec")
		return
	}
	need, of := e.longest()
	switch {
	case need == 0 || have == config.Infinity:
		return
	case need != config.Infinity && have >= need+leave:
		return
	}
	f := Finding{
		ID: "systemd-timeout-stop", Severity: Problem, Subject: e.Unit,
		What: fmt.Sprintf("TimeoutStopSec is %s, and %s is %s", have, of, need),
		Why:  "At `systemctl stop`, `restart` and a reboot systemd kills everything when its time is over, in the middle of jobs and requests that superd would have waited for.",
	}
	if asks := e.unit["NotifyAccess"]; e.unit["Type"] == "notify" && asks != "" && asks != "none" {
		f.Severity = Hint
		f.Why = "superd asks systemd for the time it needs when it stops. One that hangs or has just died at that moment cannot ask, and systemd then kills everything in the middle of jobs and requests."
	}
	if need == config.Infinity {
		f.What, f.Do = fmt.Sprintf("TimeoutStopSec is %s, and %s is infinity", have, of), e.do("TimeoutStopSec=infinity")
	} else {
		f.Do = e.do(fmt.Sprintf("TimeoutStopSec=%d", int((need + 3*leave).Seconds())))
	}
	e.tell(f)
}

func (e *examination) killMode() {
	mode := e.unit["KillMode"]
	if mode == "" || mode == "process" {
		return
	}
	e.tell(Finding{
		ID: "systemd-kill-mode", Severity: Problem, Subject: e.Unit,
		What: "KillMode is " + mode,
		Why: "systemd then signals what superd runs behind superd's back. With control-group, its default, every process gets SIGTERM at a stop: a PHP-FPM master drops " +
			"the requests in flight, and what a worker has started for its job is killed under it. With mixed all get SIGKILL once the keeper has ended, by a crash too.",
		Do: e.do("KillMode=process"),
	})
}

// kept: what must outlive the loss of a keeper and a restart.
func (e *examination) kept() {
	if e.unit["FileDescriptorStoreMax"] == "0" {
		e.tell(Finding{
			ID: "systemd-store", Severity: Problem, Subject: e.Unit,
			What: "FileDescriptorStoreMax is 0",
			Why: "systemd keeps nothing for superd: if the keeper is killed, everything that it ran is ended and started again, with users refused meanwhile. " +
				"`systemctl restart` refuses them too.",
			Do: e.do("FileDescriptorStoreMax=8192"),
		})
	}
	if e.unit["RuntimeDirectoryPreserve"] != "no" {
		return
	}
	for dir := range strings.FieldsSeq(e.unit["RuntimeDirectory"]) {
		if dir = filepath.Join("/run", dir); below(dir, e.cfg.RunDir) {
			e.tell(Finding{
				ID: "systemd-runtime-directory", Severity: Problem, Subject: e.Unit,
				What: fmt.Sprintf("RuntimeDirectoryPreserve is no, and run_dir is %s", e.cfg.RunDir),
				Why:  "systemd removes " + dir + " whenever superd ends, before an automatic restart too: with it go the sockets that web servers connect to, of processes that live on.",
				Do:   e.do("RuntimeDirectoryPreserve=yes"),
			})
		}
	}
}

// privateDirectories: a unit that has a /tmp of its own keeps its sockets to itself.
func (e *examination) privateDirectories() {
	places := map[string]string{"socket": e.cfg.Socket, "run_dir": e.cfg.RunDir}
	homes := map[string]string{}
	for _, app := range e.cfg.Apps {
		if app.FPM != nil && filepath.IsAbs(app.FPM.Listen) {
			places["listen of "+app.Name] = app.FPM.Listen
		}
		homes["root of "+app.Name] = app.Root
	}
	private := e.unit["PrivateTmp"] == "yes" || e.unit["PrivateTmp"] == "disconnected"
	for _, what := range slices.Sorted(maps.Keys(places)) {
		if private && (below("/tmp", places[what]) || below("/var/tmp", places[what])) {
			e.tell(Finding{
				ID: "systemd-private-tmp", Severity: Problem, Subject: e.Unit,
				What: fmt.Sprintf("PrivateTmp is on, and %s is %s", what, places[what]),
				Why:  "The unit has a /tmp that nobody else sees: the web server and superctl look for the socket in another one.",
				Do:   e.do("PrivateTmp=no") + "; or use a path in /run",
			})
		}
	}
	hidden := map[string]bool{"yes": true, "tmpfs": true, "read-only": true}
	for _, what := range slices.Sorted(maps.Keys(homes)) {
		if hidden[e.unit["ProtectHome"]] && (below("/home", homes[what]) || below("/root", homes[what])) {
			e.tell(Finding{
				ID: "systemd-protect-home", Severity: Problem, Subject: e.Unit,
				What: fmt.Sprintf("ProtectHome is %s, and %s is %s", e.unit["ProtectHome"], what, homes[what]),
				Why:  "What runs in the unit, PHP and workers too, cannot use directories below /home: superd cannot move the link, or does not even see the releases.",
				Do:   e.do("ProtectHome=no"),
			})
		}
	}
}

// timespan reads a duration as systemd prints it: "1min 30s", "infinity".
func timespan(s string) (time.Duration, error) {
	if s == "infinity" {
		return config.Infinity, nil
	}
	units := map[string]time.Duration{
		"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour,
		"d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "month": 2629800 * time.Second, "y": 31557600 * time.Second,
	}
	sum := time.Duration(0)
	for part := range strings.FieldsSeq(s) {
		if part == "0" {
			continue
		}
		at := strings.IndexFunc(part, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if at < 1 || units[part[at:]] == 0 {
			return 0, fmt.Errorf("systemd's time span %q is not understood", s)
		}
		n, err := strconv.ParseFloat(part[:at], 64)
		if err != nil {
			return 0, fmt.Errorf("systemd's time span %q: %w", s, err)
		}
		sum += time.Duration(n * float64(units[part[at:]]))
	}
	if s == "" {
		return 0, errors.New("systemd told no time span")
	}
	return sum, nil
}

// cgroup is for information: what superd could have and has not.
func (e *examination) cgroup() {
	f := Finding{
		Severity: Hint, Subject: "cgroups",
		Why: "For information. Where superd has a cgroup to divide, each process gets one, and a stop ends whatever that process has started. " +
			"Without, superd finds what belongs to a process by its session, its descent and a mark in its environment; only a process that sheds all three outlives a kill.",
	}
	subgroup, known := e.unit["DelegateSubgroup"] // not known to systemd before version 254
	switch controllers, err := e.controllers(); {
	case err != nil:
		f.ID, f.What = "cgroup-v1", "there is no cgroup v2 at "+e.Cgroup
		f.Do = "nothing is wrong without; boot with systemd.unified_cgroup_hierarchy=1 to have it"
	case e.unit != nil && e.unit["Delegate"] != "yes":
		f.ID, f.What = "cgroup-not-delegated", e.Unit+" has no cgroup subtree of its own (Delegate="+e.unit["Delegate"]+")"
		f.Do = e.do("Delegate=yes")
	case known && subgroup == "" && slices.Contains(controllers, "memory"):
		f.ID, f.What = "cgroup-no-memory", "the kernel does not count the memory of each process of "+e.Unit+" by its cgroup"
		f.Why = "For information. superd measures by smaps_rollup instead, and learns of a kill for want of memory from the kernel's log. " +
			"The kernel counts below a cgroup only if no process is in that cgroup itself, where systemd puts the keeper unless told otherwise."
		f.Do = e.do("DelegateSubgroup=keeper")
	default:
		return
	}
	e.tell(f)
}

// controllers are those of cgroup v2, which has none on a machine that has v1 beside it.
func (e *examination) controllers() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(e.Cgroup, "cgroup.controllers"))
	if errors.Is(err, os.ErrNotExist) {
		b, err = os.ReadFile(filepath.Join(e.Cgroup, "unified", "cgroup.controllers"))
	}
	return strings.Fields(string(b)), err
}
