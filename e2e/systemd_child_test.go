//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// looker is a worker that writes down what it was born with.
const looker = `<?php
$own = fn($name) => array_column(array_map(fn($l) => preg_split('/\s{2,}|:\s+/', $l, 2), file("/proc/self/$name", FILE_IGNORE_NEW_LINES)), 1, 0);
$status = $own('status');
$spaces = [];
foreach (['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'] as $n) { $spaces[$n] = readlink("/proc/self/ns/$n"); }
$fds = [];
foreach (scandir('/proc/self/fd') as $f) { if ((int) $f > 2 && @readlink("/proc/self/fd/$f") !== false && !str_contains(readlink("/proc/self/fd/$f"), '/proc/')) { $fds[] = readlink("/proc/self/fd/$f"); } }
file_put_contents('/srv/seen', json_encode([
    'env' => array_keys(getenv()), 'spaces' => $spaces, 'fds' => $fds,
    'umask' => $status['Umask'], 'caps' => $status['CapEff'], 'nnp' => $status['NoNewPrivs'], 'seccomp' => $status['Seccomp'],
    'ignored' => $status['SigIgn'], 'blocked' => $status['SigBlk'],
    'oom' => trim(file_get_contents('/proc/self/oom_score_adj')), 'cgroup' => file('/proc/self/cgroup', FILE_IGNORE_NEW_LINES),
    'nice' => pcntl_getpriority(), 'cwd' => getcwd(), 'tmp' => file_exists('/tmp/of-the-machine'),
]));
echo "looked\n";
sleep(1000);
`

// seen is what it writes.
type seen struct {
	Env     []string
	Spaces  map[string]string
	FDs     []string
	Umask   string
	Caps    string
	NNP     string
	Seccomp string
	Ignored string
	Blocked string
	OOM     string
	Cgroup  []string
	Nice    int
	Cwd     string
	Tmp     bool
}

// What the unit gives to superd is superd's: a child is born as its own configuration
// says, whatever an administrator has added to the unit.
func TestUnitChild(t *testing.T) {
	m := newUnit(t, strings.Replace(systemdConfig, `command = ["php8.2", "-r", "while (true) sleep(1);"]`, `command = ["php8.2", "/srv/look.php"]`, 1))
	// The shipped score, -900, is refused where root may not raise itself above others, as
	// in many containers. That it is not inherited shows with any other.
	m.install("/etc/systemd/system/superd.service.d/more.conf", []byte("[Service]\nOOMScoreAdjust=300\nUMask=0077\nNice=5\nEnvironment=OF_THE_UNIT=1\n"), 0o644)
	m.install("/srv/look.php", []byte(looker), 0o644)
	m.install("/srv/seen", nil, 0o644)
	m.install("/srv/shop/releases/r1/public/index.php", []byte("<?php echo 'r1';"), 0o644)
	m.start()
	m.active()
	m.must("chmod", "666", "/srv/seen")
	m.must("touch", "/tmp/of-the-machine")
	m.must("superctl", "switch", "r1")
	var child seen
	eventually(t, 30*time.Second, "a child has looked", func() bool { return json.Unmarshal([]byte(m.must("cat", "/srv/seen")), &child) == nil })
	for _, name := range child.Env {
		for _, not := range []string{"NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "SYSTEMD_", "FDSTORE", "_DIRECTORY", "SUPERD_KEEPER", "OF_THE_UNIT"} {
			if strings.Contains(name, not) {
				t.Errorf("its environment has %s", name)
			}
		}
	}
	for kind, space := range child.Spaces {
		if own := m.must("readlink", "/proc/1/ns/"+kind); own != space {
			t.Errorf("its namespace of %s is %s, the machine's %s", kind, space, own)
		}
	}
	if fmt.Sprint(child.FDs) != "[/srv/look.php]" {
		t.Errorf("its descriptors are %v", child.FDs)
	}
	const sigpipe = "0000000000001000" // PHP itself
	if child.Umask != "0022" || child.Caps != "0000000000000000" || child.NNP != "0" || child.Seccomp != "0" || child.Ignored != sigpipe ||
		child.Blocked != "0000000000000000" || child.OOM != "0" || child.Nice != 0 || child.Cwd != "/srv/shop/releases/r1" || !child.Tmp {
		t.Errorf("it was born with %+v", child)
	}
	if group := child.Cgroup[len(child.Cgroup)-1]; !strings.Contains(group, "/superd.service/") || !strings.Contains(group, "/shop.jobs:") {
		t.Errorf("its cgroup is %s", group)
	}
	if score := m.must("bash", "-c", "cat /proc/"+m.show("MainPID")+"/oom_score_adj"); score != "300" {
		t.Errorf("the keeper's own score is %s: nothing is proved about a child's", score)
	}
	if tree := m.must("systemd-cgls", "--no-pager", "-l", "-u", "superd.service"); strings.Count(tree, "/srv/look.php") != 2 || strings.Count(tree, "php-fpm: master") != 1 {
		t.Errorf("systemd-cgls has another tree:\n%s", tree)
	}
}
