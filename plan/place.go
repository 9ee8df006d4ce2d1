package plan

import (
	"cmp"
	"fmt"
	"slices"

	"bulkhead"
)

// Need is what a stamp's tasks are counted with in placement: the requests of
// every replica.
func Need(s bulkhead.Stamp) bulkhead.Resources {
	var n bulkhead.Resources
	for _, svc := range s.Services {
		r := float64(svc.Replicas)
		n.CPU += svc.Budget.CPURequest * r
		n.Memory += svc.Budget.MemoryRequest * int64(svc.Replicas)
		n.PIDs += svc.Budget.PIDs * int64(svc.Replicas)
	}
	return n
}

// Ceiling is what all tasks of a stamp may use together.
func Ceiling(s bulkhead.Stamp) bulkhead.Budget {
	var b bulkhead.Budget
	for _, svc := range s.Services {
		// One more than its replicas: an update runs the new task beside the old.
		n := svc.Replicas + 1
		b.CPU += svc.Budget.CPU * float64(svc.Replicas)
		b.Memory += svc.Budget.Memory * int64(n)
		b.PIDs += svc.Budget.PIDs * int64(n)
	}
	return b
}

// Place chooses a node for a stamp that has none: of the ready nodes with room
// for its requests the one that is fullest afterwards, so that large stamps find
// room later. others are all stamps, placed or not. The reason is for people; the
// error is of kind ErrExhausted and says what was short where.
func Place(stamp bulkhead.Stamp, nodes []bulkhead.Node, others []bulkhead.Stamp) (bulkhead.NodeName, string, error) {
	need := Need(stamp)
	used := map[bulkhead.NodeName]bulkhead.Resources{}
	for _, o := range others {
		if o.Node == "" || o.Desired == bulkhead.DesiredDeleted || o.Name == stamp.Name {
			continue
		}
		u, n := used[o.Node], Need(o)
		u.CPU, u.Memory, u.PIDs = u.CPU+n.CPU, u.Memory+n.Memory, u.PIDs+n.PIDs
		used[o.Node] = u
	}
	type candidate struct {
		name bulkhead.NodeName
		left float64 // the smaller share of CPU and memory left after it
	}
	var fit []candidate
	var ready int
	var best bulkhead.Resources // most free of each among ready nodes
	for _, n := range nodes {
		if !n.Takes() {
			continue
		}
		ready++
		free := bulkhead.Resources{CPU: n.Capacity.CPU - used[n.Name].CPU, Memory: n.Capacity.Memory - used[n.Name].Memory}
		best.CPU, best.Memory = max(best.CPU, free.CPU), max(best.Memory, free.Memory)
		if free.CPU < need.CPU || free.Memory < need.Memory || n.Capacity.CPU <= 0 || n.Capacity.Memory <= 0 {
			continue
		}
		fit = append(fit, candidate{n.Name, min((free.CPU-need.CPU)/n.Capacity.CPU, float64(free.Memory-need.Memory)/float64(n.Capacity.Memory))})
	}
	if len(fit) == 0 {
		if ready == 0 {
			return "", "", bulkhead.Errorf(bulkhead.ErrExhausted, "no node is ready (%d known)", len(nodes))
		}
		return "", "", bulkhead.Errorf(bulkhead.ErrExhausted,
			"no node has %.3f cores and %s free (%d of %d nodes ready; most free: %.3f cores, %s)",
			need.CPU, Bytes(need.Memory), ready, len(nodes), max(0, best.CPU), Bytes(max(0, best.Memory)))
	}
	slices.SortFunc(fit, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.left, b.left), cmp.Compare(a.name, b.name)) })
	return fit[0].name, fmt.Sprintf("best fit of %d nodes for %.3f cores and %s", len(fit), need.CPU, Bytes(need.Memory)), nil
}

// Bytes writes an amount of memory for people: "1.5 GiB".
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%d %s", int64(f), units[i])
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
