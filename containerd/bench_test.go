package containerd

import (
	"testing"
	"time"
)

// BenchmarkTask measures the life of a task whose image is present: as the first
// of its stamp, for which a shim is started, and as a further one.
func BenchmarkTask(b *testing.B) {
	b.Run("first", func(b *testing.B) { benchmarkTask(b, newNode(b)) })
	b.Run("further", func(b *testing.B) {
		n := newNode(b)
		n.run(n.container("acme", "hang"))
		benchmarkTask(b, n)
	})
}

func benchmarkTask(b *testing.B, n *node) {
	var prepare, start, remove time.Duration
	for b.Loop() {
		c := n.container("acme", "hang")
		begin := time.Now()
		if err := n.runtime.Prepare(b.Context(), c); err != nil {
			b.Fatal(err)
		}
		prepared := time.Now()
		if err := n.runtime.Start(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		started := time.Now()
		if err := n.runtime.Remove(b.Context(), c.ID); err != nil {
			b.Fatal(err)
		}
		prepare, start, remove = prepare+prepared.Sub(begin), start+started.Sub(prepared), remove+time.Since(started)
	}
	for name, total := range map[string]time.Duration{"ms/prepare": prepare, "ms/start": start, "ms/remove": remove} {
		b.ReportMetric(float64(total.Microseconds())/1000/float64(b.N), name)
	}
}

// BenchmarkList lists the containers of a stamp.
func BenchmarkList(b *testing.B) {
	n := newNode(b)
	for range 20 {
		n.run(n.container("acme", "hang"))
	}
	for b.Loop() {
		if _, err := n.runtime.List(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
