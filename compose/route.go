package compose

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"bulkhead"

	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"
)

// otherProtocols are ports at which something else than HTTP answers. They get
// no route of their own accord: the gateway speaks HTTP.
var otherProtocols = map[int]string{
	21: "FTP", 22: "SSH", 25: "SMTP", 53: "DNS", 110: "POP3", 143: "IMAP", 389: "LDAP", 465: "SMTP", 587: "SMTP", 636: "LDAP", 993: "IMAP", 995: "POP3",
	1433: "SQL Server", 1521: "Oracle", 1883: "MQTT", 2181: "ZooKeeper", 3306: "MySQL", 33060: "MySQL", 5432: "PostgreSQL", 5672: "AMQP", 6379: "Redis",
	9042: "Cassandra", 9092: "Kafka", 11211: "memcached", 27017: "MongoDB",
}

var (
	prefixPattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	routePathPattern = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*$`)
)

// routes reads x-bulkhead.routes, or makes routes of the published ports.
func (o *opening) routes(main *source, loaded *types.Project) {
	where := main.at(main.root)
	if n := get(get(main.root, "x-bulkhead"), "routes"); n != nil && n.Tag != "!!null" {
		where = main.at(n)
		o.routeRules(main, n, loaded)
	} else {
		o.publishedRoutes(loaded)
	}
	slices.SortStableFunc(o.Routes, func(a, b bulkhead.RouteRule) int {
		return cmp.Or(strings.Compare(a.Prefix, b.Prefix), strings.Compare(a.Path, b.Path))
	})
	for i, r := range o.Routes[:max(len(o.Routes)-1, 0)] {
		if next := o.Routes[i+1]; r.Prefix == next.Prefix && r.Path == next.Path {
			o.fault(where, "x-bulkhead.routes: %s and %s both answer to host %q, path %s; give one another host or path", r.Service, next.Service, r.Prefix, r.Path)
		}
	}
}

func (o *opening) routeRules(main *source, n *yaml.Node, loaded *types.Project) {
	if n.Kind != yaml.SequenceNode {
		o.fault(main.at(n), "x-bulkhead.routes: a list of routes, each with service and port")
		return
	}
	for i, item := range n.Content {
		place := fmt.Sprintf("x-bulkhead.routes[%d]", i)
		keys := o.object(main, item, place, "host", "path", "service", "port")
		if keys == nil {
			continue
		}
		where := main.at(target(item))
		rule := bulkhead.RouteRule{
			Prefix:  strings.ToLower(o.text(main, keys["host"], place+".host")),
			Path:    cmp.Or(o.text(main, keys["path"], place+".path"), "/"),
			Service: bulkhead.ServiceName(o.text(main, keys["service"], place+".service")),
		}
		if rule.Path != "/" {
			rule.Path = strings.TrimSuffix(rule.Path, "/")
		}
		service, ok := loaded.Services[string(rule.Service)]
		switch {
		case rule.Prefix != "" && !prefixPattern.MatchString(rule.Prefix):
			o.fault(where, "%s.host: %q is put before the stamp's host; give one label of a-z, 0-9 and hyphens", place, rule.Prefix)
		case !routePathPattern.MatchString(rule.Path) || strings.Contains(rule.Path, "//") || slices.Contains(strings.Split(rule.Path, "/"), ".."):
			o.fault(where, "%s.path: %q is no path; begin it with /", place, rule.Path)
		case rule.Service == "":
			o.fault(where, "%s.service: missing; name the service that answers", place)
		case !ok:
			o.fault(where, "%s.service: no service %q; there are %s", place, rule.Service, strings.Join(sortedKeys(loaded.Services), ", "))
		case keys["port"] == nil:
			if ports := tcpPorts(service); len(ports) == 1 {
				rule.Port = ports[0]
			} else {
				o.fault(where, "%s.port: missing; %s has %d ports, name one", place, rule.Service, len(ports))
			}
		default:
			port, err := strconv.Atoi(keys["port"].Value)
			if err != nil || port < 1 || port > 65535 {
				o.fault(main.at(keys["port"]), "%s.port: %q is no port from 1 to 65535", place, keys["port"].Value)
			}
			rule.Port = port
		}
		o.Routes = append(o.Routes, rule)
	}
}

// publishedRoutes gives the first published port the stamp's own host, and every
// other one a host of its own. First is what is published as 80, where browsers
// look; then the order of the file counts.
func (o *opening) publishedRoutes(loaded *types.Project) {
	var main *bulkhead.RouteRule
	atBrowserPort := false
	for _, key := range o.inFileOrder(loaded) {
		seen := map[uint32]bool{}
		for i, port := range loaded.Services[key].Ports {
			place := fmt.Sprintf("services.%s.ports.%d", key, i)
			where := o.where(place, strconv.Itoa(int(port.Target)))
			if port.Protocol != "tcp" {
				o.warn(where, "services.%s.ports: %d/%s is reachable inside the stamp only: the gateway speaks HTTP", key, port.Target, port.Protocol)
				continue
			}
			if name := otherProtocols[int(port.Target)]; name != "" {
				o.warn(where, "services.%s.ports: %d (%s) is reachable inside the stamp only: the gateway speaks HTTP", key, port.Target, name)
				continue
			}
			if seen[port.Target] {
				continue
			}
			rule := bulkhead.RouteRule{Prefix: bulkhead.ServiceName(key).Label(), Path: "/", Service: bulkhead.ServiceName(key), Port: int(port.Target)}
			if len(seen) > 0 {
				rule.Prefix += "-" + strconv.Itoa(rule.Port)
			}
			seen[port.Target] = true
			o.Routes = append(o.Routes, rule)
			if main == nil || port.Published == "80" && !atBrowserPort {
				main = &rule
				atBrowserPort = port.Published == "80"
			}
		}
	}
	for i := range o.Routes {
		if o.Routes[i] == *main {
			o.Routes[i].Prefix = ""
		}
	}
}

// inFileOrder lists the services as they stand in the files.
func (o *opening) inFileOrder(loaded *types.Project) []string {
	var names []string
	for _, s := range o.sources {
		if services := get(s.root, "services"); services != nil {
			for _, e := range entries(services) {
				if _, ok := loaded.Services[e.key.Value]; ok && !slices.Contains(names, e.key.Value) {
					names = append(names, e.key.Value)
				}
			}
		}
	}
	return names
}

// tcpPorts are the TCP ports that a service publishes or exposes, in order.
func tcpPorts(s types.ServiceConfig) []int {
	var ports []int
	for _, port := range s.Ports {
		if port.Protocol == "tcp" || port.Protocol == "" {
			ports = append(ports, int(port.Target))
		}
	}
	for _, exposed := range s.Expose {
		numbers, protocol, _ := strings.Cut(exposed, "/")
		if protocol != "" && protocol != "tcp" {
			continue
		}
		first, last, ranged := strings.Cut(numbers, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		for port := from; err1 == nil && err2 == nil && port <= to; port++ {
			ports = append(ports, int(port))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}
