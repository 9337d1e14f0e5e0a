package program_test

import (
	"testing"
	"time"

	"superd/supervisor"
	"superd/supervisor/program"
)

// What was ordered of what does not live at that moment, for it fails on and on, is not
// forgotten by the next superd.
func TestMemoryOfWhatDoesNotLive(t *testing.T) {
	r := newRig(t)
	bad := r.script("bad", fails)
	bad.Autostart, bad.Backoff.First, bad.Backoff.Max = false, time.Hour, 2*time.Hour
	s := r.superd(bad)
	if results, err := s.Start(t.Context(), "bad"); err != nil || results["bad"] == nil {
		t.Errorf("%v, %v", results, err)
	}
	if err := s.Scale(t.Context(), "bad", 2); err == nil {
		t.Error("what fails is said to be up")
	}
	s.crash()
	s = r.superd(bad)
	s.is("bad:0", supervisor.Backing)
	s.is("bad:1", supervisor.Backing)
	s.crash()
	bad.Processes = 3
	s = r.superd(bad)
	s.is("bad:2", supervisor.Backing) // the configuration says another number than when it was scaled
}

// One that is still to prove itself is to prove itself to the next superd.
func TestProofIsNotTakenForGiven(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("web", slow))
	r.soon("it runs", func() string { return missing(r, "start web:0") })
	s.is("web:0", supervisor.Starting)
	s.crash()
	s = r.superd(r.script("web", slow))
	time.Sleep(200 * time.Millisecond)
	s.is("web:0", supervisor.Starting)
	r.touch("go-web")
	s.is("web:0", supervisor.Running)
	s.hears(program.Ready, 1)
	if n := r.times("start web:0"); n != 1 {
		t.Errorf("it was started %d times", n)
	}
}

// What is done of a number that the configuration does not have any more, or not yet.
func TestMemoryOfOtherNumbers(t *testing.T) {
	r := newRig(t)
	job := r.script("job", done)
	job.Restart, job.Processes = supervisor.Never, 2
	r.write("programs.json", `{"stopped":["web:2"]}`)
	s := r.superd(job, r.script("web", well))
	s.is("job:1", program.Exited)
	if err := s.Scale(t.Context(), "web", 3); err != nil { // nobody has stopped one of these
		t.Error(err)
	}
	s.is("web:2", supervisor.Running)
	s.crash()
	job.Processes = 1
	s = r.superd(job)
	s.is("job:0", program.Exited)
	if n := r.times("start job:0"); n != 1 {
		t.Errorf("the job was run %d times", n)
	}
}

// What is not configured any more ends in the time that it had.
func TestStopTimeoutOfWhatIsNotConfigured(t *testing.T) {
	r := newRig(t)
	s := r.superd(r.script("gone", linger))
	s.is("gone:0", supervisor.Running)
	s.crash()
	s = r.superd()
	r.soon("it is told", func() string { return missing(r, "told gone:0") })
	time.Sleep(100 * time.Millisecond)
	r.touch("go-gone")
	r.soon("it has ended", func() string { return s.status("gone:0").Name })
	r.ordered("told gone:0", "gone gone:0")
}
