package orders

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

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
