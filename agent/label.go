package agent

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead"
)

// Labels of a container: all that a later life of the agent needs to adopt it.
const (
	labelStamp    = "bulkhead.stamp"
	labelUID      = "bulkhead.uid"
	labelEpoch    = "bulkhead.epoch"
	labelService  = "bulkhead.service"
	labelSlot     = "bulkhead.slot"
	labelHash     = "bulkhead.hash"
	labelRestarts = "bulkhead.restarts"
	labelStreak   = "bulkhead.streak"
	labelCreated  = "bulkhead.created"
	labelCare     = "bulkhead.care"
)

// care is what looking after a running task needs of the service that it was
// made from, which may be older than the one in the assignment.
type care struct {
	Signal string           `json:"signal"`
	Grace  time.Duration    `json:"grace"`
	Memory int64            `json:"memory"`
	Health *bulkhead.Health `json:"health,omitempty"`
}

func careOf(s bulkhead.Service) care {
	c := care{Signal: s.StopSign, Grace: s.StopGrace, Memory: s.Budget.Memory, Health: s.Health}
	if c.Signal == "" {
		c.Signal = "SIGTERM"
	}
	return c
}

// probed tells whether the task has a probe.
func (c care) probed() bool {
	return c.Health != nil && len(c.Health.Test) > 0 && c.Health.Test[0] != "NONE"
}

func labels(stamp bulkhead.StampRef, t bulkhead.Task, c care) map[string]string {
	// The probe's command goes in with references in place of secrets: containers'
	// labels are kept on disk and listed by other tools.
	b, err := json.Marshal(c)
	if err != nil || len(b) > 3<<10 {
		b, _ = json.Marshal(care{Signal: c.Signal, Grace: c.Grace, Memory: c.Memory})
	}
	return map[string]string{
		labelStamp: string(stamp.Name), labelUID: stamp.UID, labelEpoch: strconv.FormatInt(stamp.Epoch, 10), labelService: string(t.Service), labelSlot: strconv.Itoa(t.Slot),
		labelHash: t.Hash, labelRestarts: strconv.Itoa(t.Restarts), labelStreak: strconv.Itoa(t.Streak),
		labelCreated: t.Created.UTC().Format(time.RFC3339Nano), labelCare: string(b),
	}
}

// taskOf reads labels back.
func taskOf(o Observed) *task {
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	created, _ := time.Parse(time.RFC3339Nano, o.Labels[labelCreated])
	t := &task{Task: bulkhead.Task{
		ID: o.ID, Stamp: bulkhead.StampName(o.Labels[labelStamp]), Service: bulkhead.ServiceName(o.Labels[labelService]),
		Slot: number(o.Labels[labelSlot]), Hash: o.Labels[labelHash], State: o.State, Created: created,
		Restarts: number(o.Labels[labelRestarts]), Streak: number(o.Labels[labelStreak]),
	}}
	if o.State != bulkhead.TaskPrepared {
		t.Started = created // the saved record knows better, if there is one
	}
	json.Unmarshal([]byte(o.Labels[labelCare]), &t.care)
	if t.care.Signal == "" {
		t.care.Signal = "SIGTERM"
	}
	if t.care.probed() {
		t.Health = bulkhead.HealthStarting
	}
	return t
}

// guess fills in what the labels of its containers tell of a stamp whose assignment
// is lost: which life of it that is, and enough of its services that they find each
// other by name.
func guess(stamp *bulkhead.Stamp, observed []Observed) {
	services := map[bulkhead.ServiceName]bool{}
	for _, o := range observed {
		if epoch, err := strconv.ParseInt(o.Labels[labelEpoch], 10, 64); err == nil && epoch >= stamp.Epoch {
			stamp.UID, stamp.Epoch = o.Labels[labelUID], epoch
		}
		services[bulkhead.ServiceName(o.Labels[labelService])] = true
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		stamp.Services = append(stamp.Services, bulkhead.Service{Name: name, Networks: []bulkhead.Attachment{{Network: "default"}}})
	}
}

func cutTask(id bulkhead.TaskID) (stamp bulkhead.StampName, rest string, ok bool) {
	s, rest, ok := strings.Cut(string(id), ".")
	return bulkhead.StampName(s), rest, ok
}

// namesOf is what the names of a stamp resolve to: every service under its name,
// its aliases and SERVICE.STAMP.internal, with the addresses of healthy tasks. A
// service without a healthy task keeps its names, with no address.
func namesOf(stamp bulkhead.Stamp, tasks []bulkhead.Task) []Name {
	var names []Name
	for _, s := range stamp.Services {
		byName := map[string][]bulkhead.NetworkName{}
		var all []bulkhead.NetworkName
		for _, at := range s.Networks {
			all = append(all, at.Network)
			for _, alias := range at.Aliases {
				byName[strings.ToLower(alias)] = append(byName[strings.ToLower(alias)], at.Network)
			}
		}
		byName[strings.ToLower(string(s.Name))] = all
		byName[strings.ToLower(string(s.Name))+"."+string(stamp.Name)+".internal"] = all
		for name, networks := range byName {
			n := Name{Name: name}
			for _, t := range tasks {
				if t.Service == s.Name && t.Healthy() && t.Address.IsValid() {
					n.Addresses = append(n.Addresses, NameAddress{Address: t.Address, Networks: networks})
				}
			}
			names = append(names, n)
		}
		// Who is not healthy yet is told apart by its networks all the same.
		known := Name{}
		for _, t := range tasks {
			if t.Service == s.Name && t.Address.IsValid() {
				known.Addresses = append(known.Addresses, NameAddress{Address: t.Address, Networks: all})
			}
		}
		names = append(names, known)
	}
	return names
}
