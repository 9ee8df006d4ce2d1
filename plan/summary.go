package plan

import (
	"fmt"
	"strings"

	"bulkhead"
)

// summary sets Phase and Message: the worst thing that is true of the stamp, in
// one line.
func (p *planner) summary() {
	if p.stamp.Desired != bulkhead.DesiredRunning {
		p.next.Phase = bulkhead.PhaseStopped
		for _, t := range p.tasks {
			if !t.State.Ended() {
				p.next.Phase = bulkhead.PhaseStopping
			}
		}
		return
	}
	var failed, down, waiting []string
	for _, s := range p.stamp.Services {
		up := 0
		var why string
		rejected := false
		for slot := 1; slot <= s.Replicas; slot++ {
			ok, bad, msg := p.slotUp(s, slot)
			if ok {
				up++
				continue
			}
			if msg != "" {
				why = msg
			}
			rejected = rejected || bad
		}
		switch {
		case up == s.Replicas:
		case rejected:
			failed = append(failed, fmt.Sprintf("%s: %s", s.Name, why))
		case why != "":
			down = append(down, fmt.Sprintf("%s: %s", s.Name, why))
		default:
			w := string(s.Name)
			if b := p.blocked[s.Name]; b != "" {
				w += " " + b
			}
			waiting = append(waiting, w)
		}
	}
	switch {
	case len(failed) > 0:
		p.next.Phase, p.next.Message = bulkhead.PhaseFailed, strings.Join(failed, "; ")
	case len(down) > 0:
		p.next.Phase, p.next.Message = bulkhead.PhaseDegraded, strings.Join(down, "; ")
	case len(waiting) > 0:
		p.next.Phase, p.next.Message = bulkhead.PhaseStarting, "starting: "+strings.Join(waiting, ", ")
	default:
		p.next.Phase = bulkhead.PhaseRunning
	}
}

// slotUp tells whether a slot does what it should: its task is healthy, or has
// completed what it had to do. Else final tells that it never will as it is, and
// why, where known, says what happened.
func (p *planner) slotUp(s bulkhead.Service, slot int) (ok, final bool, why string) {
	hash := p.hashes[s.Name]
	var old []bulkhead.Task
	for _, t := range p.slots[slotKey{s.Name, slot}] {
		if t.Hash != hash {
			old = append(old, t)
		}
	}
	for _, t := range p.slots[slotKey{s.Name, slot}] {
		if t.Hash != hash {
			continue
		}
		switch {
		case p.proven(t, old):
			return true, false, ""
		case t.Healthy() && t.Streak > 0:
			why = "restarted after a crash"
		case t.State == bulkhead.TaskComplete && s.Restart.Policy != bulkhead.RestartAlways:
			return true, false, ""
		case t.State == bulkhead.TaskRejected:
			final, why = true, t.Message
		case t.State == bulkhead.TaskFailed:
			why = t.Message
			create, at, _ := p.again(s, &t, &t)
			final = !create && at.IsZero()
		case t.State == bulkhead.TaskRunning && t.Health == bulkhead.HealthUnhealthy:
			final, why = false, t.Message
		}
	}
	return false, final, why
}
