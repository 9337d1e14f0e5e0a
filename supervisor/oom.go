package supervisor

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/cgroup"
)

// A process that the kernel ends for want of memory dies of SIGKILL, as one that a person
// has killed. Three witnesses tell them apart, the best first: the child's cgroup counts
// such kills where the memory controller is in use; the kernel's log names the PID, which
// can be told from a log that may be read and that counts PIDs as we do (not in a
// container); and the kernel counts all such kills, which says only that it may be so.

// An OOM is what is known of the part that want of memory had in an end.
type OOM string

// The parts that it can have.
const (
	NoOOM    OOM = ""
	OOMKill  OOM = "killed"   // the kernel has ended the main process for it
	OOMTree  OOM = "tree"     // the kernel has ended another process of the tree for it
	OOMMaybe OOM = "possibly" // SIGKILL came from nobody here, and the kernel has killed for it just then
)

// remark is what is added to how a child has ended.
func (o OOM) remark() string {
	switch o {
	case OOMTree:
		return "; out of memory: the kernel had killed another of its processes"
	case OOMMaybe:
		return ", possibly out of memory: the kernel has killed for it just then"
	case NoOOM, OOMKill:
	}
	return ""
}

// A shortage watches for kills for want of memory.
type shortage struct {
	groups *cgroup.Tree // that counts, nil: the machine does
	log    string       // the kernel's log, "" if its PIDs are not ours

	mu    sync.Mutex
	count int64
	moved time.Time // when the count was seen to grow
}

// oomRecent is how long after the count was seen to grow a death may be due to that.
const oomRecent = 10 * time.Second

func newShortage(groups *cgroup.Tree) *shortage {
	s := &shortage{}
	if groups != nil {
		if _, ok := groups.OOMKills(); ok {
			s.groups = groups
		}
	}
	if ns, err := os.Readlink("/proc/self/ns/pid"); err == nil && ns == firstNamespace {
		s.log = "/dev/kmsg"
	}
	s.count, _ = s.kills() // uncounted it stays 0
	return s
}

// firstNamespace is the PID namespace that the kernel's log speaks of: PROC_PID_INIT_INO.
const firstNamespace = "pid:[4026531836]"

// kills is how often the kernel has killed for memory, where superd is or on the machine.
func (s *shortage) kills() (int64, bool) {
	if s.groups != nil {
		return s.groups.OOMKills()
	}
	return ofMachine("oom_kill") // since Linux 4.13
}

// ofMachine is a counter of /proc/vmstat. The kernel adds all of them up for each read, so
// there are few, and none behind what is looked for.
func ofMachine(counter string) (int64, bool) {
	f, err := os.Open("/proc/vmstat")
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }() // was only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if number, is := strings.CutPrefix(lines.Text(), counter+" "); is {
			n, err := strconv.ParseInt(number, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// grew tells whether the kernel has killed for memory since somebody has looked.
func (s *shortage) grew() bool {
	n, ok := s.kills()
	s.mu.Lock()
	defer s.mu.Unlock()
	grown := ok && n > s.count
	if grown {
		s.count, s.moved = n, time.Now()
	}
	return grown
}

// recently tells whether the kernel has killed for memory a moment ago.
func (s *shortage) recently() bool {
	s.grew()
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.moved) < oomRecent
}

// part tells what part want of memory had in the end of a child whose main process was
// that. killed: superd has.
func (s *shortage) part(c *Child, main identity, status syscall.WaitStatus, at time.Time, killed bool) OOM {
	own := int64(0)
	if c.leaf != nil {
		own, _ = c.leaf.OOMKills() // uncounted it is 0
	}
	unexplained := !killed && status.Signaled() && status.Signal() == unix.SIGKILL
	if own == 0 && !unexplained {
		return NoOOM
	}
	recently := unexplained && at.After(c.children.came) && s.recently()
	if unexplained && (own > 0 || recently) {
		named, readable := s.named(main.PID, main.Start)
		switch {
		case named, !readable && own > 0:
			return OOMKill
		case !readable:
			return OOMMaybe
		}
	}
	if own > 0 {
		return OOMTree
	}
	return NoOOM
}

