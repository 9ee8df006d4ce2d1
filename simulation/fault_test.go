package simulation

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"bulkhead"
)

// fault is something that goes wrong for a while. begin returns what ends it.
type fault struct {
	kind  string
	often int // of all faults
	begin func(s *scheduler, lasts time.Duration) (what string, end func())
}

// lasting is for how long faults last: most for moments, some for longer than anybody
// waits for anything.
func lasting(dice *rand.Rand) time.Duration {
	d := []time.Duration{time.Second, 5 * time.Second, 9 * time.Second, 12 * time.Second, 30 * time.Second, 60 * time.Second, 100 * time.Second, 150 * time.Second}[dice.IntN(8)]
	return d + time.Duration(dice.Int64N(int64(d)))
}

func (s *scheduler) server() *server { return s.farm.servers[s.dice.IntN(serverCount)] }
func (s *scheduler) node() *node     { return s.farm.nodes[s.dice.IntN(nodeCount)] }

// ways are the directions of a cut between two places: both, or one.
func (s *scheduler) ways(a, b place) (text string, ways []way) {
	switch s.dice.IntN(4) {
	case 0:
		return fmt.Sprintf("%s does not hear %s", b, a), []way{{a, b}}
	case 1:
		return fmt.Sprintf("%s does not hear %s", a, b), []way{{b, a}}
	}
	return fmt.Sprintf("%s and %s are cut off", a, b), []way{{a, b}, {b, a}}
}

func (s *scheduler) cut(ways []way) (end func()) {
	s.farm.net.cut(true, ways...)
	return func() { s.farm.net.cut(false, ways...) }
}

func (s *scheduler) fromServers(nodes []*node) (ways []way) {
	for _, n := range nodes {
		for _, server := range s.farm.servers {
			ways = append(ways, way{place(n.name), place(server.name)}, way{place(server.name), place(n.name)})
		}
	}
	return ways
}

var faults = []fault{
	{"server crash", 10, func(s *scheduler, _ time.Duration) (string, func()) {
		server := s.server()
		server.crash()
		return string(server.name), server.start
	}},
	{"all servers down", 2, func(s *scheduler, _ time.Duration) (string, func()) {
		for _, server := range s.farm.servers {
			server.crash()
		}
		return "all", func() {
			for _, server := range s.farm.servers {
				server.start()
			}
		}
	}},
	{"server pause", 8, func(s *scheduler, _ time.Duration) (string, func()) {
		p := place(s.server().name)
		s.farm.net.freeze(true, p)
		return string(p), func() { s.farm.net.freeze(false, p) }
	}},
	{"server without majority", 8, func(s *scheduler, _ time.Duration) (string, func()) {
		text, ways := s.ways(place(s.server().name), state)
		return text, s.cut(ways)
	}},
	{"no majority", 1, func(s *scheduler, _ time.Duration) (string, func()) {
		var ways []way
		for _, server := range s.farm.servers {
			ways = append(ways, way{place(server.name), state}, way{state, place(server.name)})
		}
		return "all", s.cut(ways)
	}},
	{"slow state", 3, func(s *scheduler, _ time.Duration) (string, func()) {
		s.farm.net.change(func() { s.farm.net.slow[state]++ })
		return "all", func() { s.farm.net.change(func() { s.farm.net.slow[state]-- }) }
	}},
	{"slow network", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		p := place(s.node().name)
		s.farm.net.change(func() { s.farm.net.slow[p]++ })
		return string(p), func() { s.farm.net.change(func() { s.farm.net.slow[p]-- }) }
	}},
	{"clock jump", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		server := s.server()
		by := time.Duration(s.dice.Int64N(int64(10*time.Minute))) - 5*time.Minute
		server.clock.Add(int64(by))
		return fmt.Sprintf("%s by %s", server.name, by), func() { server.clock.Add(int64(-by)) }
	}},
	{"node without a server", 12, func(s *scheduler, _ time.Duration) (string, func()) {
		text, ways := s.ways(place(s.node().name), place(s.server().name))
		return text, s.cut(ways)
	}},
	{"node without servers", 12, func(s *scheduler, _ time.Duration) (string, func()) {
		n := s.node()
		return string(n.name), s.cut(s.fromServers([]*node{n}))
	}},
	{"mass silence", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		some := slices.Clone(s.farm.nodes)
		s.dice.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		some = some[:3+s.dice.IntN(8)]
		return fmt.Sprint(len(some), " nodes"), s.cut(s.fromServers(some))
	}},
	{"nodes apart", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		a, b := s.node(), s.node()
		text, ways := s.ways(place(a.name), place(b.name))
		return text, s.cut(ways)
	}},
	{"agent crash", 14, func(s *scheduler, _ time.Duration) (string, func()) {
		n := s.node()
		n.crash()
		return string(n.name), n.start
	}},
	{"agent pause", 8, func(s *scheduler, _ time.Duration) (string, func()) {
		p := place(s.node().name)
		s.farm.net.freeze(true, p)
		return string(p), func() { s.farm.net.freeze(false, p) }
	}},
	{"reboot", 6, func(s *scheduler, _ time.Duration) (string, func()) {
		n := s.node()
		n.reboot()
		return string(n.name), n.start
	}},
	{"engine away", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		m := s.node().machine
		m.leave(true)
		return string(m.node), func() { m.leave(false) }
	}},
	{"slow disk", 4, func(s *scheduler, _ time.Duration) (string, func()) {
		m := s.node().machine
		m.change(func() { m.slow++ })
		return string(m.node), func() { m.change(func() { m.slow-- }) }
	}},
	{"task ends", 10, func(s *scheduler, _ time.Duration) (string, func()) {
		m, i := s.node().machine, s.dice.IntN(8)
		m.kill(i)
		return fmt.Sprintf("%d on %s", i, m.node), func() {}
	}},
	{"task unwell", 3, func(s *scheduler, _ time.Duration) (string, func()) {
		m, u := s.node().machine, s.tenants[s.dice.IntN(len(s.tenants))]
		name := bulkhead.StampName(u.name)
		m.change(func() { m.sick[name]++ })
		return fmt.Sprintf("those of %s on %s", name, m.node), func() { m.change(func() { m.sick[name]-- }) }
	}},
	{"tasks write", 20, func(s *scheduler, _ time.Duration) (string, func()) {
		for _, n := range s.farm.nodes {
			n.machine.change(func() {
				for _, id := range slices.Sorted(maps.Keys(n.machine.containers)) {
					n.machine.write(n.machine.containers[id])
				}
			})
		}
		return "all", func() {}
	}},
}

func (m *machine) change(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

// kill lets the i-th task that runs end.
func (m *machine) kill(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		if c := m.containers[id]; c.State == bulkhead.TaskRunning {
			if i == 0 {
				m.endLocked(c, 1)
				return
			}
			i--
		}
	}
}
