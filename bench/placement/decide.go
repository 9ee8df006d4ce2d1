package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"

	"bulkhead"
	"bulkhead/plan"
)

// wish is one kind of stamps whose placement is measured.
type wish struct {
	name  string
	terms func(r *rand.Rand) bulkhead.Terms
}

var wishes = []wish{
	{"no terms", func(*rand.Rand) bulkhead.Terms { return bulkhead.Terms{} }},
	{"region and label", func(*rand.Rand) bulkhead.Terms {
		return bulkhead.Terms{Region: "eu", Constraints: []bulkhead.Constraint{{Attribute: "node.labels.disk", Value: "ssd"}}}
	}},
	{"spread over 9 zones", func(*rand.Rand) bulkhead.Terms { return bulkhead.Terms{Spread: []string{"node.zone"}} }},
	{"spread over 100 racks", func(*rand.Rand) bulkhead.Terms { return bulkhead.Terms{Spread: []string{"node.labels.rack"}} }},
	{"apart from competitors", func(r *rand.Rand) bulkhead.Terms {
		return bulkhead.Terms{Apart: []bulkhead.Apart{{Key: fmt.Sprint("trade-", r.IntN(500))}}}
	}},
	{"all of these", func(r *rand.Rand) bulkhead.Terms {
		return bulkhead.Terms{
			Region: "eu", Constraints: []bulkhead.Constraint{{Attribute: "node.labels.disk", Value: "ssd"}},
			Spread: []string{"node.zone"}, Apart: []bulkhead.Apart{{Key: fmt.Sprint("trade-", r.IntN(500))}},
		}
	}},
}

// farm has so many nodes of nine kinds, in three regions of three zones.
func farm(nodes int) []bulkhead.Node {
	out := make([]bulkhead.Node, nodes)
	for i := range out {
		out[i] = bulkhead.Node{
			Name: bulkhead.NodeName(fmt.Sprintf("n%05d", i)), State: bulkhead.NodeReady, Platform: "linux/amd64",
			Region: []string{"eu", "us", "ap"}[i%3], Zone: fmt.Sprint("z", i%9),
			Labels: map[string]string{"rack": fmt.Sprint("r", i%100), "disk": []string{"ssd", "hdd"}[i%2]},
			Capacity: bulkhead.Resources{
				CPU: []float64{16, 32, 64}[i/9%3], Memory: []int64{64, 128, 256}[i/27%3] << 30, Disk: 1 << 40, PIDs: 1 << 20,
			},
		}
	}
	return out
}

// stamps are of three services and some two cores.
func stamps(n int, w wish, r *rand.Rand) []*bulkhead.Stamp {
	out := make([]*bulkhead.Stamp, n)
	for i := range out {
		s := &bulkhead.Stamp{Name: bulkhead.StampName(fmt.Sprint("customer-", i)), Product: "shop", Desired: bulkhead.DesiredRunning, Terms: w.terms(r)}
		for k := range 3 {
			b := bulkhead.DefaultBudget()
			b.CPURequest, b.MemoryRequest = float64(1+r.IntN(20))*0.0625, int64(1+r.IntN(32))<<26
			s.Services = append(s.Services, bulkhead.Service{Name: bulkhead.ServiceName(fmt.Sprint("service-", k)), Replicas: 1, Budget: b})
		}
		out[i] = s
	}
	return out
}

// mostPerNode keeps small farms from being full before the end: a node takes some 18
// of the stamps, and those of "all of these" find a place on every sixth node.
const mostPerNode = 1

// decide prints how many stamps a second get a place, on one core.
func decide(ctx context.Context, sizes, terms string, rounds, decisions int) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the garbage collector's work counts, too
	fmt.Printf("\nDecisions in a second of one core's time, each counted in the farm for the next (median of %d rounds of %d, but at most one for each node, after as many; in brackets the cost of one, the smallest farm's being 1)\n\n", rounds, decisions)
	fmt.Printf("%-24s", "")
	var counts []int
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return fmt.Errorf("size of a farm: %q", size)
		}
		counts = append(counts, n)
		fmt.Printf("%20s", size+" nodes")
	}
	fmt.Println()
	for _, w := range wishes {
		if !strings.Contains(w.name, terms) {
			continue
		}
		fmt.Printf("%-24s", w.name)
		base := 0.0
		for _, n := range counts {
			var rates []float64
			refused := 0
			for round := range rounds {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				rate, no := decisionRate(n, min(decisions, mostPerNode*n), w, uint64(round))
				rates, refused = append(rates, rate), refused+no
			}
			rate := median(rates)
			if base == 0 {
				base = rate
			}
			mark := ""
			if refused > 0 { // a refusal that is remembered is cheaper than a place
				mark = "*"
			}
			fmt.Printf("%20s", fmt.Sprintf("%.0f%s (%.2f)", rate, mark, base/rate))
		}
		fmt.Println()
	}
	fmt.Println("\n* the farm was full before the end")
	if terms != "" {
		return nil
	}
	return scan(counts, rounds)
}

func decisionRate(nodes, decisions int, w wish, seed uint64) (perSecond float64, refused int) {
	f := plan.NewFarm(bulkhead.Policy{})
	for _, n := range farm(nodes) {
		f.SetNode(n)
	}
	all := stamps(2*decisions, w, rand.New(rand.NewPCG(seed, 0)))
	place := func(stamps []*bulkhead.Stamp) (refused int) {
		for _, s := range stamps {
			d, err := f.Place(s)
			if err != nil {
				refused++
				continue
			}
			s.Node = d.Node
			f.SetStamp(s, false)
		}
		return refused
	}
	place(all[:decisions])
	runtime.GC()
	began := processor()
	refused = place(all[decisions:])
	return float64(decisions) / (processor() - began), refused
}

// scan prints the same for the plain way: look at every node, take the one with
// least left.
func scan(counts []int, rounds int) error {
	fmt.Printf("\n%-24s", "looking at every node")
	for _, n := range counts {
		var rates []float64
		for round := range rounds {
			nodes := farm(n)
			free := make([][2]float64, n)
			for i, n := range nodes {
				free[i] = [2]float64{n.Capacity.CPU, float64(n.Capacity.Memory)}
			}
			all := stamps(2000, wishes[0], rand.New(rand.NewPCG(uint64(round), 0)))
			began := processor()
			for _, s := range all {
				var need [2]float64
				for _, svc := range s.Services {
					need[0], need[1] = need[0]+svc.Budget.CPURequest, need[1]+float64(svc.Budget.MemoryRequest)
				}
				best, least := -1, 0.0
				for i := range nodes {
					if nodes[i].State != bulkhead.NodeReady || free[i][0] < need[0] || free[i][1] < need[1] {
						continue
					}
					if left := free[i][0]/64 + free[i][1]/(256<<30); best < 0 || left < least {
						best, least = i, left
					}
				}
				if best >= 0 {
					free[best][0], free[best][1] = free[best][0]-need[0], free[best][1]-need[1]
				}
			}
			rates = append(rates, float64(len(all))/(processor()-began))
		}
		fmt.Printf("%20.0f", median(rates))
	}
	fmt.Println()
	return nil
}
