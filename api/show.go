package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"bulkhead"
	"bulkhead/store"
)

// show is what users see of a stamp: what they asked for and what its node says.
func (s *Server) show(view *store.Snapshot, st bulkhead.Stamp, tasks bool) Stamp {
	out := Stamp{
		Name: st.Name, UID: st.UID, Product: st.Product, Release: st.Version, Digest: st.Release,
		Modules: emptyNotNil(st.Modules), Settings: st.Settings, Secrets: emptyNotNil(slices.Sorted(maps.Keys(st.SecretVersions))),
		Labels: st.Labels, Desired: st.Desired, Generation: st.Generation, Node: st.Node, Placement: st.Placement, Terms: st.Terms,
		Hosts: emptyNotNil(st.Hosts), Created: st.Created, Updated: st.Updated, Deleted: st.Deleted,
		Move:     showMove(view, &st),
		Services: []StampService{}, Volumes: []bulkhead.VolumeName{}, Routes: emptyNotNil(st.Routes),
	}
	if out.Settings == nil {
		out.Settings = map[string]json.RawMessage{}
	}
	if len(st.Hosts) > 0 {
		out.URL = s.c.URL(st.Hosts[0])
	}
	if st.Deleted != nil && !st.Purge {
		until := st.Deleted.Add(bulkhead.KeepDeleted)
		out.KeptUntil = &until
	}
	for _, v := range st.Volumes {
		out.Volumes = append(out.Volumes, v.Name)
	}
	status, ok := view.Statuses.Get(st.Name)
	if !ok || status.UID != st.UID || status.Epoch != st.Epoch || status.Node != st.Node {
		status = bulkhead.StampStatus{}
	}
	out.Observed, out.Phase, out.Message = phase(view, st, status)
	if status.Generation == st.Generation {
		out.Ready = status.Ready
	}
	for _, service := range st.Services {
		out.Services = append(out.Services, showService(service, status.Tasks, st.Desired))
	}
	if tasks {
		out.Tasks = emptyNotNil(status.Tasks)
	}
	return out
}

func emptyNotNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// phase sums a stamp up. Its node's word counts as soon as it is about what is
// wanted now.
func phase(view *store.Snapshot, st bulkhead.Stamp, status bulkhead.StampStatus) (observed int64, p bulkhead.Phase, message string) {
	observed, message = status.Generation, status.Message
	if why, ok := preempted(&st); ok {
		return observed, bulkhead.PhasePending, why
	}
	if m := st.Transfer; m != nil && st.Desired == bulkhead.DesiredRunning && (st.Switching() || m.Phase == bulkhead.TransferStarting && status.Phase != bulkhead.PhaseFailed) {
		return observed, bulkhead.PhaseStarting, fmt.Sprintf("it moves from %s to %s", m.From, m.To)
	}
	switch {
	case status.UID != "" && status.Generation >= st.Generation:
		p = status.Phase
	case st.Node == "" && st.Desired == bulkhead.DesiredRunning:
		return 0, bulkhead.PhasePending, st.Placement
	case st.Node == "" && st.Desired == bulkhead.DesiredStopped: // no node: nothing runs
		return st.Generation, bulkhead.PhaseStopped, ""
	case st.Node == "" && !st.Purge:
		return st.Generation, bulkhead.PhaseDeleted, ""
	case status.UID == "" && st.Desired == bulkhead.DesiredRunning:
		p = bulkhead.PhasePending
	case st.Desired == bulkhead.DesiredRunning:
		p = bulkhead.PhaseStarting
	case st.Desired == bulkhead.DesiredStopped:
		p = bulkhead.PhaseStopping
	default:
		p = bulkhead.PhaseDeleting
	}
	if st.Purge && p == bulkhead.PhaseDeleted {
		p = bulkhead.PhaseDeleting // its name is free when its record is gone too
	}
	if node, ok := view.Nodes.Get(st.Node); ok && node.State != bulkhead.NodeReady {
		message = "node " + string(st.Node) + " does not answer; this is what it said last"
	}
	return observed, p, message
}

// showService sums up the tasks of one service.
func showService(s bulkhead.Service, tasks []bulkhead.Task, desired bulkhead.Desired) StampService {
	out := StampService{Name: s.Name, Image: s.Image.Reference, Digest: s.Image.Digest, Replicas: s.Replicas, State: "pending"}
	living, completed := 0, 0
	restarts := map[int]int{} // by slot
	for _, t := range tasks {
		if t.Service != s.Name {
			continue
		}
		restarts[t.Slot] = max(restarts[t.Slot], t.Restarts)
		switch {
		case t.Healthy():
			out.Up++
			living++
		case t.State == bulkhead.TaskComplete && s.Restart.Policy != bulkhead.RestartAlways:
			out.Up++
			completed++
		case t.State == bulkhead.TaskStopping:
			living++
			out.State, out.Message = "stopping", t.Message
		case !t.State.Ended():
			living++
			out.State = "starting"
			if t.Health == bulkhead.HealthUnhealthy {
				out.State = "down"
			}
			out.Message = t.Message
		case t.State == bulkhead.TaskRejected:
			out.State, out.Message = "failed", t.Message
		default:
			if out.State != "failed" {
				out.State = "down"
			}
			out.Message = t.Message
		}
	}
	for _, n := range restarts {
		out.Restarts += n
	}
	out.Up = min(out.Up, s.Replicas)
	switch {
	case desired != bulkhead.DesiredRunning && living > 0:
		out.State, out.Message = "stopping", ""
	case desired != bulkhead.DesiredRunning:
		out.State, out.Message, out.Up = "stopped", "", 0
	case out.Up >= s.Replicas && completed > 0 && living == 0:
		out.State, out.Message = "completed", ""
	case out.Up >= s.Replicas:
		out.State, out.Message = "up", ""
	}
	return out
}
