package frame_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"inshape/frame"
	"inshape/frame/frametest"
)

// taker is somebody outside who is told of events.
type taker struct {
	*httptest.Server

	mu       sync.Mutex
	taken    map[string][]frame.Event // by webhook-id; guarded by mu
	refuse   int                      // how many more are refused, with answer; guarded by mu
	answer   int
	attempts int
	faults   []string
	secret   string
}

func newTaker(t *testing.T) *taker {
	t.Helper()
	k := &taker{taken: map[string][]frame.Event{}, answer: http.StatusInternalServerError}
	k.Server = httptest.NewServer(http.HandlerFunc(k.take))
	t.Cleanup(k.Close)
	return k
}

func (k *taker) take(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.attempts++
	var e frame.Event
	if err = errors.Join(err, json.Unmarshal(body, &e)); err != nil {
		k.faults = append(k.faults, err.Error())
	}
	id := r.Header.Get("webhook-id")
	if k.secret != "" {
		// As the specification says it, not as frame.SignWebhook does.
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(k.secret, "whsec_"))
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(id + "." + r.Header.Get("webhook-timestamp") + "." + string(body)))
		if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); err != nil || r.Header.Get("webhook-signature") != want {
			k.faults = append(k.faults, "it is signed "+r.Header.Get("webhook-signature")+", want "+want)
		}
	}
	if e.ID != id {
		k.faults = append(k.faults, "the event "+e.ID+" comes as "+id)
	}
	if k.refuse > 0 {
		k.refuse--
		w.WriteHeader(k.answer)
		return
	}
	k.taken[id] = append(k.taken[id], e)
}

// count is how many events were taken, and how many attempts there were.
func (k *taker) count() (taken, attempts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.taken), k.attempts
}

func (k *taker) sound(t *testing.T) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, fault := range k.faults {
		t.Error(fault)
	}
}

func subscribe(t *testing.T, m *frametest.Module, url string, types ...string) frame.Webhook {
	t.Helper()
	var hook frame.Webhook
	m.As(frametest.Admin).Post("/api/things/webhooks", map[string]any{"url": url, "types": types}).Want(201).Into(&hook)
	return hook
}

