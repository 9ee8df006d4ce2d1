package plan

import (
	"cmp"
	"net/netip"
	"slices"

	"bulkhead"
)

// Local is what a node knows of one of its stamps.
type Local struct {
	Stamp bulkhead.Stamp
	Tasks []bulkhead.Task
	Phase bulkhead.Phase
	// Message says why the phase is not running; for operators.
	Message string
	// Left: the stamp went to another node, and what is left of it here is cleared away.
	Left bool
}

// Routes is the table of a node's gateway, sorted by host and path. For the node's
// own stamps it has one entry per host and path, with the healthy tasks behind it;
// for those of other nodes one per host, which leads to the gateway there. Of two
// nodes that claim a stamp the one with the newer epoch has it: a node that comes
// back with an older one serves nothing of it.
func Routes(stamps []Local, places []bulkhead.Place) []bulkhead.Route {
	var routes []bulkhead.Route
	own := map[bulkhead.StampName]bool{}
	elsewhere := map[bulkhead.StampName]bulkhead.Place{}
	for _, p := range places {
		elsewhere[p.Name] = p
	}
	for _, l := range stamps {
		if l.Left {
			if p, ok := elsewhere[l.Stamp.Name]; l.Stamp.Transfer != nil && (!ok || p.UID == l.Stamp.UID && p.Epoch <= l.Stamp.Epoch) {
				own[l.Stamp.Name] = true
				routes = append(routes, placeRoutes(bulkhead.Place{StampRef: bulkhead.StampRef{
					Name: l.Stamp.Name, UID: l.Stamp.UID, Epoch: l.Stamp.Epoch,
				}, Node: l.Stamp.Transfer.To, Hosts: l.Stamp.Addressed()})...)
			}
			continue
		}
		if p, ok := elsewhere[l.Stamp.Name]; ok && (p.UID != l.Stamp.UID || p.Epoch > l.Stamp.Epoch) {
			continue
		}
		own[l.Stamp.Name] = true
		routes = append(routes, stampRoutes(l)...)
	}
	for _, p := range places {
		if own[p.Name] {
			continue
		}
		routes = append(routes, placeRoutes(p)...)
	}
	slices.SortFunc(routes, func(a, b bulkhead.Route) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path))
	})
	return routes
}

func placeRoutes(p bulkhead.Place) []bulkhead.Route {
	var routes []bulkhead.Route
	for _, host := range p.Hosts {
		routes = append(routes, bulkhead.Route{Host: host, Stamp: p.Name, UID: p.UID, Epoch: p.Epoch, Node: p.Node})
	}
	return routes
}

func stampRoutes(l Local) []bulkhead.Route {
	if l.Stamp.Desired == bulkhead.DesiredDeleted {
		return nil
	}
	var routes []bulkhead.Route
	for _, host := range l.Stamp.Hosts[:min(1, len(l.Stamp.Hosts))] {
		for _, rule := range l.Stamp.Routes {
			r := bulkhead.Route{
				Host: host, Path: rule.Path, Stamp: l.Stamp.Name, UID: l.Stamp.UID, Epoch: l.Stamp.Epoch, Service: rule.Service,
			}
			if rule.Prefix != "" {
				r.Host = bulkhead.Host(rule.Prefix + "." + string(host))
			}
			switch {
			case l.Stamp.Desired == bulkhead.DesiredStopped:
				r.Down = "the stamp is stopped"
			default:
				r.Backends = backends(l.Tasks, rule)
				if len(r.Backends) == 0 && l.Phase == bulkhead.PhaseFailed {
					r.Down = cmp.Or(l.Message, "the stamp has failed")
				}
			}
			routes = append(routes, r)
		}
	}
	return routes
}

func backends(tasks []bulkhead.Task, rule bulkhead.RouteRule) []netip.AddrPort {
	var out []netip.AddrPort
	for _, t := range tasks {
		if t.Service == rule.Service && t.Healthy() && t.Address.IsValid() {
			out = append(out, netip.AddrPortFrom(t.Address, uint16(rule.Port)))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}
