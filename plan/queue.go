package plan

import (
	"cmp"
	"slices"

	"bulkhead"
)

// Queue is the order in which stamps that wait for a node are placed: greater
// priority first; of one priority the product that has least, counted by what it
// takes most of and by its weight (dominant resource fairness: Ghodsi et al.,
// NSDI 2011); of one product the oldest.
type Queue struct {
	farm  *Farm
	lines []line
}

// line is the stamps of one product and priority.
type line struct {
	priority int
	product  bulkhead.ProductName
	stamps   []*bulkhead.Stamp
}

// Queue puts stamps into their order. Who places one tells the farm before it
// asks for the next.
func (f *Farm) Queue(waiting []*bulkhead.Stamp) *Queue {
	q := &Queue{farm: f}
	index := map[lineKey]int{}
	for _, s := range waiting {
		key := lineKey{f.policy.Tiers[tierOf(s)].Priority, s.Product}
		i, ok := index[key]
		if !ok {
			i = len(q.lines)
			index[key] = i
			q.lines = append(q.lines, line{priority: key.priority, product: key.product})
		}
		q.lines[i].stamps = append(q.lines[i].stamps, s)
	}
	for _, l := range q.lines {
		slices.SortFunc(l.stamps, func(a, b *bulkhead.Stamp) int {
			return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name))
		})
	}
	slices.SortFunc(q.lines, func(a, b line) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.product, b.product))
	})
	return q
}

type lineKey struct {
	priority int
	product  bulkhead.ProductName
}

// Next takes the stamp to place next, nil if none is left.
func (q *Queue) Next() *bulkhead.Stamp {
	if len(q.lines) == 0 {
		return nil
	}
	next, least := 0, q.farm.dominant(q.lines[0].product)
	for i := 1; i < len(q.lines) && q.lines[i].priority == q.lines[0].priority; i++ {
		if share := q.farm.dominant(q.lines[i].product); share < least {
			next, least = i, share
		}
	}
	l := &q.lines[next]
	s := l.stamps[0]
	if l.stamps = l.stamps[1:]; len(l.stamps) == 0 {
		q.lines = slices.Delete(q.lines, next, next+1)
	}
	return s
}

// dominant is the product's share of what it takes most of, by its weight.
func (f *Farm) dominant(product bulkhead.ProductName) float64 {
	u := f.products[product]
	if u == nil {
		return 0
	}
	share := 0.0
	for r, n := range u.amounts {
		share = max(share, float64(n)/float64(max(1, f.total[r])))
	}
	for k, n := range u.extras {
		share = max(share, float64(n)/float64(max(1, f.extras[k])))
	}
	return share / cmp.Or(f.policy.Quotas[product].Weight, 1)
}
