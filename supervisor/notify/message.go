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
	Status    string
	Watchdog  bool
	Stopping  bool
	Reloading bool
	MainPID   int           // 0: not said
	Extend    time.Duration // how much more time it asks for
}

// maxExtend bounds what a child may ask for: a week is meant, ten thousand years
// are an overflow.
const maxExtend = 7 * 24 * time.Hour

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
			m.Watchdog = value == "1"
		case "STOPPING":
			m.Stopping = value == "1"
		case "RELOADING":
			m.Reloading = value == "1"
		case "STATUS":
			m.Status = strings.ToValidUTF8(value, "�")
		case "MAINPID":
			m.MainPID = pid(value)
		case "EXTEND_TIMEOUT_USEC":
			m.Extend = extend(value)
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

func extend(usec string) time.Duration {
	n, err := strconv.ParseUint(usec, 10, 63)
	if err != nil {
		return 0
	}
	return time.Duration(min(n, uint64(maxExtend/time.Microsecond))) * time.Microsecond
}
