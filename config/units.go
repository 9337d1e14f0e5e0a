package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Infinity is the duration that is written "infinity". Do not add to it: it overflows.
const Infinity time.Duration = math.MaxInt64

// Unlimited is the resource limit that is written "unlimited", RLIM_INFINITY.
const Unlimited uint64 = math.MaxUint64

// Share is how many of a pool: a count, or a part of whatever the pool's size is.
type Share struct {
	Count   int     // 0 when it is a part
	Percent float64 // above 0 and at most 100; 0 when it is a count
}

// Of is the share of n, rounded down, but never below 1: a share of nothing
// would never get anywhere.
func (s Share) Of(n int) int {
	count := s.Count
	if s.Percent > 0 {
		count = int(float64(n) * s.Percent / 100)
	}
	return max(1, min(count, n))
}

// String is the share as it is written in the file.
func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return strconv.Itoa(s.Count)
}

func parseShare(text string) (Share, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(percent > 0 && percent <= 100) {
			return Share{}, errors.New(`must be a percentage above 0% and up to 100%, such as "25%"`)
		}
		return Share{Percent: percent}, nil
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		return Share{}, errors.New(`must be a number of at least 1, or a percentage such as "25%"`)
	}
	return Share{Count: count}, nil
}

// parseDuration reads "90s", "1h30m", "500ms" and also days, "7d".
func parseDuration(text string) (time.Duration, error) {
	if text == "infinity" {
		return Infinity, nil
	}
	if number, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.ParseUint(number, 10, 16)
		if err == nil {
			return time.Duration(days) * 24 * time.Hour, nil
		}
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf(`must be a duration with its unit, such as "90s" or "1h30m", is %q`, short(text))
	}
	if d < 0 {
		return 0, fmt.Errorf("must not be negative, is %s", text)
	}
	return d, nil
}

// parseSize reads "256MiB", "1.5GiB", "10MB" or plain bytes; "" is 0, no limit.
func parseSize(text string) (int64, error) {
	number := strings.TrimRight(text, "BKMGTikmgtb")
	factor, known := sizeUnit(strings.TrimSpace(text[len(number):]))
	if text == "" {
		return 0, nil
	}
	value, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !known && err == nil {
		return 0, fmt.Errorf(`has no known unit in %q: write B, KiB, MiB, GiB (or KB, MB, GB), such as "256MiB"`, short(text))
	}
	if err != nil || math.IsNaN(value) || value < 0 {
		return 0, fmt.Errorf(`must be a size such as "256MiB", is %q`, short(text))
	}
	if value *= factor; value >= math.MaxInt64 {
		return 0, fmt.Errorf("is too large: %q", short(text))
	}
	return int64(value), nil
}

func sizeUnit(unit string) (factor float64, known bool) {
	switch unit {
	case "", "B":
		return 1, true
	case "KiB":
		return 1 << 10, true
	case "MiB":
		return 1 << 20, true
	case "GiB":
		return 1 << 30, true
	case "TiB":
		return 1 << 40, true
	case "KB", "kB":
		return 1e3, true
	case "MB":
		return 1e6, true
	case "GB":
		return 1e9, true
	case "TB":
		return 1e12, true
	}
	return 0, false
}

// parseStopSignal reads a signal's name, with or without SIG in front. Signals
// that would not make a worker end, or would stop it in its tracks, are refused.
func parseStopSignal(name string) (syscall.Signal, error) {
	signal := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	others := []syscall.Signal{syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT, syscall.SIGCHLD}
	switch {
	case signal == 0:
		return 0, fmt.Errorf(`must be the name of a signal, such as "TERM", "QUIT" or "INT", is %q`, short(name))
	case slices.Contains(others, signal):
		return 0, fmt.Errorf(`must be a signal that asks a process to end, such as "TERM", is %q`, name)
	}
	return signal, nil
}

// parseSignal reads the name of any signal that a process can answer.
func parseSignal(name string) (syscall.Signal, error) {
	signal := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
	if signal == 0 || signal == syscall.SIGKILL || signal == syscall.SIGSTOP {
		return 0, fmt.Errorf(`must be the name of a signal that a program can answer, such as "HUP" or "USR1", is %q`, short(name))
	}
	return signal, nil
}

func parseMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mode > 0o777 {
		return 0, fmt.Errorf(`must be the rights of a file in octal, such as "0660", is %q`, short(text))
	}
	return fs.FileMode(mode), nil
}
