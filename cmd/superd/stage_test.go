package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// TestStage: parts come before and while it runs, one is stopped by itself, and all in
// the end.
func TestStage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		tell := func(text string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, text)
		}
		part := func(name string) func(context.Context) error {
			return func(ctx context.Context) error {
				tell(name + " begins")
				<-ctx.Done()
				tell(name + " ends")
				return nil
			}
		}
		s := newStage()
		early := s.Add("early", part("early"))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		s.Add("short", func(context.Context) error { tell("short"); return nil })
		synctest.Wait()
		s.Add("late", part("late"))
		synctest.Wait()
		early.Stop()
		early.Stop()
		tell("stopped")
		cancel()
		running.Wait()
		want := []string{"early begins", "short", "late begins", "early ends", "stopped", "late ends"}
		if !slices.Equal(told, want) {
			t.Errorf("%q, want %q", told, want)
		}
		s.Add("too late", part("too late")).Stop() // does not wait for what never comes
	})
}

// TestStageFails: one that fails ends the others, and it is told which.
func TestStageFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		ended := false
		s.Add("good", func(ctx context.Context) error { <-ctx.Done(); ended = true; return nil })
		s.Add("bad", func(context.Context) error { return errors.New("broke") })
		err := s.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "bad: broke") || !ended {
			t.Errorf("error %v, the other one has ended: %t", err, ended)
		}
	})
}