// named tells whether the kernel's log says that it has ended that process for memory,
// and whether the log can be read.
func (s *shortage) named(pid int, start uint64) (is, readable bool) {
	born := sinceBoot(start)
	err := s.victims(func(v victim) bool {
		is = v.pid == pid && v.at >= born
		return !is
	})
	return is, err == nil
}

// hasLog tells whether the kernel's log can be read, and speaks of our PIDs.
func (s *shortage) hasLog() bool { return s.victims(func(victim) bool { return false }) == nil }

// errNoLog is why the kernel's log says nothing.
var errNoLog = errors.New("the kernel's log does not count PIDs as we do")

// victims goes through the kernel's log, oldest first, until each returns false.
func (s *shortage) victims(each func(victim) bool) error {
	if s.log == "" {
		return errNoLog
	}
	fd, err := unix.Open(s.log, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err // takes root, or dmesg_restrict=0
	}
	defer func() { _ = unix.Close(fd) }() // it was only read
	groups := map[int]string{}
	for records := make([]byte, 8192); ; { // /dev/kmsg gives one at a time
		n, err := unix.Read(fd, records)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EINTR):
			continue // overwritten meanwhile, or longer than there is room
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return nil
		case err != nil:
			return err
		}
		for record := range bytes.Lines(records[:n]) {
			if pid, group, ok := parseGroup(record); ok {
				groups[pid] = group
			}
			v, ok := parseVictim(record)
			v.group = groups[v.pid]
			if ok && !each(v) {
				return nil
			}
		}
	}
}

// A victim is a process that the kernel's log says was ended for memory.
type victim struct {
	pid  int
	name string

	at    time.Duration // since boot, see uptime
	group string        // its memory cgroup, "": the log does not say
}

// parseGroup reads what may come before: "…;oom-kill:constraint=CONSTRAINT_MEMCG,…,
// task_memcg=/system.slice/superd.service,task=php,pid=4711,uid=33". When many are killed
// the kernel leaves it out.
func parseGroup(record []byte) (pid int, group string, ok bool) {
	_, text, found := strings.Cut(string(record), ";oom-kill:")
	_, text, of := strings.Cut(text, ",task_memcg=")
	group, text, named := strings.Cut(text, ",task=")
	at := strings.LastIndex(text, ",pid=") // a task may be called anything
	if !found || !of || !named || at < 0 {
		return 0, "", false
	}
	number, _, _ := strings.Cut(text[at+len(",pid="):], ",")
	pid, err := strconv.Atoi(strings.TrimSpace(number))
	return pid, group, err == nil
}

// parseVictim reads a record of the kernel's log: "3,512,7213456,-;Out of memory: Killed
// process 4711 (php) total-vm:…", or "Memory cgroup out of memory: …". The third number is
// in microseconds.
func parseVictim(record []byte) (v victim, ok bool) {
	head, text, found := bytes.Cut(record, []byte(";"))
	if f := bytes.Split(head, []byte(",")); found && len(f) >= 3 {
		us, err := strconv.ParseInt(string(f[2]), 10, 64)
		v.at, found = time.Duration(us)*time.Microsecond, err == nil
	}
	before, after, killed := bytes.Cut(text, []byte("Killed process "))
	if !found || !killed || !bytes.Contains(bytes.ToLower(before), []byte("out of memory")) {
		return victim{}, false
	}
	number, rest, _ := bytes.Cut(after, []byte(" "))
	_, rest, _ = bytes.Cut(rest, []byte("("))
	name, _, _ := bytes.Cut(rest, []byte(") "))
	v.name = string(name)
	pid, err := strconv.Atoi(strings.TrimSuffix(string(number), ","))
	v.pid = pid
	return v, err == nil
}

// sinceBoot is a start time of /proc/PID/stat by the clock of the kernel's log, which does
// not go on while the machine sleeps. Ticks are of 10 ms, rounded down.
func sinceBoot(ticks uint64) time.Duration {
	var all unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &all) != nil {
		return 0
	}
	slept := time.Duration(all.Nano()) - uptime()
	return time.Duration(ticks)*10*time.Millisecond - slept - 100*time.Millisecond // the two clocks are not read in one instant
}
