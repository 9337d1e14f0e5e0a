package notify

import (
	"strconv"
	"strings"
	"time"
)

// A Message is what one process says of itself.
type Message struct {
	PID       int // who sent it, by the kernel's word
	Ready     bool
	Stated    bool // Status was said, maybe to be empty
	Status    string
	Watchdog  bool
	Trigger   bool // WATCHDOG=trigger: it wants to be taken for one that has missed its watchdog
	Stopping  bool
	Reloading bool
	MainPID   int           // 0: not said
	Extend    time.Duration // how much more time it asks for
	Timed     bool          // Every was said, maybe to be 0
	Every     time.Duration // how often WATCHDOG=1 comes from now on; 0: no more
}

// longest bounds what a child may ask for: a week is meant, ten thousand years are an
// overflow.
const longest = 7 * 24 * time.Hour

// parse reads the variables we know and passes over all else. Of two with the
// same name the later one counts.
func parse(b []byte) Message {
	var m Message
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		switch name {
		case "READY":
			m.Ready = value == "1"
		case "WATCHDOG":
			m.Watchdog, m.Trigger = value == "1", value == "trigger"
		case "WATCHDOG_USEC":
			m.Every, m.Timed = microseconds(value)
		case "STOPPING":
			m.Stopping = value == "1"
		case "RELOADING":
			m.Reloading = value == "1"
		case "STATUS":
			m.Stated, m.Status = true, strings.ToValidUTF8(value, "�")
		case "MAINPID":
			m.MainPID = pid(value)
		case "EXTEND_TIMEOUT_USEC":
			m.Extend, _ = microseconds(value)
		}
	}
	return m
}

func pid(s string) int {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 1 {
		return 0
	}
	return int(n)
}

// microseconds is a time as sd_notify writes it; false: it is none.
func microseconds(s string) (time.Duration, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, false
	}
	return time.Duration(min(n, uint64(longest/time.Microsecond))) * time.Microsecond, true
}
