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
}

// Routes is the gateway's table for the stamps of a node: one entry per host and
// path, with the healthy tasks behind it, sorted by host and path.
func Routes(stamps []Local) []bulkhead.Route {
	var routes []bulkhead.Route
	for _, l := range stamps {
		routes = append(routes, stampRoutes(l)...)
	}
	slices.SortFunc(routes, func(a, b bulkhead.Route) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Path, b.Path))
	})
	return routes
}

func stampRoutes(l Local) []bulkhead.Route {
	if l.Stamp.Desired == bulkhead.DesiredDeleted {
		return nil
	}
	var routes []bulkhead.Route
	for _, host := range l.Stamp.Hosts[:min(1, len(l.Stamp.Hosts))] {
		for _, rule := range l.Stamp.Routes {
			r := bulkhead.Route{Host: host, Path: rule.Path, Stamp: l.Stamp.Name, Service: rule.Service}
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
