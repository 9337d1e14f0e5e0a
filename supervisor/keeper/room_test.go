package keeper

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// Whatever the sizes are, nothing in a room lies over something else, and the stack is left
// alone.
func TestRoomHoldsEverything(t *testing.T) {
	r, err := newRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	var texts []cstring
	for size := range 300 {
		for _, n := range []int{size, size * 97, chunkSize - size} {
			texts = append(texts, r.text(strings.Repeat(string(rune('a'+size%26)), n)))
		}
	}
	stack := r.stack(nil)
	for i, text := range texts {
		size := i / 3
		n := []int{size, size * 97, chunkSize - size}[i%3]
		if want := strings.Repeat(string(rune('a'+size%26)), n) + "\x00"; string(text) != want {
			t.Fatalf("text %d of %d bytes has changed", i, n)
		}
	}
	if strings.Trim(string(stack), "\x00") != "" || r.err != nil {
		t.Errorf("the stack is written to, or %v", r.err)
	}
}

// Without memory there is no child, and nothing worse.
func TestRoomWithoutMemory(t *testing.T) {
	r, err := newRoom()
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.grow(1 << 62)
	if _, err := newStage(r, &wire.Spec{Argv: []string{"true"}, Env: []string{"A=b"}}, []int{0, 1, 2, 3, 4}, nil); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("got %v", err)
	}
}
