package supervisor

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The test binary is also every child of these tests, in the mood that MOOD names.
func TestMain(m *testing.M) {
	mood, _, _ := strings.Cut(os.Getenv("MOOD"), " ")
	if mood == "" {
		os.Exit(m.Run())
	}
	play, ok := moods[mood]
	if !ok {
		panic("no mood " + mood)
	}
	signal.Notify(terms, syscall.SIGTERM)
	play(strings.Fields(os.Getenv("MOOD"))[1:])
}

var terms = make(chan os.Signal, 100)

var moods = map[string]func(args []string){
	"well":    beWell,
	"exit":    beSick,
	"deaf":    beDeaf,
	"dawdle":  beSlow,
	"count":   beCounting,
	"family":  beFamily,
	"shell":   beShell,
	"lines":   beTalkative,
	"ready":   beReady,
	"says":    beSaying,
	"extend":  beBegging,
	"superd":  beSuperd,
	"waitfor": beWaiting,
	"late":    beLate,
	"echo":    beEcho,
	"hide":    beHiding,
	"play":    beActor,
}

// beWell leaves when it is told to.
func beWell([]string) {
	fmt.Println("well", os.Getpid(), os.Getenv("LIFE"))
	<-terms
	fmt.Println("told")
}

// beSick leaves at once, with a code, or after so many milliseconds.
func beSick(args []string) {
	if len(args) > 1 {
		fmt.Println("soon")
		time.Sleep(milliseconds(args[1]))
	}
	code, _ := strconv.Atoi(args[0])
	fmt.Print("I leave with ", code)
	os.Exit(code)
}

func milliseconds(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return time.Duration(n) * time.Millisecond
}

// beDeaf hears and does not go.
func beDeaf([]string) {
	fmt.Println("deaf")
	for n := 1; ; n++ {
		<-terms
		fmt.Println("term", n)
	}
}

// beSlow goes some time after it is told, and leaves a sign that it came so far.
func beSlow(args []string) {
	fmt.Println("dawdle")
	<-terms
	time.Sleep(milliseconds(args[0]))
	if len(args) > 1 {
		if err := os.WriteFile(args[1], nil, 0o600); err != nil {
			panic(err)
		}
	}
	fmt.Println("done")
}

// beCounting leaves with the number of signals it got within half a second.
func beCounting([]string) {
	fmt.Println("count")
	<-terms
	n := 1
	for end := time.After(500 * time.Millisecond); ; {
		select {
		case <-terms:
			n++
		case <-end:
			os.Exit(n)
		}
	}
}

// beFamily has a child, a child in a session of its own, and a grandchild whose
// parent is gone; all deaf. It writes their PIDs.
func beFamily(args []string) {
	switch {
	case len(args) > 0 && args[0] == "parent":
		fmt.Println("pid", spawn("deaf", &syscall.SysProcAttr{Setsid: true}))
		return
	default:
		fmt.Println("pid", spawn("deaf", nil))
		fmt.Println("pid", spawn("deaf", &syscall.SysProcAttr{Setsid: true}))
		cmd := again("family parent")
		if err := cmd.Run(); err != nil {
			panic(err)
		}
	}
	fmt.Println("family complete")
	<-terms
	time.Sleep(time.Hour)
}

