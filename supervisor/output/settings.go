package output

import (
	"path/filepath"
	"time"
)

// Settings are how the output of one process is kept.
type Settings struct {
	Stdout Target
	Stderr Target // WithStdout: both through one pipe, in the order of writing
	Format Format
	Rules  Rules
	Log    string // file below the log directory where a life has named none
}

// A Target is where the output goes: one of these, or the absolute path of a file.
type Target string

// The targets that have a name.
const (
	ToFile     Target = "file"    // the file of the process below the log directory; "" is the same
	ToJournal  Target = "journal" // systemd-journald, with fields
	ToSyslog   Target = "syslog"  // /dev/log
	ToNone     Target = "none"    // the last lines in memory only
	Inherit    Target = "inherit" // superd's own standard output, for containers
	WithStdout Target = "stdout"  // of stderr: where the output goes; "" is the same
)

// Format is how a line is stored. It says nothing about followers, who get text.
type Format string

// The formats.
const (
	Raw        Format = "raw"        // the bytes as they came; "" is the same
	Timestamps Format = "timestamps" // the time before each line
	JSON       Format = "json"       // one object per line
)

// Rules say when a file is rotated and what becomes of the rotated ones.
type Rules struct {
	MaxSize  int64         // a file this long is rotated; 0: never by size
	MaxAge   time.Duration // a file that was begun so long ago is rotated when something is written; 0: never by age
	MaxTotal int64         // of all files of one log, the present one too: the oldest go; 0: no limit
	Keep     int           // rotated ones kept beside it; 0: none
	Compress bool          // gzip the rotated ones
}

// Apart tells whether standard error needs a pipe of its own.
func (s Settings) Apart() bool { return s.Stderr != "" && s.Stderr != WithStdout }

// target is where the stream goes, with log as the file that the life has named, and
// the path of that file where it is one. A path that leads nowhere one may write to is
// "".
func (s Settings) target(store *Store, stream, log string) (Target, string) {
	to := s.Stdout
	if log == "" {
		log = s.Log
	}
	if stream == Stderr && s.Apart() {
		to, log = s.Stderr, apart(log)
	}
	switch to {
	case "", ToFile, WithStdout:
		if log == "" || !filepath.IsLocal(log) {
			return ToNone, ""
		}
		return ToFile, filepath.Join(store.Dir, log)
	case ToJournal, ToSyslog, ToNone, Inherit:
		return to, ""
	case "/dev/null":
		return ToNone, ""
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		return Inherit, "" // what people write who have a container in mind
	}
	return ToFile, filepath.Clean(string(to))
}

// apart is the file of standard error beside that of the output.
func apart(log string) string {
	if log == "" {
		return ""
	}
	if ext := filepath.Ext(log); ext == ".log" {
		return log[:len(log)-len(ext)] + ".err.log"
	}
	return log + ".err"
}

// The streams of a process.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)
