package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bulkhead/examples/shop"
)

// The test binary is also the database that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DB_TEST_WRITE"); dir != "" {
		j, err := openJournal(dir)
		if err != nil {
			panic(err)
		}
		for i := 0; ; i++ {
			if _, err := j.put(fmt.Sprintf("k%d", i%100), fmt.Appendf(nil, `{"n":%d,"pad":%q}`, i, strings.Repeat("x", 20_000)), -1); err != nil {
				panic(err)
			}
			fmt.Println(i) // confirmed
		}
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j
}

// What was confirmed before a kill is there after it, also in the middle of
// writing the journal anew.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	for round := range 4 {
		command := exec.Command(os.Args[0])
		command.Env = append(os.Environ(), "DB_TEST_WRITE="+dir)
		out, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		last := -1
		for {
			var n int
			if _, err := fmt.Fscanln(out, &n); err != nil {
				break
			}
			if last < 0 {
				time.AfterFunc(time.Duration(200+100*round)*time.Millisecond, func() { command.Process.Kill() })
			}
			last = n
		}
		command.Wait()
		if last < 0 {
			t.Fatal("nothing was written before the kill")
		}
		j := open(t, dir)
		record, err := j.get(fmt.Sprintf("k%d", last%100))
		var value struct{ N int }
		if err := errors.Join(err, json.Unmarshal(record.Value, &value)); err != nil {
			t.Fatal(err)
		}
		if value.N < last {
			t.Errorf("record holds %d, %d was confirmed", value.N, last)
		}
		j.close()
	}
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	first, err := j.put("a", []byte(`1`), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.put("a", []byte(`2`), 0); !errors.Is(err, errChanged) {
		t.Errorf("create what exists: %v", err)
	}
	second, err := j.put("a", []byte(`2`), first.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.put("a", []byte(`3`), first.Revision); !errors.Is(err, errChanged) {
		t.Errorf("change of an old revision: %v", err)
	}
	if _, err := j.put("b", []byte(`"b"`), -1); err != nil {
		t.Fatal(err)
	}
	if err := j.delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := j.delete("b"); !errors.Is(err, errNotFound) {
		t.Errorf("delete again: %v", err)
	}
	j.close()

	// A line that a crash has cut short was never confirmed.
	f, _ := os.OpenFile(filepath.Join(dir, "records.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"key":"a","revision":99,"val`)
	f.Close()
	j = open(t, dir)
	if all := j.all(); len(all) != 1 || string(all[0].Value) != "2" || all[0].Revision != second.Revision {
		t.Errorf("after reopening: %+v", all)
	}
	if third, err := j.put("c", []byte(`3`), 0); err != nil || third.Revision <= second.Revision+1 {
		t.Errorf("revision %d after %d and a delete, %v", third.Revision, second.Revision, err)
	}
	j.close()
	if j = open(t, dir); len(j.all()) != 2 {
		t.Errorf("after the cut line and another: %+v", j.all())
	}
	j.close()
	if _, err := j.put("d", []byte(`4`), 0); err == nil || j.healthy() == nil {
		t.Error("a closed journal takes records")
	}

	if err := os.WriteFile(filepath.Join(dir, "records.jsonl"), []byte("{\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(dir); err == nil || !strings.Contains(err.Error(), "records.jsonl:1") {
		t.Errorf("damaged journal: %v", err)
	}
}

func TestCompact(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir)
	value := fmt.Appendf(nil, "%q", strings.Repeat("x", 50_000))
	var last shop.Record
	for range 100 { // 5 MB for one record
		var err error
		if last, err = j.put("a", value, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.delete("a"); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(j.path); info.Size() > 2<<20 || info.Size() != j.size {
		t.Errorf("the journal has %d bytes, and believes %d", info.Size(), j.size)
	}
	j.close()
	j = open(t, dir)
	if next, err := j.put("a", []byte("1"), 0); err != nil || next.Revision != last.Revision+2 {
		t.Errorf("revision %d after %d and a delete: %v", next.Revision, last.Revision, err)
	}
}

func TestFull(t *testing.T) {
	j := open(t, t.TempDir())
	for i := range maxRecords {
		j.records[fmt.Sprint(i)] = shop.Record{}
	}
	if _, err := j.put("one-more", []byte("1"), 0); !errors.Is(err, errFull) {
		t.Errorf("error %v", err)
	}
}

func TestClient(t *testing.T) {
	j := open(t, t.TempDir())
	server := httptest.NewServer(handler(j, "secret"))
	defer server.Close()
	ctx := context.Background()
	client := shop.NewClient(server.URL, "secret")
	order, err := client.Put(ctx, shop.Order{ID: "1", Item: "Bench", State: shop.New})
	if err != nil {
		t.Fatal(err)
	}
	order.State = shop.Making
	changed, err := client.Put(ctx, order)
	if err != nil || changed.Revision <= order.Revision {
		t.Fatalf("%+v, %v", changed, err)
	}
	if _, err := client.Put(ctx, order); !errors.Is(err, shop.ErrChanged) {
		t.Errorf("old revision: %v", err)
	}
	if orders, err := client.Orders(ctx); err != nil || len(orders) != 1 || orders[0].State != shop.Making {
		t.Errorf("%+v, %v", orders, err)
	}
	for range 2 {
		if err := client.Delete(ctx, "1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.Order(ctx, "1"); !errors.Is(err, shop.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
	if _, err := shop.NewClient(server.URL, "wrong").Orders(ctx); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("wrong token: %v", err)
	}
	if err := shop.NewClient(server.URL, "").Healthy(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
	for name, test := range map[string]struct {
		path, body, match string
		want              int
	}{
		"no JSON":   {"/records/a", "{", "", 400},
		"bad key":   {"/records/a%2Fb", "1", "", 400},
		"bad match": {"/records/a", "1", `"x"`, 400},
		"too large": {"/records/a", `"` + strings.Repeat("x", maxValue) + `"`, "", 413},
		"fine":      {"/records/a", "1", "", 200},
	} {
		request, _ := http.NewRequest("PUT", server.URL+test.path, strings.NewReader(test.body))
		request.Header.Set("Authorization", "Bearer secret")
		request.Header.Set("If-Match", test.match)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.want {
			t.Errorf("%s: status %d, want %d", name, response.StatusCode, test.want)
		}
	}
}
