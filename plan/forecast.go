package plan

import (
	"fmt"
	"slices"

	"bulkhead"
)

// Forecast answers a question about a farm that is another than it is.
func Forecast(policy bulkhead.Policy, nodes []bulkhead.Node, stamps []*bulkhead.Stamp, what bulkhead.WhatIf) (bulkhead.Forecast, error) {
	if what.Stamps < 0 || what.Machines < 0 || what.Stamps > bulkhead.MostRoom || what.Machines > mostMachines || !(what.Price >= 0) {
		return bulkhead.Forecast{}, bulkhead.Errorf(bulkhead.ErrInvalid, "%d stamps and %d machines at %v more: give 0 to %d stamps, 0 to %d machines and a price of 0 or more",
			what.Stamps, what.Machines, what.Price, bulkhead.MostRoom, mostMachines)
	}
	for _, name := range what.Lost {
		if !slices.ContainsFunc(nodes, func(n bulkhead.Node) bool { return n.Name == name }) {
			return bulkhead.Forecast{}, noNode(name)
		}
	}
	machine, err := machineLike(what, nodes)
	if err != nil {
		return bulkhead.Forecast{}, err
	}
	fresh := func() *Farm {
		f := NewFarm(policy)
		for _, n := range nodes {
			f.SetNode(n)
		}
		for _, s := range stamps {
			f.SetStamp(s, true)
		}
		return f
	}
	now := fresh()
	like, err := now.like(what.Like, stamps)
	if err != nil {
		return bulkhead.Forecast{}, err
	}
	out := fresh().after(what, machine, like)
	out.Proposed = append([]bulkhead.Move{}, now.Rebalance()...)
	out.RoomNow = now.roomFor(like)
	if what.Machines > 0 {
		none := what
		none.Machines = 0
		without := fresh().after(none, machine, like)
		if out.Gain = out.Room + total(out.New) - without.Room - total(without.New); out.Gain > 0 {
			out.StampPrice = what.Price * float64(what.Machines) / float64(out.Gain)
		}
	}
	r := now.request(&like)
	out.Like = bulkhead.Resources{CPU: float64(r.amounts[cpu]) / unit, Memory: r.amounts[memory], Disk: r.amounts[disk], PIDs: r.amounts[pids]}
	return out, nil
}

// mostMachines bounds what one question may add.
const mostMachines = 10_000

func noNode(name bulkhead.NodeName) error {
	return bulkhead.Errorf(bulkhead.ErrNotFound, "node %s does not exist", name).WithHint("bulkhead node list")
}

func total(counts map[bulkhead.NodeName]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// after makes what is asked about happen to the farm, and says what follows.
func (f *Farm) after(what bulkhead.WhatIf, machine bulkhead.Node, like bulkhead.Stamp) bulkhead.Forecast {
	out := bulkhead.Forecast{Moves: []bulkhead.Move{}, New: map[bulkhead.NodeName]int{}, Refused: map[string]int{}}
	var homeless []*bulkhead.Stamp
	for _, name := range what.Lost {
		for _, t := range f.onNode[name] {
			if !t.data && t.stamp.Node == name { // what was to come to it stays where it is
				homeless = append(homeless, t.stamp)
			}
		}
		f.RemoveNode(name)
	}
	for _, s := range homeless {
		f.RemoveStamp(s.Name)
	}
	for i := range what.Machines {
		machine.Name = bulkhead.NodeName(fmt.Sprintf("new %d", i+1)) // the name of no real one
		f.SetNode(machine)
	}
	for queue, s := f.Queue(homeless), (*bulkhead.Stamp)(nil); ; {
		if s = queue.Next(); s == nil {
			break
		}
		m := bulkhead.Move{Stamp: s.Name, From: s.Node, Data: len(s.Volumes) > 0, Must: true}
		m.To, m.Reason = f.put(*s)
		out.Moves = append(out.Moves, m)
	}
	for i := range what.Stamps {
		like.Name = bulkhead.StampName(fmt.Sprintf("new %d", i+1))
		if node, reason := f.put(like); node != "" {
			out.New[node]++
		} else {
			out.Refused[reason]++
		}
	}
	out.Room = f.roomFor(like)
	return out
}

// put places a stamp and tells the farm, or says why it cannot.
func (f *Farm) put(s bulkhead.Stamp) (bulkhead.NodeName, string) {
	d, err := f.Place(&s)
	switch {
	case err != nil:
		return "", err.Error()
	case len(d.Evict) > 0:
		return "", d.Reason
	}
	s.Node, s.Units = d.Node, d.Units
	f.SetStamp(&s, false)
	return d.Node, d.Reason
}

// like is a stamp like the named one that is not placed yet, or like most.
func (f *Farm) like(name bulkhead.StampName, stamps []*bulkhead.Stamp) (bulkhead.Stamp, error) {
	if name != "" {
		i := slices.IndexFunc(stamps, func(s *bulkhead.Stamp) bool { return s.Name == name })
		if i < 0 {
			return bulkhead.Stamp{}, bulkhead.Errorf(bulkhead.ErrNotFound, "stamp %s does not exist", name).WithHint("bulkhead stamp list")
		}
		like := *stamps[i]
		like.Desired, like.Node, like.Units, like.Preempted = bulkhead.DesiredRunning, "", nil, ""
		return like, nil
	}
	like := bulkhead.Stamp{Product: "usual", Desired: bulkhead.DesiredRunning}
	b := bulkhead.DefaultBudget()
	f.sizes.changes = f.sizes.total + 1 // whatever has changed, now
	if f.learn(); len(f.sizes.usual) > 0 {
		u := f.sizes.usual[0]
		b = bulkhead.Budget{CPURequest: float64(u.amounts[cpu]) / unit, MemoryRequest: u.amounts[memory], PIDs: u.amounts[pids] * pidsPerRequest}
		like.Terms.Disk = u.amounts[disk]
		for i := range u.extras {
			e := &u.extras[i]
			if like.Terms.Extras == nil {
				like.Terms.Extras = map[string]float64{}
			}
			like.Terms.Extras[f.kinds[e.kind]] = float64(e.milli()) / unit
		}
	}
	like.Services = []bulkhead.Service{{Name: "usual", Replicas: 1, Budget: b}}
	return like, nil
}

// machineLike is a new node like the one that is asked for, or like the largest.
func machineLike(what bulkhead.WhatIf, nodes []bulkhead.Node) (machine bulkhead.Node, err error) {
	if what.Machines == 0 {
		return machine, nil
	}
	for _, n := range nodes {
		if what.MachineLike == n.Name || what.MachineLike == "" && n.Capacity.Memory > machine.Capacity.Memory {
			machine = n
		}
	}
	switch {
	case machine.Name == "" && what.MachineLike != "":
		return machine, noNode(what.MachineLike)
	case machine.Name == "":
		return machine, bulkhead.Errorf(bulkhead.ErrConflict, "there is no node yet that a new machine could be like")
	}
	machine.State = bulkhead.NodeReady
	return machine, nil
}

// roomFor is how many stamps like one find a place, at most MostRoom. It changes
// nothing that can be seen.
func (f *Farm) roomFor(like bulkhead.Stamp) int {
	var placed []bulkhead.StampName
	for len(placed) < bulkhead.MostRoom {
		like.Name = bulkhead.StampName(fmt.Sprintf("room %d", len(placed)+1))
		if node, _ := f.put(like); node == "" {
			break
		}
		placed = append(placed, like.Name)
	}
	for _, name := range placed {
		f.RemoveStamp(name)
	}
	return len(placed)
}
