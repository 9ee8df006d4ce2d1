package logs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead"
)

// The test binary is also the other processes: a task that writes, and
// a Bulkhead that is killed.
func TestMain(m *testing.M) {
	switch os.Getenv("LOGS_TEST_ROLE") {
	case "writer": // appends numbered lines to a file until stdin ends or n are written
		args := strings.Fields(os.Getenv("LOGS_TEST_ARGS"))
		n, _ := strconv.Atoi(args[1])
		pause, _ := time.ParseDuration(args[2])
		pad, _ := strconv.Atoi(args[3])
		writeNumbers(args[0], n, pause, pad)
	case "store":
		s, err := New(Config{Dir: os.Getenv("LOGS_TEST_ARGS")})
		if err != nil {
			panic(err)
		}
		fmt.Println("running")
		panic(s.Run(context.Background()))
	default:
		os.Exit(m.Run())
	}
}

// writeNumbers appends lines "0", "1", ... with padding, a hundred to a write,
// pausing after each write. It waits for a line on stdin before it ends, so that
// the file stays open as a shim's does.
func writeNumbers(path string, n int, pause time.Duration, pad int) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		panic(err)
	}
	padding := strings.Repeat("x", pad)
	var b []byte
	for i := range n {
		b = strconv.AppendInt(b, int64(i), 10)
		if pad > 0 {
			b = append(append(b, ' '), padding...)
		}
		b = append(b, '\n')
		if i%100 == 99 || i == n-1 {
			if _, err := f.Write(b); err != nil {
				panic(err)
			}
			b = b[:0]
			time.Sleep(pause)
		}
	}
	fmt.Println("written")
	bufio.NewReader(os.Stdin).ReadString('\n')
}

type process struct {
	*exec.Cmd
	out *bufio.Reader
	in  *os.File
}

func start(t testing.TB, role, args string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LOGS_TEST_ROLE="+role, "LOGS_TEST_ARGS="+args)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	p := &process{cmd, bufio.NewReader(out), w}
	t.Cleanup(p.kill)
	return p
}

func startWriter(t testing.TB, path string, n int, pause time.Duration, pad int) *process {
	return start(t, "writer", fmt.Sprintf("%s %d %s %d", path, n, pause, pad))
}

// said waits for a line on the process's output.
func (p *process) said(t testing.TB) {
	t.Helper()
	if _, err := p.out.ReadString('\n'); err != nil {
		t.Fatalf("other process: %v", err)
	}
}

func (p *process) kill() {
	p.in.Close()
	p.Process.Kill()
	p.Wait()
}

func newStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := New(Config{Dir: dir, MaxPerStamp: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func open(t testing.TB, s *Store, service bulkhead.ServiceName, instance string) (bulkhead.TaskID, string) {
	t.Helper()
	id := bulkhead.NewTaskID("acme", service, 1, instance)
	path, err := s.Open("acme", service, id)
	if err != nil {
		t.Fatal(err)
	}
	return id, path
}

func write(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func query(t testing.TB, s *Store, q bulkhead.LogQuery) []bulkhead.LogLine {
	t.Helper()
	q.Stamp = "acme"
	var lines []bulkhead.LogLine
	if err := s.Query(t.Context(), q, func(l bulkhead.LogLine) error { lines = append(lines, l); return nil }); err != nil {
		t.Fatal(err)
	}
	return lines
}

func texts(lines []bulkhead.LogLine) []string {
	var texts []string
	for _, l := range lines {
		texts = append(texts, l.Text)
	}
	return texts
}

func wantTexts(t testing.TB, lines []bulkhead.LogLine, want ...string) {
	t.Helper()
	if got := texts(lines); !slices.Equal(got, want) {
		t.Errorf("lines %.1000q, want %.1000q", got, want)
	}
}

// eventually awaits a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// wantNumbers checks that lines are 0 to n-1, each once and in order.
func wantNumbers(t testing.TB, lines []bulkhead.LogLine, n int) {
	t.Helper()
	for i, l := range lines {
		if number, _, _ := strings.Cut(l.Text, " "); number != strconv.Itoa(i) {
			t.Fatalf("line %d is %.80q: lost, doubled or out of order", i, l.Text)
		}
	}
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
}

func TestLinesOfSeveralProcesses(t *testing.T) {
	s := newStore(t, t.TempDir())
	run(t, s)
	web, webPath := open(t, s, "web", "a1")
	db, dbPath := open(t, s, "db", "b2")
	before := time.Now()
	for _, script := range []string{
		`printf 'one\ntwo\r\n' >>` + webPath,
		`printf 'ready\n' >>` + dbPath + `; printf '\n' >>` + dbPath,
	} {
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	eventually(t, "four lines", func() bool { return len(query(t, s, bulkhead.LogQuery{})) == 4 })
	lines := query(t, s, bulkhead.LogQuery{Service: "web"})
	wantTexts(t, lines, "one", "two")
	if l := lines[0]; l.Service != "web" || l.Task != web || l.Time.Before(before) || l.Time.After(time.Now()) {
		t.Errorf("line %+v", l)
	}
	wantTexts(t, query(t, s, bulkhead.LogQuery{Service: "db"}), "ready", "")
	for _, id := range []bulkhead.TaskID{web, db, web} {
		if err := s.Close(id); err != nil {
			t.Errorf("close %s: %v", id, err)
		}
	}
	for _, dir := range []string{s.rawDir(), s.progressDir()} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s holds %v after Close", dir, left)
		}
	}
	wantTexts(t, query(t, s, bulkhead.LogQuery{Tail: 1, Service: "web"}), "two")
}

func TestPermissions(t *testing.T) {
	s := newStore(t, filepath.Join(t.TempDir(), "logs"))
	id, path := open(t, s, "web", "a1")
	write(t, path, "hello\n")
	read := new(buffers)
	if _, err := s.tasks[id].read(read); err != nil {
		t.Fatal(err)
	}
	checked := 0
	filepath.Walk(s.dir, func(path string, info os.FileInfo, err error) error {
		want := os.FileMode(0o640)
		if info.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		checked++
		return nil
	})
	if checked != 8 { // 5 folders, raw, progress, segment
		t.Errorf("%d files and folders, want 8", checked)
	}
}

// A Bulkhead killed again and again while a task writes keeps every line once.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	_, path := open(t, s, "web", "a1")
	const n = 200_000
	writer := startWriter(t, path, n, 500*time.Microsecond, 60)
	kills := 0
	for written := make(chan struct{}); ; kills++ {
		if kills == 0 {
			go func() { writer.out.ReadString('\n'); close(written) }()
		}
		bulkhead := start(t, "store", dir)
		bulkhead.said(t)
		select {
		case <-written:
		case <-time.After(time.Duration(20+rand.IntN(100)) * time.Millisecond):
		}
		bulkhead.kill()
		select {
		case <-written:
		default:
			continue
		}
		break
	}
	s, err = New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	id, again := open(t, s, "web", "a1")
	if again != path {
		t.Errorf("the file of the task moved from %s to %s", path, again)
	}
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	wantNumbers(t, query(t, s, bulkhead.LogQuery{}), n)
	t.Logf("%d kills", kills)
	if kills < 5 {
		t.Errorf("only %d kills while the task wrote", kills)
	}
}

// A frame that was announced but not appended whole is read again; one that was
// is not.
func TestTornFrame(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	id, path := open(t, s, "web", "a1")
	write(t, path, "one\n")
	if _, err := s.tasks[id].read(new(buffers)); err != nil {
		t.Fatal(err)
	}
	write(t, path, "two\nthree\n")
	if _, err := s.tasks[id].read(new(buffers)); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(s.log("acme").dir, s.log("acme").segments[0].name())
	whole, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.LastIndex(string(whole), "\n two") - 20 // within the second frame's header
	for _, cut := range []int{len(whole), len(whole) - 1, len(whole) - 5, second} {
		if err := os.WriteFile(segment, whole[:cut], 0o640); err != nil {
			t.Fatal(err)
		}
		progress, _ := os.ReadFile(s.tasks[id].progressPath())
		s := newStore(t, dir)
		if _, err := s.tasks[id].read(new(buffers)); err != nil {
			t.Fatal(err)
		}
		wantTexts(t, query(t, s, bulkhead.LogQuery{}), "one", "two", "three")
		if err := os.WriteFile(s.tasks[id].progressPath(), progress, 0o640); err != nil {
			t.Fatal(err)
		}
	}
}

// A task that writes without end fills no disk, keeps nobody waiting, and its
// losses are said.
func TestFlood(t *testing.T) {
	s := newStore(t, t.TempDir())
	s.maxBacklog = 8 << 20
	run(t, s)
	floodID, floodPath := open(t, s, "flood", "a1")
	_, quietPath := open(t, s, "quiet", "b2")
	const n = 1_500_000
	flood := startWriter(t, floodPath, n, 0, 100)
	written := make(chan struct{})
	go func() { flood.out.ReadString('\n'); close(written) }()

	var most, slowest int64
	for i := 0; ; i++ {
		began := time.Now()
		text := fmt.Sprintf("quiet %d", i)
		write(t, quietPath, text+"\n")
		eventually(t, "a quiet task's line", func() bool {
			last := query(t, s, bulkhead.LogQuery{Service: "quiet", Since: began.Add(-time.Second), Tail: 1})
			return len(last) == 1 && last[0].Text == text
		})
		slowest = max(slowest, int64(time.Since(began)))
		var stat syscall.Stat_t
		if err := syscall.Stat(floodPath, &stat); err != nil {
			t.Fatal(err)
		}
		most = max(most, stat.Blocks*512)
		select {
		case <-written:
		default:
			continue
		}
		break
	}
	t.Logf("raw file at most %d KiB on disk, quiet line at most %v late", most>>10, time.Duration(slowest))
	// How far the writer gets between two passes depends on the machine; kept whole, the file would have all of it.
	if limit := int64(n * 100 / 2); most > limit {
		t.Errorf("the raw file took %d bytes of disk, want at most %d", most, limit)
	}
	if slowest > int64(10*time.Second) {
		t.Errorf("a quiet task's line came %v late", time.Duration(slowest))
	}
	if err := s.Close(floodID); err != nil {
		t.Fatal(err)
	}
	kept := int64(0)
	entries, _ := os.ReadDir(s.log("acme").dir)
	for _, entry := range entries {
		info, _ := entry.Info()
		kept += info.Size()
	}
	if kept > s.maxPerStamp || kept < s.maxPerStamp/2 {
		t.Errorf("%d bytes kept, want less than %d but not much", kept, s.maxPerStamp)
	}
	lines := query(t, s, bulkhead.LogQuery{})
	// What is lost is said where it was: the oldest lines first of all, and what came
	// faster than it could be read in its place. A slow reader keeps so little that
	// nothing is old.
	var older, left int
	for i, l := range lines {
		n := 0
		if _, err := fmt.Sscanf(l.Text, "bulkhead: %d older lines of this stamp were dropped", &n); err == nil && i == 0 {
			older = n
		}
		if _, err := fmt.Sscanf(l.Text, "bulkhead: %d bytes left out here", &n); err == nil {
			left += n
		}
	}
	if older == 0 && left == 0 {
		t.Errorf("%d lines of %d, and nobody says what was lost; the first is %q", len(lines), n, lines[0].Text)
	}
	told := len(lines)
	if older > 0 {
		told += older - 1 // the line that says so is no line of the log
	}
	if total, _ := s.log("acme").lines(); uint64(told) != total {
		t.Errorf("%d older lines said to be dropped, %d lines shown, %d written", older, len(lines), total)
	}
	last := lines[len(lines)-1]
	if number, _, _ := strings.Cut(last.Text, " "); last.Service == "flood" && number != strconv.Itoa(n-1) {
		t.Errorf("last line %.40q, want that of number %d", last.Text, n-1)
	}
}

func TestSkipIsSaid(t *testing.T) {
	s := newStore(t, t.TempDir())
	s.maxBacklog = 1 << 20
	id, path := open(t, s, "web", "a1")
	line := strings.Repeat("x", 99) + "\n"
	write(t, path, strings.Repeat(line, 30_000))
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	lines := query(t, s, bulkhead.LogQuery{})
	var skipped int
	if _, err := fmt.Sscanf(lines[0].Text, "bulkhead: %d bytes left out here", &skipped); err != nil {
		t.Fatalf("first line is %q", lines[0].Text)
	}
	if got := skipped + (len(lines)-1)*len(line); got != 30_000*len(line) {
		t.Errorf("%d bytes left out and %d lines kept make %d bytes, want %d", skipped, len(lines)-1, got, 30_000*len(line))
	}
}

// Followers that come at any moment see every line once, in order.
func TestFollow(t *testing.T) {
	s := newStore(t, t.TempDir())
	run(t, s)
	_, path := open(t, s, "web", "a1")
	const n = 30_000
	startWriter(t, path, n, time.Millisecond, 0)
	var followers sync.WaitGroup
	done := errors.New("done")
	for i := range 8 {
		followers.Go(func() {
			time.Sleep(time.Duration(i) * 30 * time.Millisecond) // come at different moments
			next := 0
			err := s.Query(t.Context(), bulkhead.LogQuery{Stamp: "acme", Follow: true}, func(l bulkhead.LogLine) error {
				if l.Text != strconv.Itoa(next) {
					return fmt.Errorf("line %q, want %d", l.Text, next)
				}
				if next++; next == n {
					return done
				}
				return nil
			})
			if err != done {
				t.Errorf("follower %d: %v", i, err)
			}
		})
	}
	followers.Wait()
}

// A follower that lags behind what is kept is told what it has missed.
func TestFollowTooSlow(t *testing.T) {
	s := newStore(t, t.TempDir())
	id, path := open(t, s, "web", "a1")
	line := strings.Repeat("x", 999) + "\n"
	read := func() {
		write(t, path, strings.Repeat(line, 100))
		if _, err := s.tasks[id].read(new(buffers)); err != nil {
			t.Fatal(err)
		}
	}
	read()
	seen, missed := 0, 0
	done := errors.New("done")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := s.Query(ctx, bulkhead.LogQuery{Stamp: "acme", Follow: true}, func(l bulkhead.LogLine) error {
		if _, err := fmt.Sscanf(l.Text, "bulkhead: %d older lines", &missed); err == nil {
			seen += missed
			return nil
		}
		if seen++; seen == 100 {
			for range 99 {
				read()
			}
		}
		if seen == 10_000 {
			return done
		}
		return nil
	})
	if err != done || missed < 1000 {
		t.Errorf("error %v after %d lines, %d of them said to be missed", err, seen, missed)
	}
}

func TestQuery(t *testing.T) {
	s := newStore(t, t.TempDir())
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.now = func() time.Time { return now }
	web, webPath := open(t, s, "web", "a1")
	db, dbPath := open(t, s, "db", "b2")
	for i := range 10 {
		path, id := webPath, web
		if i%2 == 1 {
			path, id = dbPath, db
		}
		write(t, path, fmt.Sprintf("%d\n%da\n", i, i))
		if _, err := s.tasks[id].read(new(buffers)); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
	}
	at := func(minute int) time.Time { return time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC) }
	for name, test := range map[string]struct {
		q    bulkhead.LogQuery
		want []string
	}{
		"tail":                 {bulkhead.LogQuery{Tail: 3}, []string{"8a", "9", "9a"}},
		"tail of a service":    {bulkhead.LogQuery{Tail: 3, Service: "web"}, []string{"6a", "8", "8a"}},
		"tail of more":         {bulkhead.LogQuery{Tail: 99, Service: "db", Since: at(6)}, []string{"7", "7a", "9", "9a"}},
		"since":                {bulkhead.LogQuery{Since: at(8)}, []string{"8", "8a", "9", "9a"}},
		"since between":        {bulkhead.LogQuery{Since: at(8).Add(time.Second)}, []string{"9", "9a"}},
		"since the future":     {bulkhead.LogQuery{Since: at(59)}, nil},
		"since and tail":       {bulkhead.LogQuery{Since: at(8), Tail: 3}, []string{"8a", "9", "9a"}},
		"no such service":      {bulkhead.LogQuery{Service: "mail"}, nil},
		"all of a service":     {bulkhead.LogQuery{Service: "web"}, []string{"0", "0a", "2", "2a", "4", "4a", "6", "6a", "8", "8a"}},
		"tail of none":         {bulkhead.LogQuery{Service: "mail", Tail: 5}, nil},
		"tail since no longer": {bulkhead.LogQuery{Since: at(59), Tail: 5}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			wantTexts(t, query(t, s, test.q), test.want...)
		})
	}
	t.Run("clock set back", func(t *testing.T) {
		now = now.Add(-time.Hour)
		write(t, webPath, "late\n")
		if _, err := s.tasks[web].read(new(buffers)); err != nil {
			t.Fatal(err)
		}
		lines := query(t, s, bulkhead.LogQuery{Tail: 2})
		if lines[1].Text != "late" || lines[1].Time.Before(lines[0].Time) {
			t.Errorf("lines %v are not in the order of their times", lines)
		}
	})
	t.Run("other stamp", func(t *testing.T) {
		err := s.Query(t.Context(), bulkhead.LogQuery{Stamp: "other"}, func(l bulkhead.LogLine) error {
			return fmt.Errorf("got line %v", l)
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("context ends follow", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		err := s.Query(ctx, bulkhead.LogQuery{Stamp: "acme", Tail: 1, Follow: true}, func(bulkhead.LogLine) error {
			cancel()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// Tail and since are right in a log of many segments, too, also after a restart.
func TestQueryOverSegments(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	id, path := open(t, s, "web", "a1")
	var middle time.Time
	for i := range 100 {
		if i == 50 {
			middle = time.Now()
		}
		for j := range 100 {
			write(t, path, fmt.Sprintf("%d %s\n", i*100+j, strings.Repeat("x", 200)))
		}
		if _, err := s.tasks[id].read(new(buffers)); err != nil {
			t.Fatal(err)
		}
	}
	s = newStore(t, dir)
	if n := len(query(t, s, bulkhead.LogQuery{Tail: 7777})); n != 7777 {
		t.Errorf("tail 7777 gives %d lines", n)
	}
	lines := query(t, s, bulkhead.LogQuery{Since: middle})
	if number, _, _ := strings.Cut(lines[0].Text, " "); number != "5000" || len(lines) != 5000 {
		t.Errorf("since the middle gives %d lines from %s", len(lines), number)
	}
	wantNumbers(t, query(t, s, bulkhead.LogQuery{}), 10_000)
	if n := len(s.log("acme").segments); n < 5 {
		t.Errorf("%d segments: this test is about several", n)
	}
}

func TestUnendedLine(t *testing.T) {
	s := newStore(t, t.TempDir())
	run(t, s)
	id, path := open(t, s, "web", "a1")
	write(t, path, "Password: ")
	eventually(t, "a silent line", func() bool { return len(query(t, s, bulkhead.LogQuery{})) == 1 })
	write(t, path, "\nok\nlast words")
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, query(t, s, bulkhead.LogQuery{}), "Password: ", "ok", "last words")
}

func TestAbandoned(t *testing.T) {
	dir := t.TempDir()
	s := newStore(t, dir)
	_, deadPath := open(t, s, "web", "dead")
	_, livePath := open(t, s, "web", "live")
	again, againPath := open(t, s, "web", "again")
	write(t, deadPath, "last words of the dead")
	startWriter(t, livePath, 3, 0, 0).said(t)
	for _, task := range s.tasks {
		task.raw.Close()
		task.progress.Close()
	}
	s = newStore(t, dir)
	open(t, s, "web", "again")
	run(t, s)
	eventually(t, "the dead task's files to go", func() bool {
		_, err := os.Stat(deadPath)
		return errors.Is(err, os.ErrNotExist)
	})
	eventually(t, "all lines", func() bool { return len(query(t, s, bulkhead.LogQuery{})) == 4 })
	for _, path := range []string{livePath, againPath} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	_ = again
}

// Without holes a large raw file is emptied once it is read.
func TestNoHoles(t *testing.T) {
	s := newStore(t, t.TempDir())
	s.punch = func(*os.File, int64, int64) error { return unix.EOPNOTSUPP }
	s.maxBacklog = 1 << 20
	id, path := open(t, s, "web", "a1")
	n := 0
	for range 30 {
		var b strings.Builder
		for range 1000 {
			fmt.Fprintf(&b, "%d %s\n", n, strings.Repeat("x", 90))
			n++
		}
		write(t, path, b.String())
		for next := time.Now(); !next.IsZero(); {
			var err error
			if next, err = s.tasks[id].read(new(buffers)); err != nil {
				t.Fatal(err)
			}
		}
		if info, _ := os.Stat(path); info.Size() > s.maxBacklog {
			t.Fatalf("the raw file has %d bytes", info.Size())
		}
	}
	wantNumbers(t, query(t, s, bulkhead.LogQuery{}), n)
}

// A raw file does not grow to where its file system ends it, and no line is lost
// while it is shortened under its writer's hands.
func TestShortened(t *testing.T) {
	dir := t.TempDir()
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.maxRaw = 1 << 20
	run(t, s)
	id, path := open(t, s, "web", "a1")
	const n = 200_000
	startWriter(t, path, n, 300*time.Microsecond, 60).said(t)
	eventually(t, "all of it read", func() bool { l, _ := s.log("acme").lines(); return l == n })
	if info, err := os.Stat(path); err != nil || info.Size() > 8<<20 {
		t.Errorf("after 13 MiB of lines the raw file has size %v (%v): this file system cannot collapse ranges, or nobody asked", info.Size(), err)
	}
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	wantNumbers(t, query(t, s, bulkhead.LogQuery{}), n)
}

func TestDelete(t *testing.T) {
	s := newStore(t, t.TempDir())
	run(t, s)
	_, path := open(t, s, "web", "a1")
	write(t, path, "one\n")
	err := s.Query(t.Context(), bulkhead.LogQuery{Stamp: "acme", Follow: true}, func(bulkhead.LogLine) error {
		return s.Delete("acme")
	})
	if err != nil {
		t.Errorf("following a deleted stamp: %v", err)
	}
	for _, dir := range []string{s.rawDir(), s.progressDir(), s.stampsDir()} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s holds %v after Delete", dir, left)
		}
	}
	if err := s.Delete("acme"); err != nil {
		t.Errorf("delete again: %v", err)
	}
	// A later stamp of the name begins anew.
	id, path := open(t, s, "web", "a1")
	write(t, path, "new\n")
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, query(t, s, bulkhead.LogQuery{}), "new")
}

func TestFullDisk(t *testing.T) {
	s := newStore(t, t.TempDir())
	id, path := open(t, s, "web", "a1")
	write(t, path, "one\n")
	log := s.log("acme")
	if err := os.WriteFile(log.dir, nil, 0o600); err != nil { // stands for any failure to write
		t.Fatal(err)
	}
	if _, err := s.tasks[id].read(new(buffers)); err == nil {
		t.Fatal("no error")
	}
	if err := os.Remove(log.dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(id); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, query(t, s, bulkhead.LogQuery{}), "one")
}

func TestNames(t *testing.T) {
	s := newStore(t, t.TempDir())
	for _, test := range []struct{ stamp, service, task string }{
		{"..", "web", "...web.1-a"},
		{"acme/..", "web", "acme/...web.1-a"},
		{"", "web", ".web.1-a"},
		{"acme", "../web", "acme.web.1-a"},
		{"acme", "web", "other.web.1-a"},
		{"acme", "web", "acme./../../x"},
		{"acme", "web", "acme..."},
		{"acme", "web", "acme.web.1-a\n"},
		{"acme", "web", "acme." + strings.Repeat("x", 300)},
	} {
		_, err := s.Open(bulkhead.StampName(test.stamp), bulkhead.ServiceName(test.service), bulkhead.TaskID(test.task))
		if !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("Open(%.40q): error %v", test, err)
		}
	}
	for _, stamp := range []bulkhead.StampName{"", "..", "../stamps", "acme/x"} {
		if err := s.Delete(stamp); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("Delete(%q): error %v", stamp, err)
		}
		if err := s.Query(t.Context(), bulkhead.LogQuery{Stamp: stamp}, nil); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("Query(%q): error %v", stamp, err)
		}
	}
	if _, err := s.Open("acme", "web", "acme.web.1-a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("acme", "db", "acme.web.1-a"); !errors.Is(err, bulkhead.ErrConflict) {
		t.Errorf("another service's task: error %v", err)
	}
	for _, config := range []Config{{}, {Dir: t.TempDir(), MaxPerStamp: 1}} {
		if _, err := New(config); !errors.Is(err, bulkhead.ErrInvalid) {
			t.Errorf("New(%+v): error %v", config, err)
		}
	}
}

