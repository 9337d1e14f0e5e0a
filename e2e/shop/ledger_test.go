package shop

import (
	"os"
	"testing"
)

func TestSettleTellsWhatBecameOfEachJob(t *testing.T) {
	t.Parallel()
	s, err := New(t.TempDir(), os.Getuid(), os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	ledger := `START done r1 shop/jobs:0@1 10 100
END done r1 shop/jobs:0@1 10 200
START lost r1 shop/jobs:0@1 10 300
START twice r1 shop/jobs:0@1 10 400
END twice r1 shop/jobs:0@1 10 500
START twice r2 shop/jobs:0@2 11 600
START stranger r1 - 12 600
`
	if err := os.WriteFile(s.Ledger(), []byte(ledger), 0o600); err != nil {
		t.Fatal(err)
	}
	jobs, err := s.Jobs()
	if err != nil {
		t.Fatal(err)
	}
	a := Settle([]string{"done", "lost", "twice", "waiting"}, jobs)
	if a.Done != 1 || len(a.Lost) != 1 || a.Lost[0] != "lost" || len(a.Doubled) != 1 || a.Doubled[0] != "twice" ||
		len(a.Waiting) != 1 || a.Waiting[0] != "waiting" || len(a.Unknown) != 1 || a.Unknown[0] != "stranger" {
		t.Errorf("%+v", a)
	}
	if err := os.WriteFile(s.Ledger(), []byte("START torn r1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Jobs(); err == nil {
		t.Error("a torn line was taken for a job")
	}
}