func again(mood string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "MOOD="+mood)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func spawn(mood string, attr *syscall.SysProcAttr) int {
	cmd := again(mood)
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

// beShell is a shell that has started a worker and leaves without it.
func beShell(args []string) {
	spawn(strings.Join(args, " "), nil)
	<-terms
	time.Sleep(200 * time.Millisecond)
	fmt.Println("shell ends")
}

// beTalkative writes numbered lines, some at a time, until it is told.
func beTalkative([]string) {
	for n := 0; ; n++ {
		fmt.Printf("line %06d\n", n)
		if n%20 != 0 {
			continue
		}
		select {
		case <-terms:
			fmt.Printf("lines %d, no end", n+1)
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func tellSuperd(text string) {
	if err := tryToTell(text); err != nil {
		panic(err)
	}
}

func tryToTell(text string) error {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	return err
}

// beReady says so, itself or by a child.
func beReady(args []string) {
	if len(args) > 0 {
		if err := again("ready").Start(); err != nil {
			panic(err)
		}
	} else {
		tellSuperd("READY=1\nSTATUS=all is well")
	}
	<-terms
}

// beActor does what its script says, word by word.
func beActor(script []string) {
	var deaf atomic.Bool
	aborts := make(chan os.Signal, 10)
	signal.Notify(aborts, syscall.SIGABRT)
	go func() {
		for range aborts {
			if !deaf.Load() {
				fmt.Println("aborted")
				os.Exit(86)
			}
		}
	}()
	for _, word := range script {
		verb, arg, _ := strings.Cut(word, ":")
		switch verb {
		case "wait":
			time.Sleep(milliseconds(arg))
		case "term":
			<-terms
		case "hang": // until it is aborted
			time.Sleep(time.Hour)
		case "deaf": // to that too
			deaf.Store(true)
			time.Sleep(time.Hour)
		case "exit":
			beSick([]string{arg})
		case "feed": // feed:100:20, twenty times, one each 100 ms
			pause, times, _ := strings.Cut(arg, ":")
			for n := 0; times == "" || n < int(milliseconds(times)/time.Millisecond); n++ {
				_ = tryToTell("WATCHDOG=1") // while superd is away the socket is full in the end
				time.Sleep(milliseconds(pause))
			}
		case "print":
			fmt.Println(os.ExpandEnv(arg))
		case "pid":
			fmt.Println("pid", os.Getpid())
		case "heir": // another process does this, and is the main one from then on
			cmd := again("play " + strings.ReplaceAll(arg, ",", " "))
			if err := cmd.Start(); err != nil {
				panic(err)
			}
			tellSuperd(fmt.Sprint("MAINPID=", cmd.Process.Pid, "\nREADY=1"))
			if len(script) > 0 && strings.HasPrefix(script[len(script)-1], "reap") {
				_ = cmd.Wait() // how does not matter
			}
		case "reap":
		case "leave": // without a word
			os.Exit(int(milliseconds(arg) / time.Millisecond))
		case "apart": // another process of a session of its own does the rest
			cmd := again("play " + strings.NewReplacer(",", " ", "_COMMA_", ",").Replace(arg))
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := cmd.Start(); err != nil {
				panic(err)
			}
		case "bare": // likewise, without an environment to know it by
			cmd := exec.Command(os.Args[0])
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			cmd.Env = []string{"NOTIFY_SOCKET=" + os.Getenv("NOTIFY_SOCKET"), "MOOD=play " + strings.ReplaceAll(arg, ",", " ")}
			if err := cmd.Start(); err != nil {
				panic(err)
			}
		default:
			tellSuperd(strings.ReplaceAll(word, "_SPACE_", " "))
		}
	}
}

// beLate is ready when it is told, says so, and notes that it has.
func beLate(args []string) {
	fmt.Println("begun")
	<-terms
	tellSuperd("READY=1")
	if err := os.WriteFile(args[0], nil, 0o600); err != nil {
		panic(err)
	}
	<-terms
}

// beSaying writes a line and stays.
func beSaying(args []string) {
	fmt.Println(strings.Join(args, " "))
	<-terms
}

// beBegging asks for twenty more seconds, three times, and leaves before they are over.
func beBegging([]string) {
	fmt.Println("extend")
	<-terms
	for range 3 {
		tellSuperd("EXTEND_TIMEOUT_USEC=20000000")
		time.Sleep(1200 * time.Millisecond)
	}
}

// beWaiting leaves with code 7 when a file appears.
func beWaiting(args []string) {
	fmt.Println("waiting")
	for {
		if _, err := os.Stat(args[0]); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	fmt.Print("last words")
	os.Exit(7)
}