// However the output is cut into reads, the same text is kept.
func TestCut(t *testing.T) {
	long := strings.Repeat("é", MaxLine) // twice too long, and no cut within a rune
	text := "a\n\nb\r\n" + long + "\n" + strings.Repeat("y", MaxLine) + "\nend\n"
	want := []string{" a", " ", " b", "+" + long[:MaxLine], " " + long[MaxLine:], " " + strings.Repeat("y", MaxLine), " end"}
	for range 200 {
		var got []byte
		inside, total := false, 0
		for begin, end := 0, 0; begin < len(text); {
			end = min(len(text), max(end, begin)+1+rand.IntN(3*MaxLine))
			var count, used int
			got, count, used, inside = cut(got, []byte(text[begin:end]), inside, false)
			begin += used
			total += count
		}
		if lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n"); !slices.Equal(lines, want) || total != len(want) {
			t.Fatalf("%d lines, want %d", len(lines), len(want))
		}
	}
	// One too long with an odd number of bytes before: the piece is a byte shorter.
	lines, _, _, _ := cut(nil, []byte("x"+long+"\n"), false, false)
	if first, _, _ := strings.Cut(string(lines), "\n"); first != "+x"+long[:MaxLine-2] {
		t.Errorf("first piece has %d bytes", len(first))
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext":                 "plain\ttext",
		"größe ✓":                     "größe ✓",
		"bad \xff\xfe end":            "bad \uFFFD end",
		"\x1b[1;31mred\x1b[0m":        "\x1b[1;31mred\x1b[0m",
		"\x1b[2J\x1b]0;title\x07":     `\x1b[2J\x1b]0;title\x07`,
		"50%\r100%":                   `50%\x0d100%`,
		"\x00\x7f":                    `\x00\x7f`,
		"\u009b31m":                   `\u009b31m`,
		"\x1b[":                       `\x1b[`,
		"cut off in a rune: \xe2\x9c": "cut off in a rune: \uFFFD",
	} {
		if got := clean([]byte(in)); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// BenchmarkRead is the cost of a line from raw file to log.
func BenchmarkRead(b *testing.B) {
	s, err := New(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	id, path := open(b, s, "web", "a1")
	batch := strings.Repeat(strings.Repeat("x", 99)+"\n", 10_000)
	buffers := new(buffers)
	lines := 0
	for b.Loop() {
		b.StopTimer()
		write(b, path, batch)
		b.StartTimer()
		if err := s.tasks[id].readToEnd(buffers); err != nil {
			b.Fatal(err)
		}
		lines += 10_000
	}
	b.SetBytes(int64(len(batch)))
	b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkTail is the last ten lines of a full log of many small frames.
func BenchmarkTail(b *testing.B) {
	s, err := New(Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	log := s.log("acme")
	for range 300_000 {
		err := log.append(time.Now(), "web", "acme.web.1-a", []byte(" GET / 200 some text of an ordinary length\n"), 1, func(uint64) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		query(b, s, bulkhead.LogQuery{Tail: 10})
	}
}
