// Command probe is what the tests of package containerd run in containers.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	args := os.Args[2:]
	switch os.Args[1] {
	case "sleep": // until a signal comes
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
		fmt.Println("ready")
		fmt.Println("ended by", <-signals)
	case "stubborn": // until SIGKILL
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(args[0])
		os.Exit(code)
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "both": // to both streams in turn
		fmt.Fprintln(os.Stdout, "out")
		fmt.Fprintln(os.Stderr, "err")
	case "late": // to standard error, when standard output has ended
		os.Stdout.Close()
		time.Sleep(50 * time.Millisecond)
		fmt.Fprintln(os.Stderr, "last words")
	case "env":
		for _, variable := range os.Environ() {
			fmt.Println(variable)
		}
	case "id":
		groups, _ := os.Getgroups()
		folder, _ := os.Getwd()
		host, _ := os.Hostname()
		fmt.Println(os.Getuid(), os.Getgid(), groups, folder, host)
	case "read":
		content, err := os.ReadFile(args[0])
		check(err)
		os.Stdout.Write(content)
	case "write":
		check(os.WriteFile(args[0], []byte(args[1]), 0o644))
	case "stat":
		for _, name := range args {
			info, err := os.Lstat(name)
			check(err)
			owner := info.Sys().(*syscall.Stat_t)
			fmt.Println(info.Mode(), owner.Uid, owner.Gid)
		}
	case "eat": // memory, for ever
		var all [][]byte
		for {
			block := make([]byte, 1<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			all = append(all, block)
		}
	case "fork": // until the kernel refuses
		for n := 0; ; n++ {
			err := exec.Command("/bin/probe", "hang").Start()
			if errors.Is(err, syscall.EAGAIN) || n > 1000 {
				fmt.Println("forked", n)
				time.Sleep(time.Hour)
			}
			check(err)
		}
	case "hang":
		time.Sleep(time.Hour)
	case "tick": // a line every 5 ms
		for n := 0; ; n++ {
			fmt.Println("tick", n)
			time.Sleep(5 * time.Millisecond)
		}
	case "unshare": // forbidden by the seccomp profile without CAP_SYS_ADMIN
		err := syscall.Unshare(syscall.CLONE_NEWUSER)
		fmt.Println(err)
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		check(err)
	case "size": // of the terminal, when it changes
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		fmt.Println("ready")
		for {
			var size [4]uint16
			_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
			if errno != 0 {
				check(errno)
			}
			if size[1] == 132 {
				fmt.Println("size", size[1], size[0])
				return
			}
			<-resized
		}
	case "orphan": // leaves a process behind that ends at once, then looks at what its parent reaped
		check(exec.Command("/bin/probe", "leave").Run())
		time.Sleep(200 * time.Millisecond)
		entries, err := os.ReadDir("/proc")
		check(err)
		for _, entry := range entries {
			status, err := os.ReadFile("/proc/" + entry.Name() + "/status")
			if err == nil && strings.Contains(string(status), "State:\tZ") {
				fmt.Println("zombie", entry.Name())
			}
		}
		fmt.Println("pid", os.Getpid())
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		os.Exit(7)
	case "leave":
		check(exec.Command("/bin/probe", "exit", "0").Start())
	default:
		check(fmt.Errorf("unknown command %q", os.Args[1]))
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}
