package output

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bePouring writes so many bytes in lines of 100 bytes to its standard output.
func bePouring(total int) {
	line := append(bytes.Repeat([]byte("x"), 99), '\n')
	text := bytes.Repeat(line, 655) // about 64 KiB, as a C library writes to a pipe
	for done := 0; done < total; {
		n, err := os.Stdout.Write(text[:min(len(text), total-done)])
		if err != nil {
			panic(err)
		}
		done += n
	}
}

// BenchmarkStored is how fast lines of 100 bytes are stored that another process writes
// as fast as it can, and what that costs superd. Nothing may be lost.
//
//	go test -run - -bench Stored -benchtime 5x ./supervisor/output
func BenchmarkStored(b *testing.B) {
	const total = 256 << 20 / 100 * 100
	for _, format := range []Format{Raw, Timestamps, JSON} {
		b.Run(string(format), func(b *testing.B) {
			cpu := time.Duration(0)
			for b.Loop() {
				cpu += pour(b, format, total)
			}
			b.ReportMetric(float64(b.N)*total/100/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(cpu.Seconds()/(float64(b.N)*total/(1<<30)), "cpu-s/GiB")
			b.SetBytes(total)
		})
	}
}

// pour stores what one child pours out and returns the CPU time of this process.
func pour(b *testing.B, format Format, total int) time.Duration {
	b.Helper()
	dir := b.TempDir()
	s := Open(Options{Dir: dir, Log: slog.New(slog.DiscardHandler), Settings: choosing(Settings{Format: format, Rules: Rules{MaxSize: 1 << 40, Keep: 1}})})
	r, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	if _, err := unix.FcntlInt(r.Fd(), unix.F_SETPIPE_SZ, mostAtOnce); err != nil {
		b.Fatal(err)
	}
	if err := unix.SetNonblock(int(r.Fd()), true); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OUTPUT_TEST_POUR="+strconv.Itoa(total))
	cmd.Stdout = w
	before := used(b)
	st := s.Attach(Life{Name: "w", Log: "w.log", Out: r})
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	w.Close()
	st.Run(context.Background())
	took := used(b) - before
	if err := cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	defer b.StartTimer()
	count(b, filepath.Join(dir, "w.log"), total/100)
	return took
}

func used(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func count(b *testing.B, path string, want int) {
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	lines, buffer := 0, make([]byte, 1<<20)
	for {
		n, err := f.Read(buffer)
		lines += bytes.Count(buffer[:n], []byte{'\n'})
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if lines != want {
		b.Errorf("%d lines are stored, %d were written", lines, want)
	}
}
