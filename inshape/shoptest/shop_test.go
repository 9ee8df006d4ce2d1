package shoptest

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is for everything that is waited for. It is generous, because nothing
// here is about speed and machines may be busy.
const patience = time.Minute

const (
	adminEmail    = "ada@shop.test"
	adminPassword = "correct horse battery"
)

// shop is a front and modules, each a process with a folder of its own.
type shop struct {
	t       *testing.T
	url     string // of the front
	modules map[string]*process
}

type process struct {
	name, binary string
	env          []string
	address      string
	command      *exec.Cmd
}

// programs builds the three programs, once for all tests.
var programs = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "shoptest-")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", folder+"/", "inshape/cmd/...").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder, err := programs(); err == nil {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// open starts a shop with some modules.
func open(t *testing.T, modules ...string) *shop {
	t.Helper()
	folder, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{t: t, modules: map[string]*process{}}
	var addresses []string
	all := append([]string{"front"}, modules...)
	for _, name := range all {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := &process{name: name, binary: filepath.Join(folder, name), address: free.Addr().String()}
		free.Close()
		addresses = append(addresses, name+"=http://"+p.address)
		s.modules[name] = p
	}
	for _, p := range s.modules {
		p.env = []string{
			"PATH=" + os.Getenv("PATH"), "INSHAPE_LISTEN=" + p.address, "INSHAPE_DATA=" + t.TempDir(), "INSHAPE_SECRET=a secret of tests alone",
			"INSHAPE_SHOP=Trial & Error", "INSHAPE_MODULES=" + strings.Join(modules, ","), "INSHAPE_ADDRESSES=" + strings.Join(addresses, ","),
		}
		if p.name == "front" {
			p.env = append(p.env, "INSHAPE_ADMIN_EMAIL="+adminEmail, "INSHAPE_ADMIN_PASSWORD="+adminPassword)
		}
		s.start(p.name)
	}
	s.url = "http://" + s.modules["front"].address
	t.Cleanup(func() {
		for name := range s.modules {
			s.stop(name)
		}
	})
	return s
}

func (s *shop) start(name string) {
	s.t.Helper()
	p := s.modules[name]
	p.command = exec.Command(p.binary)
	p.command.Env = p.env
	p.command.Stdout, p.command.Stderr = s.t.Output(), s.t.Output()
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, name+" serves", func() bool {
		answer, err := http.Get("http://" + p.address + "/healthz")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// stop kills a module, if it runs.
func (s *shop) stop(name string) {
	if p := s.modules[name]; p.command != nil {
		_ = p.command.Process.Kill()
		_ = p.command.Wait()
		p.command = nil
	}
}

// await asks again until it is so: of what other processes do nothing tells us.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
