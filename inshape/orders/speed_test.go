package orders

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"inshape/frame"
	"inshape/frame/frametest"
)

// BenchmarkLineEvent is a line event from the request to the answer, without
// the network, sixteen at a time: what docs/performance.md measures over it.
//
//	go test ./orders -run '^$' -bench LineEvent -cpuprofile /tmp/cpu
func BenchmarkLineEvent(b *testing.B) {
	const key = "a key of the benchmark alone"
	m := frametest.Start(b, Module(), frametest.Setting{Name: "INSHAPE_KEY", Value: key})
	o := confirmed(m, byHand(100_000, 100_000, 100_000, 100_000, 100_000))
	var n atomic.Int64
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			r := httptest.NewRequest("POST", "/api/orders/orders/"+o.ID+"/lines/"+o.Lines[i%5].ID+"/events", strings.NewReader(`{"kind": "made", "quantity": 1}`))
			r.Header.Set("Authorization", "Bearer "+key)
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Idempotency-Key", fmt.Sprint(i))
			w := httptest.NewRecorder()
			m.Server.Handler().ServeHTTP(w, r)
			if w.Code != 201 {
				b.Errorf("status %d: %s", w.Code, w.Body)
				return
			}
		}
	})
}

// BenchmarkList is a page of 200 orders of a shop that has 100,000, one in
// fifty of them open.
//
//	go test ./orders -run '^$' -bench List
func BenchmarkList(b *testing.B) {
	m := frametest.Start(b, Module())
	confirmed(m, byHand(1))
	const count = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) "
	err := m.Server.Store.Update(b.Context(), func(tx *frame.Tx) error {
		for _, statement := range []string{
			count + `INSERT INTO orders (id, number, party, stage, state, currency, quote, reference, notes, due, ship_to, bill_to, actor, at)
				SELECT printf('ord_%026d', i), 20000 + i, 'pty_ada', 'confirmed', CASE i % 50 WHEN 0 THEN 'confirmed' ELSE 'delivered' END, 'EUR', NULL, '', '',
				CASE i % 3 WHEN 0 THEN '' ELSE printf('2027-%02d-%02d', 1 + i % 12, 1 + i % 28) END, '{}', 'null', 'usr', '2027-01-01T00:00:00.000000Z' FROM n`,
			count + `INSERT INTO line (id, order_id, model, revision, name, picture, material, material_title, requirements, quantity, unit_price, total)
				SELECT printf('lin_%026d', i), printf('ord_%026d', (i + 1) / 2), '', 0, 'part', '', 'pa12', 'PA12', '{}', 3, '1', '3' FROM n`,
			count + `INSERT INTO order_text (rowid, text) SELECT 20000 + i, 'part ' || i FROM n`,
		} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, query := range []string{"", "&sort=due&state=open", "&late=true", "&state=delivered", "&q=part+99999", "&q=part", "&material=pa12"} {
		b.Run("limit=200"+query, func(b *testing.B) {
			for b.Loop() {
				m.As(frametest.Staff).Get("/api/orders/orders?limit=200" + query).Want(200)
			}
		})
	}
}
