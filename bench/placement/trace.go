package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"bulkhead"
	"bulkhead/plan"
)

// machine and task are what a line of the trace says.
type machine struct {
	cpu, memory int64   // thousandths of a core, MiB
	gpus        []int64 // what is free of each, thousandths
}

type task struct {
	cpu, memory int64
	gpus, milli int64 // so many GPUs, so much of each
}

// play prints how much of the GPUs is given out when the first task is refused.
func play(ctx context.Context, folder string, orders int) error {
	machines, tasks, err := readTrace(folder)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	var gpus int64
	for _, m := range machines {
		gpus += int64(len(m.gpus)) * 1000
	}
	fmt.Printf("\n%d machines with %d GPUs, %d tasks: share of the GPUs that is given out when the first task is refused, %%\n", len(machines), gpus/1000, len(tasks))
	fmt.Printf("(the tasks as they come, then %d times shuffled; should none be refused, shuffled tasks follow)\n\n", orders-1)
	ways := []struct {
		name string
		play func(tasks []task, r *rand.Rand) int64
	}{
		{"Bulkhead", func(t []task, _ *rand.Rand) int64 { return ours(machines, t, 0) }},
		{"Bulkhead, all compared", func(t []task, _ *rand.Rand) int64 { return ours(machines, t, len(machines)) }},
		{"best fit", func(t []task, _ *rand.Rand) int64 { return theirs(machines, t, leastLeft) }},
		{"dot product, least", func(t []task, _ *rand.Rand) int64 { return theirs(machines, t, dotProduct) }},
		{"dot product, most", func(t []task, _ *rand.Rand) int64 {
			return theirs(machines, t, func(m *machine, t *task) float64 { return -dotProduct(m, t) })
		}},
		{"worst fit", func(t []task, _ *rand.Rand) int64 {
			return theirs(machines, t, func(m *machine, t *task) float64 { return -leastLeft(m, t) })
		}},
		{"random", func(t []task, r *rand.Rand) int64 {
			return theirs(machines, t, func(*machine, *task) float64 { return r.Float64() })
		}},
	}
	results := make([][]float64, len(ways))
	for order := range orders {
		for i, w := range ways {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r := rand.New(rand.NewPCG(uint64(order), 1))
			list := slices.Clone(tasks)
			shuffle := func(l []task) { r.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] }) }
			if order > 0 {
				shuffle(list)
			}
			more := slices.Clone(tasks)
			shuffle(more)
			results[i] = append(results[i], float64(w.play(append(list, more...), r))/float64(gpus)*100)
		}
	}
	fmt.Printf("%-24s %9s %9s %9s %9s   %s\n", "", "as it is", "median", "least", "most", "best of all in")
	for i, w := range ways {
		wins := 0
		for order := range orders {
			best := true
			for j := range ways {
				// The two of ours do not compete.
				best = best && (j == i || i < 2 && j < 2 || results[i][order] > results[j][order])
			}
			if best {
				wins++
			}
		}
		fmt.Printf("%-24s %9.2f %9.2f %9.2f %9.2f   %d of %d orders\n", w.name, results[i][0], median(results[i]), slices.Min(results[i]), slices.Max(results[i]), wins, orders)
	}
	return nil
}

// ours plays the tasks on a plan.Farm, which learns the usual sizes as they come.
func ours(machines []machine, tasks []task, sample int) int64 {
	f := plan.NewFarm(bulkhead.Policy{Sample: sample})
	for i, m := range machines {
		n := bulkhead.Node{
			Name: bulkhead.NodeName(fmt.Sprintf("n%04d", i)), State: bulkhead.NodeReady,
			Capacity: bulkhead.Resources{CPU: float64(m.cpu) / 1000, Memory: m.memory << 20},
		}
		if len(m.gpus) > 0 {
			n.Capacity.Extras = map[string]float64{"gpu": float64(len(m.gpus))}
		}
		f.SetNode(n)
	}
	var given int64
	for i, t := range tasks {
		b := bulkhead.Budget{CPURequest: float64(t.cpu) / 1000, MemoryRequest: t.memory << 20}
		s := &bulkhead.Stamp{Name: bulkhead.StampName(fmt.Sprint("t", i)), Product: "trace", Desired: bulkhead.DesiredRunning}
		if t.gpus > 0 {
			b.Extras = map[string]float64{"gpu": float64(t.gpus*t.milli) / 1000}
		}
		s.Services = []bulkhead.Service{{Name: "task", Replicas: 1, Budget: b}}
		d, err := f.Place(s)
		if err != nil {
			return given
		}
		s.Node, s.Units = d.Node, d.Units
		f.SetStamp(s, false)
		given += t.gpus * t.milli
	}
	return given
}

