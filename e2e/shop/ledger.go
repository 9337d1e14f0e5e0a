package shop

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// A Job is what the ledger knows of one.
type Job struct {
	ID      string
	Started []Mark
	Ended   []Mark
}

// A Mark is one line of the ledger.
type Mark struct {
	Release string
	Slot    string // and its generation: "3@7"
	PID     int
	At      time.Duration // of the monotonic clock
}

// Jobs reads the ledger. A line that is not whole is an error: each was one write.
func (s *Shop) Jobs() (map[string]*Job, error) {
	jobs := map[string]*Job{}
	file, err := os.Open(s.Ledger())
	if errors.Is(err, fs.ErrNotExist) {
		return jobs, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		id, mark, end, err := parseLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		job := jobs[id]
		if job == nil {
			job = &Job{ID: id}
			jobs[id] = job
		}
		if end {
			job.Ended = append(job.Ended, mark)
		} else {
			job.Started = append(job.Started, mark)
		}
	}
	return jobs, lines.Err()
}

func parseLine(line string) (id string, m Mark, end bool, err error) {
	words := strings.Fields(line)
	if len(words) != 6 || words[0] != "START" && words[0] != "END" {
		return "", m, false, fmt.Errorf("line %q", line)
	}
	pid, pidErr := strconv.Atoi(words[4])
	at, atErr := strconv.ParseInt(words[5], 10, 64)
	if err := errors.Join(pidErr, atErr); err != nil {
		return "", m, false, fmt.Errorf("line %q: %w", line, err)
	}
	return words[1], Mark{Release: words[2], Slot: words[3], PID: pid, At: time.Duration(at)}, words[0] == "END", nil
}

// An Account is what became of the jobs that were pushed.
type Account struct {
	Pushed  int
	Done    int      // began once, ended once
	Lost    []string // began and did not end
	Doubled []string // began or ended more than once
	Waiting []string // did not begin
	Unknown []string // nobody pushed them
}

// Settle compares the ledger with the jobs that were pushed.
func Settle(pushed []string, jobs map[string]*Job) Account {
	a := Account{Pushed: len(pushed)}
	known := map[string]bool{}
	for _, id := range pushed {
		known[id] = true
		job := jobs[id]
		switch {
		case job == nil:
			a.Waiting = append(a.Waiting, id)
		case len(job.Started) > 1 || len(job.Ended) > 1:
			a.Doubled = append(a.Doubled, id)
		case len(job.Ended) == 0 || len(job.Started) == 0:
			a.Lost = append(a.Lost, id)
		default:
			a.Done++
		}
	}
	for id := range jobs {
		if !known[id] {
			a.Unknown = append(a.Unknown, id)
		}
	}
	return a
}

// String is the account in one line.
func (a Account) String() string {
	return fmt.Sprintf("%d pushed, %d done, %d lost, %d doubled, %d still waiting", a.Pushed, a.Done, len(a.Lost), len(a.Doubled), len(a.Waiting))
}