func emit(t *testing.T, m *frametest.Module, kinds ...string) {
	t.Helper()
	err := m.Server.Store.Update(t.Context(), func(tx *frame.Tx) error {
		for _, kind := range kinds {
			if err := tx.Emit(kind, "thg_1", "", map[string]string{"hello": kind}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWebhooksAreToldWhatTheyWant(t *testing.T) {
	m := frametest.Start(t, things())
	k := newTaker(t)
	emit(t, m, "thing.before")
	k.secret = subscribe(t, m, k.URL, "thing.*", "box.opened").Secret
	emit(t, m, "thing.made", "box.opened", "box.closed", "things.made", "thing.sold")
	waitUntil(t, func() bool { n, _ := k.count(); return n == 3 })
	emit(t, m, "box.opened")
	waitUntil(t, func() bool { n, _ := k.count(); return n == 4 })
	k.sound(t)
	for _, events := range k.taken {
		if kind := events[0].Type; kind != "thing.made" && kind != "box.opened" && kind != "thing.sold" {
			t.Errorf("%s was delivered", kind)
		}
	}
	admin := m.As(frametest.Admin)
	var hooks frame.List[frame.Webhook]
	admin.Get("/api/things/webhooks").Want(200).Into(&hooks)
	if len(hooks.Items) != 1 || hooks.Items[0].Secret != "" {
		t.Errorf("the list is %+v", hooks)
	}
	m.As(frametest.Staff).Get("/api/things/webhooks").Refused(403, "forbidden")
	for _, wrong := range []string{"ftp://x/", "http://user:word@x/", "x"} {
		admin.Post("/api/things/webhooks", map[string]any{"url": wrong, "types": []string{"*"}}).Refused(422, "invalid")
	}
	for _, wrong := range []string{"", "a,b", "*.made", "Thing", "a b"} {
		admin.Post("/api/things/webhooks", map[string]any{"url": k.URL, "types": []string{wrong}}).Refused(422, "invalid")
	}
	admin.Delete("/api/things/webhooks/" + hooks.Items[0].ID).Want(204)
	admin.Delete("/api/things/webhooks/"+hooks.Items[0].ID).Refused(404, "not-found")
}

func TestRefusedDeliveriesAreRepeated(t *testing.T) {
	m := frametest.Start(t, things())
	k, other := newTaker(t), newTaker(t)
	k.refuse = 1
	hook := subscribe(t, m, k.URL, "*")
	subscribe(t, m, other.URL, "*")
	emit(t, m, "thing.made")
	waitUntil(t, func() bool { _, attempts := k.count(); return attempts == 1 })
	waitUntil(t, func() bool { n, _ := other.count(); return n == 1 }) // one that refuses keeps nobody waiting
	admin := m.As(frametest.Admin)
	path := "/api/things/webhooks/" + hook.ID + "/deliveries"
	var list frame.List[frame.Delivery]
	waitUntil(t, func() bool {
		admin.Get(path).Want(200).Into(&list)
		return len(list.Items) == 1 && list.Items[0].Attempts == 1
	})
	if d := list.Items[0]; d.State != "waiting" || !strings.Contains(d.Answer, "500") || time.Until(d.Due) <= 0 {
		t.Errorf("the delivery is %+v", d)
	}
	admin.Post(fmt.Sprintf("%s/%d", path, list.Items[0].Sequence), nil).Want(202) // sooner than by itself
	waitUntil(t, func() bool { n, _ := k.count(); return n == 1 })
	waitUntil(t, func() bool {
		admin.Get(path).Want(200).Into(&list)
		return list.Items[0].State == "delivered"
	})
	admin.Post(path+"/999", nil).Refused(404, "not-found")
	k.sound(t)
}

func TestWhoIsGoneIsToldNothingMore(t *testing.T) {
	m := frametest.Start(t, things())
	k := newTaker(t)
	k.refuse, k.answer = 1, http.StatusGone
	hook := subscribe(t, m, k.URL, "*")
	emit(t, m, "thing.made")
	admin := m.As(frametest.Admin)
	var hooks frame.List[frame.Webhook]
	waitUntil(t, func() bool {
		admin.Get("/api/things/webhooks").Want(200).Into(&hooks)
		return hooks.Items[0].Paused != ""
	})
	emit(t, m, "thing.made")
	admin.Post("/api/things/webhooks/"+hook.ID+"/resume", nil).Want(204)
	waitUntil(t, func() bool { n, _ := k.count(); return n == 2 })
	if _, attempts := k.count(); attempts != 3 {
		t.Errorf("there were %d attempts, want 3: while paused there is none", attempts)
	}
	admin.Post("/api/things/webhooks/whk_nothing/resume", nil).Refused(404, "not-found")
}

func TestWebhooksStayOutside(t *testing.T) {
	m := frametest.Start(t, things(), frametest.Setting{Name: "INSHAPE_WEBHOOKS_INSIDE", Value: "false"})
	k := newTaker(t)
	_, port, err := net.SplitHostPort(k.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"} {
		hook := subscribe(t, m, "http://"+host+":"+port+"/", "*")
		emit(t, m, "thing.made")
		var list frame.List[frame.Delivery]
		waitUntil(t, func() bool {
			m.As(frametest.Admin).Get("/api/things/webhooks/" + hook.ID + "/deliveries").Want(200).Into(&list)
			return len(list.Items) > 0 && list.Items[0].Attempts > 0
		})
	}
	if _, attempts := k.count(); attempts != 0 {
		t.Errorf("%d deliveries came inside", attempts)
	}
}

// child is a process of its own that runs the module things.
type child struct {
	cmd *exec.Cmd
	url string
	log *bytes.Buffer
}

func startChild(t *testing.T, folder, listen string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0]), url: "http://" + listen, log: &bytes.Buffer{}}
	c.cmd.Env = append(os.Environ(), "INSHAPE_TEST_CHILD=1", "INSHAPE_DATA="+folder, "INSHAPE_LISTEN="+listen, "INSHAPE_SECRET="+frametest.Secret, "INSHAPE_WEBHOOKS_INSIDE=true")
	c.cmd.Stderr = c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); _ = c.cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if answer, err := http.Get(c.url + "/healthz"); err == nil {
			answer.Body.Close()
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process does not serve: %s", c.log)
		}
	}
}

