package supervisord

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file is supervisord's datatypes: what the text of a value means.

// integer is Python's int(): white space around, a sign, and _ between digits are
// fine. What does not fit is refused, as it is nowhere meant.
func integer(text string) (int, error) { return digits(text, 10) }

func digits(text string, base int) (int, error) {
	bare := strip(text)
	unsigned := strings.TrimPrefix(strings.TrimPrefix(bare, "+"), "-")
	prefix := ""
	if base == 8 && len(unsigned) > 1 && strings.EqualFold(unsigned[:2], "0o") {
		prefix, unsigned = unsigned[:2], strings.TrimPrefix(unsigned[2:], "_")
	}
	spaced := strings.HasPrefix(unsigned, "_") || strings.HasSuffix(unsigned, "_") || strings.Contains(unsigned, "__")
	signs := len(bare) - len(unsigned) - len(prefix)
	n, err := strconv.ParseInt(strings.ReplaceAll(unsigned, "_", ""), base, 64)
	if err != nil || spaced || signs > 1 || strings.ContainsAny(unsigned, "+-") {
		return 0, fmt.Errorf("must be a whole number, is %q", short(text))
	}
	if strings.HasPrefix(bare, "-") {
		n = -n
	}
	if n > math.MaxInt32 && base == 8 {
		return 0, fmt.Errorf("is too large: %q", short(text))
	}
	return int(n), nil
}

func boolean(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "yes", "true", "on", "1":
		return true, nil
	case "no", "false", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("must be true or false, is %q", short(text))
}

// byteSize reads 50MB, 1kb or plain bytes; the units are of 1024.
func byteSize(text string) (int, error) {
	lower := strings.ToLower(text)
	factor := 1
	for suffix, f := range map[string]int{"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30} {
		if number, ok := strings.CutSuffix(lower, suffix); ok {
			lower, factor = number, f
			break
		}
	}
	n, err := integer(lower)
	if err != nil {
		return 0, fmt.Errorf("must be a size such as 50MB, is %q", short(text))
	}
	if n > math.MaxInt64/factor || n < math.MinInt64/factor {
		return 0, fmt.Errorf("is too large: %q", short(text))
	}
	return n * factor, nil
}

func octal(text string) (int, error) {
	n, err := digits(text, 8)
	if err != nil {
		return 0, fmt.Errorf("must be an octal number such as 022, is %q", short(text))
	}
	return n, nil
}

// signalNumber reads TERM, SIGTERM or 15.
func signalNumber(text string) (unix.Signal, error) {
	if n, err := integer(text); err == nil {
		if s := unix.Signal(n); n > 0 && unix.SignalName(s) != "" || n == 34 || n == 64 {
			return s, nil
		}
		return 0, fmt.Errorf("is not the number of a signal: %q", short(text))
	}
	name := "SIG" + strings.TrimPrefix(strings.ToUpper(strip(text)), "SIG")
	switch name { // the others Python has
	case "SIGRTMIN":
		return 34, nil
	case "SIGRTMAX":
		return 64, nil
	case "SIGCLD":
		return unix.SIGCHLD, nil
	}
	s := unix.SignalNum(name)
	if s == 0 {
		return 0, fmt.Errorf("is not the name of a signal: %q", short(text))
	}
	return s, nil
}

func exitCodes(text string) ([]int, error) {
	codes := []int{}
	if text == "" {
		return codes, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		n, err := integer(part)
		if err != nil || n < 0 || n > 255 {
			return nil, fmt.Errorf("must be exit codes from 0 to 255 with commas between, is %q", short(text))
		}
		codes = append(codes, n)
	}
	return codes, nil
}

func listOf(text string) []string {
	if text == "" {
		return nil
	}
	var all []string
	for part := range strings.SplitSeq(text, ",") {
		all = append(all, strip(part))
	}
	return all
}

// processOrGroupName is what supervisord takes for a name.
func processOrGroupName(text string) (string, error) {
	name := strip(text)
	if i := strings.IndexAny(name, " :/"); i >= 0 {
		return "", fmt.Errorf("%q cannot be a name: it has a %q in it", short(name), name[i:i+1])
	}
	return name, nil
}

// The values of autorestart.
const (
	restartAlways     = "always"
	restartUnexpected = "unexpected"
	restartNever      = "never"
)

func autoRestart(text string) (string, error) {
	if strings.ToLower(text) == "unexpected" {
		return restartUnexpected, nil
	}
	yes, err := boolean(text)
	if err != nil {
		return "", fmt.Errorf("must be true, false or unexpected, is %q", short(text))
	}
	if yes {
		return restartAlways, nil
	}
	return restartNever, nil
}

// Where output goes when it is not a file of the user's own.
const (
	logAuto   = "AUTO"
	logNone   = "NONE"
	logSyslog = "syslog"
)

func logfileName(text string) string {
	switch strings.ToLower(text) {
	case "none", "off":
		return logNone
	case "auto":
		return logAuto
	case "syslog":
		return logSyslog
	}
	return expandUser(text)
}

var logLevels = []string{"critical", "error", "warn", "info", "debug", "trace", "blather"}

func loggingLevel(text string) (string, error) {
	level := strings.ToLower(text)
	if !slices.Contains(logLevels, level) {
		return "", fmt.Errorf("must be one of %s, is %q", strings.Join(logLevels, ", "), short(text))
	}
	return level, nil
}

// expandUser makes ~ and ~name at the beginning of a path a home directory.
func expandUser(path string) string {
	if !strings.HasPrefix(path, "~") {
		return path
	}
	name, rest, slash := strings.Cut(path[1:], "/")
	home := os.Getenv("HOME")
	if name != "" || home == "" {
		u, err := user.Lookup(name)
		if name == "" {
			u, err = user.Current()
		}
		if err != nil {
			return path
		}
		home = u.HomeDir
	}
	if !slash {
		return home
	}
	return strings.TrimRight(home, "/") + "/" + rest
}

// inetAddress reads host:port, :port, *:port or port; the host of all is "".
func inetAddress(text string) (host string, port int, err error) {
	number := text
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		host, number = strings.ToLower(text[:i]), text[i+1:]
	}
	port, err = integer(number)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("must be host:port or a port from 1 to 65535, is %q", short(text))
	}
	if host == "*" {
		host = ""
	}
	return host, port, nil
}

// fcgiSocket refuses what supervisord does not take for the socket of an fcgi-program.
func fcgiSocket(text string, restricted bool) error {
	if path, ok := strings.CutPrefix(text, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("must be the absolute path of a unix socket, is %q", short(path))
		}
		return nil
	}
	if restricted {
		return errors.New("is an address, and socket_owner and socket_mode are for unix sockets only")
	}
	host, port, ok := strings.Cut(strings.TrimPrefix(text, "tcp://"), ":")
	n, err := strconv.Atoi(port)
	if !strings.HasPrefix(text, "tcp://") || !ok || host == "" || strings.ContainsFunc(host, isSpace) || err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("must be unix:///path or tcp://host:port, is %q", short(text))
	}
	return nil
}
