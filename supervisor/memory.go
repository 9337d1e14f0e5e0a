package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Remember leaves v with the keeper as JSON, in place of what was there under name. The
// next superd finds it as long as the keeper lives, which is as long as the children
// that it is about; no disk has a part in it.
func (c *Children) Remember(name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("remember %s: %w", name, err)
	}
	fd, err := unix.MemfdCreate("superd-memory", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("remember %s: make a memfd: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	if _, err = file.Write(text); err == nil {
		err = c.Hold(name, file)
	}
	return errors.Join(err, file.Close())
}

// Recall reads into v what an earlier superd has left under name. Without anything it
// leaves v alone.
func (c *Children) Recall(name string, v any) error {
	file, ok := c.Held(name)
	if !ok {
		return nil
	}
	text, err := readAll(file)
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return fmt.Errorf("recall %s: %w", name, err)
	}
	return nil
}

// readAll reads a memfd from its start, wherever its writer left the position.
func readAll(file *os.File) ([]byte, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	text := make([]byte, info.Size())
	_, err = file.ReadAt(text, 0)
	return text, errors.Join(err, file.Close())
}
