package supervisor

import (
	"time"

	"superd/supervisor/notify"
)

// What a child says of itself, in the language of sd_notify(3). Some of it must not be
// forgotten when superd is replaced, for a child does not say it twice: that is written
// to the ledger. Whoever owns the life does it, so that the one who hears never waits for
// a disk: behind him stands every other child that has to say that it lives.

// An account is what the next superd has to know.
type account struct {
	Ready    bool          `json:"ready,omitempty"`
	Goes     bool          `json:"goes,omitempty"`     // STOPPING=1
	Timed    bool          `json:"timed,omitempty"`    // it has set its watchdog itself
	Watchdog time.Duration `json:"watchdog,omitempty"` // to this; 0: none
	Fault    string        `json:"fault,omitempty"`    // our own word: why it is ended

	Main      int    `json:"main,omitempty"` // MAINPID=; 0: the process that was started
	MainStart uint64 `json:"main_start,omitempty"`
}

type words struct {
	ready chan struct{}  // closed by READY=1
	more  chan time.Time // until when it asks to be given time
	stir  chan struct{}  // it has said something that its owner should act upon

	said      account
	unwritten bool // said is not in the ledger yet
	status    string
	reloading bool
	every     time.Duration // how often WATCHDOG=1 is to come; 0: never
	fed       time.Time     // when it came last
	trigger   bool
	heir      *heir // the main process that it has named; nil: none
	headless  bool  // that has ended, and the process that was started lives on

	toldHeir, followedBy *heir // who was told to go, and after whom the one that was started was
}

func newWords(watchdog time.Duration) words {
	return words{ready: make(chan struct{}), more: make(chan time.Time, 1), stir: make(chan struct{}, 1), every: watchdog}
}

// Ready is closed when the child has said READY=1, also to an earlier superd.
func (c *Child) Ready() <-chan struct{} { return c.ready }

// StatusText is the last STATUS= the child sent.
func (c *Child) StatusText() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Reloading tells whether the child has said RELOADING=1 and not READY=1 since.
func (c *Child) Reloading() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reloading
}

// goes tells whether it has said that it is on its way out.
func (c *Child) goes() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.Goes
}

// longestWait bounds by how much a child may put off the end of its start, or of its
// stop, from its birth or its stop signal, however often it asks.
const longestWait = 24 * time.Hour

// heard takes a message of the child's own. It does not block.
func (c *Child) heard(m notify.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.said
	if m.Stated {
		c.status = m.Status
	}
	if m.Ready && !was.Ready {
		c.said.Ready = true
		close(c.ready)
	}
	c.reloading = (c.reloading || m.Reloading) && !m.Ready
	c.said.Goes = was.Goes || m.Stopping
	if m.Timed {
		c.said.Timed, c.said.Watchdog = true, m.Every
		c.every = interval(m.Every)
	}
	if m.Watchdog || m.Timed {
		c.fed = time.Now()
	}
	c.trigger = c.trigger || m.Trigger
	if m.Extend > 0 {
		c.grant(m.Extend)
	}
	if c.said != was {
		c.unwritten = true
	}
	if c.unwritten || m.Trigger {
		c.rouse()
	}
}

// grant passes on that it asks for more time. The mutex is held.
func (c *Child) grant(more time.Duration) {
	until := time.Now().Add(more)
	since := c.made
	if !c.told.IsZero() {
		since = c.told
	}
	if last := since.Add(longestWait); until.After(last) {
		until = last
	}
	select {
	case <-c.more: // the latest word counts
	default:
	}
	c.more <- until
}

func (c *Child) rouse() {
	select {
	case c.stir <- struct{}{}:
	default:
	}
}

// record leaves to the next superd what the child has said. It may wait for a disk.
func (c *Child) record() {
	c.mu.Lock()
	words, due := c.said, c.unwritten
	c.unwritten = false
	c.mu.Unlock()
	if due {
		c.children.ledger.said(c.proc.PID, c.proc.Start, words)
	}
}

// recall takes what the child has said to an earlier superd.
func (c *Child) recall(s account) {
	c.said = s
	if s.Ready {
		close(c.ready)
	}
	if s.Timed {
		c.every = interval(s.Watchdog)
	}
	c.recallHeir()
}
