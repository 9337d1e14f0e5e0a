package keeper

import (
	"time"

	"golang.org/x/sys/unix"

	"superd/supervisor/keeper/wire"
)

// loneliness is how long output may collect while nobody commands. Then the keeper
// throws it away, so that no child blocks on a full pipe.
const loneliness = 10 * time.Second

// watchPipes begins and ends the draining.
func (k *Keeper) watchPipes(now time.Time) {
	switch {
	case k.commander != nil || k.table.living() == 0:
		k.alone, k.draining = time.Time{}, false
	case k.alone.IsZero():
		k.alone = now
		for _, c := range k.table.children {
			c.silent, c.mute = false, false
		}
	case !k.draining && now.Sub(k.alone) >= loneliness:
		k.draining = true
		say("nobody has commanded for " + itoa(int(loneliness/time.Second)) + " s: the children's output is thrown away")
	}
}

func (k *Keeper) drainTime() time.Time {
	if k.alone.IsZero() || k.draining {
		return time.Time{}
	}
	return k.alone.Add(loneliness)
}

// unread tells that nobody takes what comes through a standard error of its own: not
// a superd that is older than those, and nobody when output is thrown away.
func (k *Keeper) unread() bool {
	return k.draining || k.commander != nil && k.commander.knows&wire.PipeErr == 0
}

// An outputPipe is what a child writes to while it is drained.
type outputPipe struct {
	fd     *int
	silent *bool
}

func (p outputPipe) ready(k *Keeper, events int16) {
	if *p.fd < 0 {
		return
	}
	if events&unix.POLLIN == 0 {
		*p.silent = true // only hung up: nobody will ever write again
		return
	}
	_, _ = unix.Splice(*p.fd, nil, k.null, nil, pipeSize, unix.SPLICE_F_NONBLOCK) // what is left, poll tells again
}
