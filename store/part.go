package store

import (
	"encoding/json"

	"bulkhead"
)

// parts are the parts of stamps that are alike in many of them: those of one release
// with the same settings. They are decoded once and shared, which is most of the time
// and of the memory that a stamp costs. Stamps of snapshots are never changed, so
// nobody notices.
type parts struct {
	services part[bulkhead.Service]
	volumes  part[bulkhead.Volume]
	routes   part[bulkhead.RouteRule]
}

// decode makes a stamp from its JSON.
func (p *parts) decode(b []byte, s *bulkhead.Stamp) error {
	form := struct { // what stands beside the stamp goes before what is in it
		*bulkhead.Stamp
		Services *part[bulkhead.Service]   `json:"services"`
		Volumes  *part[bulkhead.Volume]    `json:"volumes"`
		Routes   *part[bulkhead.RouteRule] `json:"routes"`
	}{s, &p.services, &p.volumes, &p.routes}
	p.services.last, p.volumes.last, p.routes.last = nil, nil, nil
	if err := json.Unmarshal(b, &form); err != nil {
		return err
	}
	s.Services, s.Volumes, s.Routes = p.services.last, p.volumes.last, p.routes.last
	return nil
}

// part decodes one kind of parts.
type part[T any] struct {
	last []T // what was decoded last
	// known are parts by their JSON. When there are mostParts, those that were not used
	// since the last time are dropped.
	known, former map[string][]T
}

// mostParts is how many different parts of a kind are remembered, and as many again.
const mostParts = 1000

// UnmarshalJSON is called by encoding/json.
func (p *part[T]) UnmarshalJSON(b []byte) error {
	var ok bool
	if p.last, ok = p.known[string(b)]; ok {
		return nil
	}
	if p.last, ok = p.former[string(b)]; !ok {
		p.last = nil
		if err := json.Unmarshal(b, &p.last); err != nil {
			return err
		}
	}
	if len(p.known) >= mostParts {
		p.known, p.former = nil, p.known
	}
	if p.known == nil {
		p.known = map[string][]T{}
	}
	p.known[string(b)] = p.last
	return nil
}
