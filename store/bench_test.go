package store

import (
	"fmt"
	"sync/atomic"
	"testing"

	"bulkhead"
)

// fill puts n stamps of a usual size in.
func fill(b *testing.B, s *Store, n int) {
	for i := 0; i < n; i += 100 {
		update(b, s, func(tx *Tx) {
			for j := range 100 {
				st := stamp(fmt.Sprintf("stamp-%05d", i+j))
				st.Node = "n1"
				for k := range 3 {
					st.Services = append(st.Services, bulkhead.Service{
						Name: bulkhead.ServiceName(fmt.Sprint("service-", k)), Budget: bulkhead.DefaultBudget(),
						Environment: map[string]string{"ONE": "value one", "TWO": "value two"},
					})
				}
				tx.Stamps.Put(st)
			}
		})
	}
}

func name(i int64) bulkhead.StampName {
	return bulkhead.StampName(fmt.Sprintf("stamp-%05d", i%1000))
}

// One caller: how long a change takes until it is on disk and in view.
func BenchmarkUpdate_ReadWrite(b *testing.B) {
	s := open(b, Config{})
	fill(b, s, 1000)
	for i := int64(0); b.Loop(); i++ {
		update(b, s, func(tx *Tx) {
			st, _ := tx.Stamps.Get(name(i))
			st.Generation++
			tx.Stamps.Put(st)
		})
	}
}

// Many callers share syncs.
func BenchmarkPutStatus_Parallel(b *testing.B) {
	s := open(b, Config{})
	fill(b, s, 1000)
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			status := bulkhead.StampStatus{Name: name(i), UID: "uid-" + string(name(i)), Node: "n1", Generation: i}
			if err := s.PutStatus(b.Context(), status); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkView_Get(b *testing.B) {
	s := Memory()
	fill(b, s, 10_000)
	for i := int64(0); b.Loop(); i++ {
		if _, ok := s.View().Stamps.Get(name(i)); !ok {
			b.Fatal("no such stamp")
		}
	}
}

func BenchmarkView_All10000(b *testing.B) {
	s := Memory()
	fill(b, s, 10_000)
	for b.Loop() {
		n := 0
		for range s.View().Stamps.All() {
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		shut(b, open(b, Config{}))
	}
}

// Batches as the API and the controller write them: 400 stamps are made, and then
// each gets a node. What etcd takes is not in it.
func BenchmarkUpdate_Batch400(b *testing.B) {
	s := Memory()
	fill(b, s, 10_000)
	n := 0
	for b.Loop() {
		names := make([]bulkhead.StampName, 400)
		update(b, s, func(tx *Tx) {
			for i := range names {
				st, _ := tx.Stamps.Peek("stamp-00000")
				st.Name = bulkhead.StampName(fmt.Sprintf("new-%07d", n))
				st.UID, st.Node, names[i] = string(st.Name), "", st.Name
				n++
				tx.Stamps.Put(st)
			}
		})
		update(b, s, func(tx *Tx) {
			for i, name := range names {
				st, _ := tx.Stamps.Peek(name)
				st.Node, st.Placement = bulkhead.NodeName(fmt.Sprint("n", i)), "most of its room is left to what usually comes"
				tx.Stamps.Put(st)
			}
		})
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n), "µs/stamp")
}
