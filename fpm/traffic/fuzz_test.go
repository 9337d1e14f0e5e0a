package traffic

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Whatever is in an access log, and wherever a look ends in the middle of a line, each
// line of PHP-FPM's counts once and nothing else counts.
func FuzzAccessLog(f *testing.F) {
	f.Add([]byte("200 1.500 -\n500 0.1 -\n"), 5)
	f.Add([]byte("\x00\x00200 1 -\n200 1 1\n200 -1 -\n99 1 -\n200 NaN -\n"), 2)
	f.Add([]byte("200 1e400 -\n 1000 1 - \n200 +Inf -\r\n200"), 12)
	f.Fuzz(func(t *testing.T, text []byte, at int) {
		if len(text) > chunk/2 { // a line that long is none, wherever it is cut
			return
		}
		path := filepath.Join(t.TempDir(), "access.log")
		must(t, os.WriteFile(path, nil, 0o600))
		at = max(0, min(at, len(text)))
		l := Open(path)
		for _, part := range [][]byte{text[:at], text[at:], []byte("\n200 1.000 -\n")} {
			appendTo(t, path, string(part))
			must(t, l.Read())
		}
		total := l.Figures().Total
		must(t, l.Close())
		lines := bytes.Count(text, []byte("\n")) + 2
		if n := total.Requests(); n < 1 || n > uint64(lines) || total.Failed() > n {
			t.Errorf("%d lines are %d requests, %d of them failed", lines, n, total.Failed())
		}
		whole := Open(path + ".whole")
		must(t, os.WriteFile(path+".whole", append(bytes.Clone(text), "\n200 1.000 -\n"...), 0o600))
		must(t, whole.Read())
		if once := whole.Figures().Total; once != total {
			t.Errorf("in parts it is %+v, at once %+v", total, once)
		}
		must(t, whole.Close())
	})
}

// Whatever is where the counts are saved, lines that come then are counted.
func FuzzSavedCounts(f *testing.F) {
	f.Add([]byte(`{"inode":OF_THE_LOG,"offset":-4096,"total":{},"last":[]}`))
	f.Add([]byte(`{"inode":OF_THE_LOG,"offset":9223372036854775807,"last":null}`))
	f.Add([]byte(`{"inode":-1}`))
	f.Fuzz(func(t *testing.T, saved []byte) {
		path := filepath.Join(t.TempDir(), "access.log")
		must(t, os.WriteFile(path, nil, 0o600))
		var log unix.Stat_t
		must(t, unix.Stat(path, &log))
		saved = bytes.ReplaceAll(saved, []byte("OF_THE_LOG"), fmt.Append(nil, log.Ino))
		must(t, os.WriteFile(path+Saved, saved, 0o600))
		l := Open(path)
		before := l.Figures().Total
		must(t, l.Read())
		appendTo(t, path, "200 1.000 -\n")
		must(t, l.Read())
		if now := l.Figures().Total; now.Requests() != before.Requests()+1 {
			t.Errorf("%d requests became %d", before.Requests(), now.Requests())
		}
		must(t, l.Close())
	})
}
