package release

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A release is not to change once it is live: PHP may go on with the old content, with
// the new, or with some of both. superd cannot make that good, so it tells.

// content is what was seen of the release that is live.
type content struct {
	of   string // its generation, and what is looked at
	was  string
	told bool
}

// identity is what tells one content of a release from another at a glance: the
// directory and its required files, each with its inode, the latter with their times
// too. "" is not known.
func identity(dir string, required []string) string {
	var s strings.Builder
	for i, name := range append([]string{"."}, required...) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return ""
		}
		fmt.Fprintf(&s, "%d:%d ", st.Dev, st.Ino)
		if i > 0 {
			fmt.Fprintf(&s, "%s %d ", info.ModTime().Format(time.RFC3339Nano), info.Size())
		}
	}
	return s.String()
}

// changed tells, once, that the content of the live release is another one than when
// it was first seen live.
func (w *LinkWatch) changed(live Generation) {
	required := w.s.o.Tree.terms().Required
	is, of := identity(live.Dir, required), fmt.Sprint(live.Number, required)
	switch {
	case is == "" || live.IsZero():
	case w.content.of != of:
		w.content = content{of: of, was: is}
	case is != w.content.was && !w.content.told:
		w.content.told = true
		w.s.tell(Event{Kind: "app.note", To: live, Reason: fmt.Sprintf(
			"%s was changed in place while it is live; what runs may be the old content, the new, or some of both: give each deployment a directory of its own, or superctl switch --restart %s", live.Release, live.Release)})
	}
}
