package supervisor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"superd/supervisor/keeper/client"
)

// Spec is one life of a process, resolved: nothing in it is a link or a template.
type Spec struct {
	Name   string   // what people call it: "shop/emails:3"
	Slot   string   // its place among the living: "shop/emails:3@7"; a second start in it is refused
	Note   []byte   // opaque JSON or nothing; survives superd together with the child
	Argv   []string // Argv[0] is looked up in the PATH of Env
	Env    []string // complete: nothing is inherited
	Dir    string
	User   Credential
	Umask  int
	Nice   int
	Limits []Limit
	Files  []*os.File // become descriptors 3, 4, …
	Log    string     // file of its output below the log directory; "": as the settings of output.Store say
	Stdin  bool       // its standard input is a pipe, see Child.Write; else /dev/null

	// Watchdog is how often it has to say WATCHDOG=1 once it is ready, 0: never. It is
	// told so by NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID in its environment.
	Watchdog time.Duration

	// How it is ended when its keeper was lost; no signal: SIGTERM, and 90 s.
	StopSignal  syscall.Signal
	StopTimeout time.Duration

	// Alone: it is not kept together with what it starts, see Policy.Alone.
	Alone bool

	// Labels are who it is, for logs that have fields: "app", "release", "pool", "slot".
	Labels map[string]string

	past history
}

// A Limit is one resource limit of a child (getrlimit(2)).
type Limit = client.Limit

// A Credential is who a child runs as.
type Credential struct {
	Name   string
	Home   string
	UID    uint32
	GID    uint32
	Groups []uint32
}

// LookupUser resolves a user and a group by name; an empty group is the user's
// own. The supplementary groups are the user's, so that a worker may read what
// its group may read.
func LookupUser(name, group string) (Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return Credential{}, fmt.Errorf("look up user %q: %w", name, err)
	}
	c := Credential{Name: u.Username, Home: u.HomeDir}
	if c.UID, err = number(u.Uid); err != nil {
		return Credential{}, err
	}
	if c.GID, err = number(u.Gid); err != nil {
		return Credential{}, err
	}
	ids, err := u.GroupIds()
	if err != nil {
		return Credential{}, fmt.Errorf("look up groups of %q: %w", name, err)
	}
	for _, id := range ids {
		n, err := number(id)
		if err != nil {
			return Credential{}, err
		}
		c.Groups = append(c.Groups, n)
	}
	if group == "" {
		return c, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return Credential{}, fmt.Errorf("look up group %q: %w", group, err)
	}
	c.GID, err = number(g.Gid)
	return c, err
}

// Myself is who superd runs as: the groups it has, which need not be those of the
// account, for only root may take others. In a container there may be no such account;
// then its name is its number, and its home what the environment says.
func Myself() Credential {
	c := Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())} //nolint:gosec // ids are not negative
	groups, _ := os.Getgroups()                                           // none is what one can do with
	for _, g := range groups {
		c.Groups = append(c.Groups, uint32(g)) //nolint:gosec // likewise
	}
	c.Name, c.Home = strconv.Itoa(os.Geteuid()), cmp.Or(os.Getenv("HOME"), "/")
	if u, err := user.LookupId(c.Name); err == nil {
		c.Name, c.Home = u.Username, u.HomeDir
	}
	return c
}

func number(id string) (uint32, error) {
	n, err := strconv.ParseUint(id, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("user or group id %q: %w", id, err)
	}
	return uint32(n), nil
}

// Every process of a child's tree is born with these in its environment. The mark
// is made anew for each life, so that neither the next life in the slot nor a
// second superd on the machine is ever taken for this one.
const (
	markName = "SUPERD_CHILD="
	slotName = "SUPERD_SLOT="
)

// A note is what the keeper holds beside a child for the next superd.
type note struct {
	Name string `json:"name"`
	Mark string `json:"mark"`
	Log  string `json:"log,omitempty"`

	Labels map[string]string `json:"labels,omitempty"`

	Watchdog time.Duration `json:"watchdog,omitempty"`

	Own json.RawMessage `json:"own,omitempty"`

	Past *history `json:"past,omitempty"`
}

// A history is what people are told of the lives before.
type history struct {
	Restarts int   `json:"restarts,omitempty"`
	Last     *Exit `json:"last,omitempty"`
}

// pack leaves the past out where there is no room for it: the child is started all the same.
func (n note) pack() ([]byte, error) {
	b, err := json.Marshal(n)
	if err == nil && len(b) > client.MaxNote && n.Past != nil {
		n.Past = nil
		return n.pack()
	}
	if err != nil {
		return nil, fmt.Errorf("note of %s: %w", n.Name, err)
	}
	return b, nil
}

// environ is the environment of the spec with our marks. A SUPERD_SLOT of the
// caller's stands, and a NOTIFY_SOCKET too.
func (s Spec) environ(mark, socket string) []string {
	env := slices.Clip(s.Env)
	lacks := func(name string) bool {
		return !slices.ContainsFunc(env, func(v string) bool { return strings.HasPrefix(v, name) })
	}
	if lacks(slotName) {
		env = append(env, slotName+s.Slot)
	}
	if s.Watchdog > 0 && socket != "" {
		if lacks("NOTIFY_SOCKET=") {
			env = append(env, "NOTIFY_SOCKET="+socket)
		}
		usec := strconv.FormatInt(interval(s.Watchdog).Microseconds(), 10)
		env = append(env, "WATCHDOG_USEC="+usec, client.OwnPID)
	}
	return append(env, markName+mark)
}

func unpackNote(b []byte, slot string) note {
	n := note{Name: slot}
	if json.Unmarshal(b, &n) != nil || n.Name == "" {
		n.Name = slot // not ours: still a child, known by its slot
	}
	return n
}