// theirs plays the tasks, each on the machine with room that costs least. All ways
// pack the GPUs of a machine alike: a part goes to the fullest GPU that has it.
func theirs(machines []machine, tasks []task, cost func(*machine, *task) float64) int64 {
	farm := slices.Clone(machines)
	for i := range farm {
		farm[i].gpus = slices.Clone(farm[i].gpus)
	}
	var given int64
	for i := range tasks {
		t := &tasks[i]
		best, least := -1, math.Inf(1)
		for i := range farm {
			if m := &farm[i]; m.fits(t) {
				if c := cost(m, t); c < least {
					best, least = i, c
				}
			}
		}
		if best < 0 {
			return given
		}
		farm[best].take(t)
		given += t.gpus * t.milli
	}
	return given
}

func (m *machine) fits(t *task) bool {
	if m.cpu < t.cpu || m.memory < t.memory {
		return false
	}
	var n int64
	for _, free := range m.gpus {
		if free >= t.milli {
			n++
		}
	}
	return n >= t.gpus
}

func (m *machine) take(t *task) {
	m.cpu, m.memory = m.cpu-t.cpu, m.memory-t.memory
	for range t.gpus {
		best := -1
		for i, free := range m.gpus {
			if free >= t.milli && (best < 0 || free < m.gpus[best]) {
				best = i
			}
		}
		m.gpus[best] -= t.milli
	}
}

func (m *machine) free() (n int64) {
	for _, free := range m.gpus {
		n += free
	}
	return n
}

// The largest machine of the trace: amounts are compared as shares of it.
const (
	mostCPU    = 128_000
	mostMemory = 1 << 20
	mostGPU    = 8_000
)

func leastLeft(m *machine, t *task) float64 {
	return float64(m.cpu-t.cpu)/mostCPU + float64(m.memory-t.memory)/mostMemory + float64(m.free()-t.gpus*t.milli)/mostGPU
}

func dotProduct(m *machine, t *task) float64 {
	return float64(m.cpu)*float64(t.cpu)/mostCPU/mostCPU + float64(m.memory)*float64(t.memory)/mostMemory/mostMemory +
		float64(m.free())*float64(t.gpus*t.milli)/mostGPU/mostGPU
}

// readTrace reads the trace "openb" of hkust-adsl/kubernetes-scheduler-simulator.
func readTrace(folder string) (machines []machine, tasks []task, err error) {
	err = rows(filepath.Join(folder, "openb_node_list_all_node.csv"), []string{"cpu_milli", "memory_mib", "gpu"}, func(v []int64) {
		machines = append(machines, machine{v[0], v[1], slices.Repeat([]int64{1000}, int(v[2]))})
	})
	if err != nil {
		return nil, nil, err
	}
	err = rows(filepath.Join(folder, "openb_pod_list_default.csv"), []string{"cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}, func(v []int64) {
		tasks = append(tasks, task{v[0], v[1], v[2], v[3]})
	})
	return machines, tasks, err
}

// rows yields the named columns of a file of comma-separated values.
func rows(path string, columns []string, yield func([]int64)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := csv.NewReader(f).ReadAll()
	if err != nil || len(all) == 0 {
		return fmt.Errorf("%s: %w", path, err)
	}
	for line, row := range all[1:] {
		values := make([]int64, len(columns))
		for i, c := range columns {
			at := slices.Index(all[0], c)
			if at < 0 {
				return fmt.Errorf("%s: no column %s", path, c)
			}
			if row[at] == "" {
				continue // a task without GPU
			}
			if values[i], err = strconv.ParseInt(row[at], 10, 64); err != nil || values[i] < 0 {
				return fmt.Errorf("%s:%d: %s: %q", path, line+2, c, row[at])
			}
		}
		yield(values)
	}
	return nil
}
