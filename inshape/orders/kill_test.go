package orders

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// process is the module's real binary on a folder, killed and started again.
type process struct {
	t       *testing.T
	binary  string
	folder  string
	url     string
	command *exec.Cmd
}

const processKey = "a key of tests alone"

func (p *process) start() {
	p.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	p.url = "http://" + address
	p.command = exec.Command(p.binary)
	p.command.Env = []string{"INSHAPE_LISTEN=" + address, "INSHAPE_DATA=" + p.folder, "INSHAPE_SECRET=0123456789abcdef", "INSHAPE_KEY=" + processKey}
	p.command.Stderr = p.t.Output()
	if err := p.command.Start(); err != nil {
		p.t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		answer, err := http.Get(p.url + "/healthz")
		if err == nil {
			answer.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("it does not serve: %v", err)
		}
		time.Sleep(20 * time.Millisecond) // nothing tells when a process of its own listens
	}
}

func (p *process) kill() {
	_ = p.command.Process.Kill()
	_ = p.command.Wait()
}

// ask sends in as JSON, under an Idempotency-Key if there is one, and reads the
// answer into out. An error means that the process did not answer.
func (p *process) ask(method, path, key string, in, out any) (int, error) {
	text, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequest(method, p.url+"/api/orders"+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+processKey)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(body, out)
	}
	return answer.StatusCode, err
}

// must is ask for what cannot fail.
func (p *process) must(status int, method, path, key string, in, out any) {
	p.t.Helper()
	if got, err := p.ask(method, path, key, in, out); err != nil || got != status {
		p.t.Fatalf("%s %s: %d, %v", method, path, got, err)
	}
}

// made is how many pieces of an order's only line are made.
func (p *process) made(order string) int {
	p.t.Helper()
	var o Order
	p.must(200, http.MethodGet, "/orders/"+order, "", nil, &o)
	if want := OrderState(Confirmed, []Progress{o.Lines[0].Progress}); o.State != want {
		p.t.Errorf("the order is %s, its line says %s", o.State, want)
	}
	return o.Lines[0].Made
}

// Events are sent from many sides while the process is killed, again and again.
// What was acknowledged is there afterwards; and when everything is sent once
// more, each piece counts once.
func TestKillLosesNothingAcknowledged(t *testing.T) {
	const senders, kills, each = 8, 3, 40
	p := &process{t: t, binary: filepath.Join(t.TempDir(), "orders"), folder: t.TempDir()}
	if out, err := exec.Command("go", "build", "-o", p.binary, "inshape/cmd/orders").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	p.start()
	defer func() { p.kill() }()
	var party Party
	p.must(201, http.MethodPost, "/parties", "", Party{Name: "Ada"}, &party)
	var o Order
	in := byHand(kills * senders * each)
	in.Party = party.ID
	p.must(201, http.MethodPost, "/orders", "", in, &o)
	line := "/orders/" + o.ID + "/lines/" + o.Lines[0].ID
	p.must(200, http.MethodPut, line+"/verdict", "", map[string]string{"verdict": "printable"}, nil)
	p.must(200, http.MethodPost, "/orders/"+o.ID+"/confirm", "", note{}, nil)
	sent := 0
	for kill := range kills {
		var acknowledged atomic.Int64
		var group sync.WaitGroup
		half := make(chan struct{})
		var once sync.Once
		for sender := range senders {
			group.Go(func() {
				for i := range each {
					status, err := p.ask(http.MethodPost, line+"/events", fmt.Sprintf("%d-%d-%d", kill, sender, i), LineEvent{Kind: Make, Quantity: 1}, nil)
					if err != nil {
						return // killed
					}
					if status != 201 {
						t.Errorf("status %d", status)
					}
					if acknowledged.Add(1) == senders*each/2 {
						once.Do(func() { close(half) })
					}
				}
			})
		}
		<-half
		p.kill()
		group.Wait()
		p.start()
		made := p.made(o.ID)
		if least := sent + int(acknowledged.Load()); made < least || made > least+senders {
			t.Fatalf("after kill %d: %d pieces are made, %d were acknowledged", kill, made, least)
		}
		for sender := range senders {
			for i := range each {
				p.must(201, http.MethodPost, line+"/events", fmt.Sprintf("%d-%d-%d", kill, sender, i), LineEvent{Kind: Make, Quantity: 1}, nil)
			}
		}
		sent += senders * each
		if made := p.made(o.ID); made != sent {
			t.Fatalf("after everything was sent twice, %d pieces are made of %d", made, sent)
		}
	}
}