// ask is one request to it; ok is false if there was no answer.
func (c *child) ask(ctx context.Context, method, path, key string, body any) (status int, text []byte, ok bool) {
	data, _ := json.Marshal(body)
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, false
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	if frame.Attach(r, frametest.Secret, frametest.Admin) != nil {
		return 0, nil, false
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, false
	}
	defer answer.Body.Close()
	text, err = io.ReadAll(answer.Body)
	return answer.StatusCode, text, err == nil
}

// TestKilledProcessLosesNothing kills a process again and again while many make
// things in it, each repeated until it is acknowledged. In the end there is one
// thing for each key, the one that was acknowledged, and its event was delivered
// at least once, always under the same webhook-id.
func TestKilledProcessLosesNothing(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	folder := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := listener.Addr().String()
	listener.Close()
	k := newTaker(t)
	process := startChild(t, folder, listen)
	status, text, ok := process.ask(t.Context(), http.MethodPost, "/api/things/webhooks", "", map[string]any{"url": k.URL, "types": []string{"thing.made"}})
	if !ok || status != http.StatusCreated {
		t.Fatalf("subscribe: %d %s", status, text)
	}
	const writers, each = 16, 40
	var mu sync.Mutex
	acknowledged := map[string]string{} // key to thing
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			for i := range each {
				key := fmt.Sprintf("w%d-%d", w, i)
				for t.Context().Err() == nil {
					status, text, ok := process.ask(t.Context(), http.MethodPost, "/api/things/things", key, map[string]any{"name": key})
					if !ok {
						time.Sleep(time.Millisecond) // it is being killed, or not up again
						continue
					}
					var made thing
					if status != http.StatusCreated || json.Unmarshal(text, &made) != nil {
						t.Errorf("%s: %d %s", key, status, text)
						return
					}
					mu.Lock()
					acknowledged[key] = made.ID
					mu.Unlock()
					break
				}
			}
		})
	}
	const kills = 5
	for kill := range kills {
		target := (kill + 1) * writers * each / 6
		waitUntil(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) >= target })
		if err := process.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = process.cmd.Wait()
		process.cmd = startChild(t, folder, listen).cmd
	}
	group.Wait()
	if len(acknowledged) != writers*each {
		t.Fatalf("%d of %d were acknowledged", len(acknowledged), writers*each)
	}
	for key, id := range acknowledged { // each answer comes again, from the disk
		status, text, ok := process.ask(t.Context(), http.MethodPost, "/api/things/things", key, map[string]any{"name": key})
		var again thing
		if !ok || status != http.StatusCreated || json.Unmarshal(text, &again) != nil || again.ID != id {
			t.Fatalf("%s was %s and is %d %s", key, id, status, text)
		}
	}
	waitUntil(t, func() bool { n, _ := k.count(); return n >= writers*each })
	k.sound(t)
	k.mu.Lock()
	defer k.mu.Unlock()
	subjects := map[string]string{}
	for id, events := range k.taken {
		for _, e := range events {
			if before, ok := subjects[e.Subject]; ok && before != id {
				t.Errorf("the event of %s came as %s and as %s", e.Subject, before, id)
			}
			subjects[e.Subject] = id
		}
	}
	if len(subjects) != writers*each {
		t.Errorf("%d things were told of, %d were made: a key made two, or one was lost", len(subjects), writers*each)
	}
	for key, id := range acknowledged {
		if subjects[id] == "" {
			t.Errorf("%s (%s) was acknowledged, and nobody was told", id, key)
		}
	}
	t.Logf("%d things, %d kills, %d deliveries", len(acknowledged), kills, k.attempts)
}
