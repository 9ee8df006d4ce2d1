package compose

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestRefusals holds wrong input against the one line that it gets.
func TestRefusals(t *testing.T) {
	web := func(rest string) string { return "services:\n  web:\n    image: nginx\n    " + rest + "\n" }
	deep := strings.Repeat("[", 80) + strings.Repeat("]", 80)
	bomb := "x-a: &a [1,1,1,1,1,1,1,1,1,1]\nx-b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nx-c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n" +
		"x-d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\nx-e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nx-f: [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n" + web("")
	for name, test := range map[string]struct{ file, want string }{
		"empty":                 {"", "compose.yaml:1: the file is empty; it needs services"},
		"no mapping":            {"- a\n", "compose.yaml:1: a Compose file is a mapping with services; this is something else"},
		"no services":           {"name: shop\n", "compose.yaml:1: services: there are none; a product has at least one"},
		"empty services":        {"services: {}\n", "compose.yaml:1: services: there are none; a product has at least one"},
		"syntax":                {"services:\n  web:\n   image: 'x\n", "compose.yaml:4: YAML syntax: found unexpected end of stream"},
		"tab":                   {"services:\n\tweb: {}\n", "compose.yaml:2: YAML syntax: found character that cannot start any token"},
		"two documents":         {web("") + "---\na: b\n", "compose.yaml:5: a second YAML document; keep everything in one"},
		"duplicate key":         {web("user: a\n    user: b"), `compose.yaml:5: the key "user" stands here twice, first in line 4; remove one`},
		"bomb":                  {bomb, "compose.yaml:5: aliases make this file larger than 100000 nodes"},
		"alias of itself":       {"services: &s\n  web: *s\n", "compose.yaml:1: the anchor contains itself"},
		"too deep":              {"x-deep: " + deep + "\n" + web(""), "compose.yaml:1: nested deeper than 64 levels"},
		"too large":             {strings.Repeat("# comment\n", 110_000) + web(""), "compose.yaml is larger than 1024 KiB"},
		"unknown attribute":     {web("comand: x"), "compose.yaml:4: services.web.comand: Compose has no such attribute; is it command?"},
		"unknown at the top":    {"service: {}\n" + web(""), "compose.yaml:1: service: Compose has no such attribute; is it services?"},
		"wrong type":            {web("init: [1]"), "compose.yaml:4: services.web.init: must be a boolean or string"},
		"no image":              {"services:\n  web:\n    user: x\n", `compose.yaml:2: services.web: service "web" has neither an image nor a build context specified`},
		"bad image":             {strings.Replace(web(""), "nginx", "NGINX%", 1), `compose.yaml:3: services.web.image: "NGINX%" is not the name of an image; a variable in it needs a default`},
		"bad product name":      {"name: ___\n" + web(""), `compose.yaml:1: name: "___" gives no product name; write name: with a-z, 0-9 and hyphens`},
		"variable as name":      {"name: ${X}\n" + web(""), "compose.yaml:1: name: a product's name holds no variables; write it out"},
		"privileged":            {web("privileged: true"), "compose.yaml:4: services.web.privileged: it would own the machine and every other stamp on it; remove it"},
		"perhaps privileged":    {web("privileged: ${P:-false}"), "compose.yaml:4: services.web.privileged: it would own the machine and every other stamp on it; remove it"},
		"by an anchor":          {"x-c: &c\n  privileged: true\n" + web("<<: *c"), "compose.yaml:2: services.web.privileged: it would own the machine and every other stamp on it; remove it"},
		"host network":          {web("network_mode: host"), "compose.yaml:4: services.web.network_mode: every stamp has a network of its own, and nothing may join another one; remove it"},
		"host pid":              {web("pid: host"), "compose.yaml:4: services.web.pid: a task sees its own processes only; remove it"},
		"host ipc":              {web("ipc: host"), "compose.yaml:4: services.web.ipc: a task shares no memory with others; remove it"},
		"capability":            {web("cap_add: [CHOWN, SYS_ADMIN]"), "compose.yaml:4: services.web.cap_add: a task gets no more than the default capabilities; remove it"},
		"devices":               {web("devices: ['/dev/kvm:/dev/kvm']"), "compose.yaml:4: services.web.devices: devices of the machine belong to no stamp; remove it"},
		"seccomp":               {web("security_opt: ['seccomp:unconfined']"), "compose.yaml:4: services.web.security_opt: it would loosen the walls around a task; remove it"},
		"container name":        {web("container_name: web"), "compose.yaml:4: services.web.container_name: a fixed name can exist only once on a machine, and every stamp needs its own; remove it, other services reach this one by its service name"},
		"external network":      {web("") + "networks:\n  n:\n    external: true\n", "compose.yaml:7: networks.n.external: stamps share nothing, so there is no network outside of them; remove it"},
		"external volume":       {web("") + "volumes: {v: {external: {name: x}}}\n", "compose.yaml:5: volumes.v.external: stamps share nothing, so there is no volume outside of them; remove it, every stamp gets a volume of its own"},
		"driver opts":           {web("") + "volumes: {v: {driver_opts: {o: bind, device: /}}}\n", "compose.yaml:5: volumes.v.driver_opts: they can mount what lies outside the stamp; remove them"},
		"socket":                {web("volumes: ['/var/run/docker.sock:/x']"), "compose.yaml:4: services.web.volumes: /var/run/docker.sock: the container engine's socket owns the machine and every stamp on it; remove it"},
		"host path":             {web("volumes: ['/etc:/x:ro']"), `compose.yaml:4: services.web.volumes: "/etc" is a path of the machine; use a file of the project folder, by its relative path`},
		"home":                  {web("volumes: ['~/x:/x']"), `compose.yaml:4: services.web.volumes: "~/x" is a path of the machine; use a file of the project folder, by its relative path`},
		"climbing mount":        {web("volumes: ['./a/../../b:/x']"), `compose.yaml:4: services.web.volumes: "../b" climbs out of the project folder; move the file into it`},
		"climbing env file":     {web("env_file: ../secret.env"), `compose.yaml:4: services.web.env_file: "../secret.env" climbs out of the project folder; move the file into it`},
		"climbing config":       {web("") + "configs: {c: {file: ../../etc/passwd}}\n", `compose.yaml:5: configs.c.file: "../../etc/passwd" climbs out of the project folder; move the file into it`},
		"host secret":           {web("") + "secrets: {c: {file: /etc/shadow}}\n", `compose.yaml:5: secrets.c.file: "/etc/shadow" is a path of the machine; use a file of the project folder, by its relative path`},
		"climbing include":      {"include: [../other.yaml]\n" + web(""), `compose.yaml:1: include: "../other.yaml" climbs out of the project folder; move the file into it`},
		"remote include":        {"include: ['https://example.com/c.yaml']\n" + web(""), `compose.yaml:1: include: "https://example.com/c.yaml" is not in the project folder; copy it there`},
		"missing include":       {"include: [gone.yaml]\n" + web(""), `compose.yaml:1: include: "gone.yaml": no such file in the project`},
		"include of itself":     {"include: [compose.yaml]\n" + web(""), "compose.yaml:1: include cycle detected: compose.yaml include compose.yaml"},
		"climbing extends":      {web("extends: {file: ../x.yaml, service: a}"), `compose.yaml:4: extends.file: "../x.yaml" climbs out of the project folder; move the file into it`},
		"missing mount":         {web("volumes:\n      - data:/d\n      - ./gone:/x") + "volumes: {data: {}}\n", `compose.yaml:6: services.web.volumes: "./gone": no such file in the project; for data, use a named volume`},
		"missing env file":      {web("env_file: [gone.env]"), `compose.yaml:4: services.web.env_file: "gone.env": no such file in the project`},
		"link out":              {web("volumes: ['./out:/x:ro']"), `compose.yaml:4: services.web.volumes: "./out": a link leads out of the project folder; copy the file into it`},
		"link in a folder":      {web("volumes: ['./links:/x:ro']"), `compose.yaml:4: services.web.volumes: "./links": a link leads out of the project folder; copy the file into it`},
		"link loop":             {web("volumes: ['./loop:/x:ro']"), `compose.yaml:4: services.web.volumes: "loop/again" links back to a folder that it lies in; remove the link`},
		"undefined volume":      {web("volumes: ['data:/x']"), `compose.yaml:4: services.web: service "web" refers to undefined volume data`},
		"system mount":          {web("tmpfs: /proc/x"), "compose.yaml:4: services.web.tmpfs: /proc/x belongs to the system; mount elsewhere"},
		"mounted twice":         {web("tmpfs: /run/secrets/s\n    secrets: [s]") + "secrets: {s: {environment: S}}\n", "compose.yaml:5: services.web.secrets: /run/secrets/s is mounted twice; remove one"},
		"cycle":                 {"services:\n  a: {image: a, depends_on: [b]}\n  b: {image: b, depends_on: [a]}\n", "compose.yaml:2: services.a.depends_on: dependency cycle detected: a -> b -> a"},
		"undefined dependent":   {web("depends_on: [db]"), `compose.yaml:4: services.web.depends_on: service "web" depends on undefined service "db"`},
		"lost dependency":       {web("depends_on: [db]") + "  db: {image: db, profiles: [x]}\n", "compose.yaml:4: services.web.depends_on: db belongs to module x, which a stamp may lack; write required: false, or let a module need it in x-bulkhead.modules"},
		"bad variable":          {web("user: '${'"), `compose.yaml:4: services.web.user: "${" is no variable; write $$ for a plain $`},
		"unknown built-in":      {web("user: ${BULKHEAD_X}"), "compose.yaml:4: BULKHEAD_X: no such variable of the platform; there are BULKHEAD_STAMP, BULKHEAD_HOST, BULKHEAD_DOMAIN, COMPOSE_PROJECT_NAME, COMPOSE_PROFILES"},
		"host gateway":          {web("extra_hosts: ['h:host-gateway']"), "compose.yaml:4: services.web.extra_hosts: h: a stamp cannot reach the machine that it runs on; remove it"},
		"restart":               {web("restart: sometimes"), `compose.yaml:4: services.web.restart: "sometimes"; use no, on-failure, always or unless-stopped`},
		"too little memory":     {web("mem_limit: 1m"), "compose.yaml:2: services.web.deploy.resources.limits.memory: 1048576 bytes start no process; give at least 6m"},
		"constraint on a role":  {web("deploy: {placement: {constraints: [node.role==manager]}}"), "compose.yaml:4: services.web.deploy.placement.constraints: node.role: stamps run on every node, whether it is a server or not; label the nodes that are meant, and use node.labels.NAME"},
		"constraint on engine":  {web("deploy: {placement: {constraints: ['engine.labels.os == x']}}"), "compose.yaml:4: services.web.deploy.placement.constraints: engine.labels.os: the engine has no labels of its own; label the node, and use node.labels.NAME"},
		"constraint malformed":  {web("deploy: {placement: {constraints: [node.labels.disk=ssd]}}"), `compose.yaml:4: services.web.deploy.placement.constraints: constraint "node.labels.disk=ssd": write ATTRIBUTE==VALUE or ATTRIBUTE!=VALUE`},
		"spread over nothing":   {web("deploy: {placement: {preferences: [{spread: rack}]}}"), `compose.yaml:4: services.web.deploy.placement.preferences: "rack" is no attribute of a node; there are node.hostname, node.region, node.zone, node.platform.os, node.platform.arch and node.labels.NAME`},
		"reservation of nobody": {web("deploy: {resources: {reservations: {generic_resources: [{discrete_resource_spec: {kind: a b, value: 1}}]}}}"), `compose.yaml:4: services.web.deploy.resources.reservations.generic_resources: "a b": use letters, digits and . _ -, at most 63 bytes`},
		"placement key":         {"x-bulkhead: {placement: {rack: 1}}\n" + web(""), "compose.yaml:1: x-bulkhead.placement.rack: no such key (there are region, zone, pool, residency, constraints, spread, strategy, tier, disk, extras)"},
		"placement disk":        {"x-bulkhead:\n  placement:\n    disk: much\n" + web(""), `compose.yaml:3: x-bulkhead.placement.disk: "much" is no size; write it as 10GiB`},
		"placement strategy":    {"x-bulkhead:\n  placement:\n    strategy: random\n" + web(""), `compose.yaml:3: x-bulkhead.placement.strategy: "random": there are pack and spread`},
		"placement extras":      {"x-bulkhead:\n  placement:\n    extras: {gpu: 1.5}\n" + web(""), "compose.yaml:3: x-bulkhead.placement.extras.gpu: 1.5: give whole units, or thousandths of one"},
		"placement residency":   {"x-bulkhead:\n  placement: {region: us, residency: [eu]}\n" + web(""), "compose.yaml:2: x-bulkhead.placement.region: us is not among the regions in which the data may lie: eu"},
		"too many tasks":        {web("scale: 1000"), "compose.yaml:2: services.web.deploy.replicas: 1000 tasks; at most 256"},
		"jobs":                  {web("") + "jobs: {}\n", "compose.yaml:5: jobs: jobs are not supported; use a service that ends, with depends_on: service_completed_successfully"},
		"volume name":           {web("") + "volumes: {'..': {}}\n", "compose.yaml:5: volumes...: use letters, digits, dots, hyphens and underscores, at most 63 bytes"},

		"extension key":        {"x-bulkhead: {rutes: []}\n" + web(""), "compose.yaml:1: x-bulkhead.rutes: no such key (there are version, modules, settings, routes, placement)"},
		"extension misplaced":  {web("x-bulkhead: {}"), "compose.yaml:4: services.web.x-bulkhead: x-bulkhead stands at the top level of the Compose file; move it there"},
		"extension version":    {"x-bulkhead: {version: a b}\n" + web(""), `compose.yaml:1: x-bulkhead.version: "a b": use letters, digits and . _ + -, at most 128 bytes`},
		"module unknown":       {"x-bulkhead: {modules: {x: {}}}\n" + web(""), "compose.yaml:1: x-bulkhead.modules.x: no service has this profile"},
		"module key":           {"x-bulkhead:\n  modules:\n    x: {titel: X}\n" + web("profiles: [x]"), "compose.yaml:3: x-bulkhead.modules.x.titel: no such key (there are title, needs)"},
		"module needs":         {"x-bulkhead:\n  modules:\n    x: {needs: [y]}\n" + web("profiles: [x]"), "compose.yaml:3: x-bulkhead.modules.x.needs: no service has the profile y"},
		"route service":        {"x-bulkhead:\n  routes:\n    - {service: www, port: 1}\n" + web(""), `compose.yaml:3: x-bulkhead.routes[0].service: no service "www"; there are web`},
		"route port":           {"x-bulkhead:\n  routes:\n    - {service: web}\n" + web(""), "compose.yaml:3: x-bulkhead.routes[0].port: missing; web has 0 ports, name one"},
		"route path":           {"x-bulkhead:\n  routes:\n    - {service: web, port: 1, path: /a/../b}\n" + web(""), `compose.yaml:3: x-bulkhead.routes[0].path: "/a/../b" is no path; begin it with /`},
		"route twice":          {"x-bulkhead:\n  routes:\n    - {service: web, port: 1}\n    - {service: web, port: 2}\n" + web(""), `compose.yaml:3: x-bulkhead.routes: web and web both answer to host "", path /; give one another host or path`},
		"setting schema":       {"x-bulkhead:\n  settings:\n    A: {type: strin}\n" + web(""), "compose.yaml:3: x-bulkhead.settings: "},
		"setting default":      {"x-bulkhead:\n  settings:\n    A: {type: integer, default: x}\n" + web(""), "compose.yaml:3: x-bulkhead.settings.A: its default: got string, want integer"},
		"setting reserved":     {"x-bulkhead:\n  settings:\n    BULKHEAD_A: {}\n" + web(""), "compose.yaml:3: x-bulkhead.settings.BULKHEAD_A: the platform sets this variable itself; choose another name"},
		"secret number":        {"x-bulkhead:\n  settings:\n    A: {secret: true, type: integer}\n" + web(""), "compose.yaml:3: x-bulkhead.settings.A: a secret is of type string"},
		"generate public":      {"x-bulkhead:\n  settings:\n    A: {generate: 8}\n" + web(""), "compose.yaml:3: x-bulkhead.settings.A: generate makes secrets; add secret: true"},
		"remote schema":        {"x-bulkhead:\n  settings:\n    A: {$ref: 'https://example.com/s.json'}\n" + web(""), "compose.yaml:3: x-bulkhead.settings: "},
		"required not offered": {"x-bulkhead:\n  settings: {A: {}}\n" + web("user: ${B:?}"), "compose.yaml:6: services.web.user: B is required, but not among x-bulkhead.settings; add it there"},
		"secret as a name":     {"x-bulkhead:\n  settings: {A: {secret: true}}\n" + web("environment: ['${A}=x']"), `compose.yaml:6: services.web.environment: "⟦secret:A⟧" is no name of a variable`},
		"secret shown":         {"x-bulkhead:\n  settings: {A: {secret: true}}\n" + web("labels: {a: '${A}'}"), "compose.yaml:6: services.web.labels.a: A is secret, and this would show it; use it in environment, command, entrypoint, healthcheck, configs or secrets"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeProject(t, []txtar.File{{Name: "compose.yaml", Data: []byte(test.file)}, {Name: "links/fine", Data: nil}, {Name: "loop/fine", Data: nil}})
			for link, to := range map[string]string{"out": "/etc/passwd", "links/up": "../../..", "loop/again": "../loop"} {
				if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Load(dir)
			if err == nil {
				t.Fatal("accepted")
			}
			if bulkhead.KindOf(err) == nil {
				t.Errorf("an internal error: %v", err)
			}
			// The text after a final ": " is a library's.
			if library := strings.HasSuffix(test.want, ": "); !strings.HasPrefix(err.Error(), test.want) || !library && err.Error() != test.want {
				t.Errorf("got:  %s\nwant: %s", report(err), test.want)
			}
			if strings.ContainsAny(err.Error(), "\n") || strings.Contains(err.Error(), dir) {
				t.Errorf("more than one line, or a path of the machine: %q", err)
			}
		})
	}
}

// TestRefusedWhereverItStands: no way of putting files together hides a line.
func TestRefusedWhereverItStands(t *testing.T) {
	const reason = ".privileged: it would own the machine and every other stamp on it; remove it"
	for name, test := range map[string]struct{ main, want string }{
		"included":           {"include: [a/own.yaml]\nservices: {web: {image: x}}\n", "a/own.yaml:3: services.bad"},
		"extended":           {"services: {web: {extends: {file: a/own.yaml, service: bad}}}\n", "a/own.yaml:3: services.bad"},
		"extended by a step": {"services: {web: {extends: {file: a/own.yaml, service: step}}}\n", "a/own.yaml:3: services.bad"},
		"by another file":    {"services: {web: {extends: {file: a/far.yaml, service: far}}}\n", "a/own.yaml:3: services.bad"},
		"extended, included": {"include: [a/own.yaml]\nservices: {web: {extends: {file: a/own.yaml, service: good}}}\n", "a/own.yaml:3: services.bad"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(writeProject(t, []txtar.File{
				{Name: "compose.yaml", Data: []byte(test.main)},
				{Name: "a/own.yaml", Data: []byte("services:\n  bad:\n    privileged: true\n    image: x\n  step: {extends: bad}\n  good: {image: x}\n")},
				{Name: "a/far.yaml", Data: []byte("services:\n  far: {extends: {file: own.yaml, service: bad}}\n")},
			}))
			if err == nil || err.Error() != test.want+reason {
				t.Errorf("got %v, want %s", err, test.want+reason)
			}
		})
	}
	_, err := Load(writeProject(t, []txtar.File{
		{Name: "compose.yaml", Data: []byte("include: [a/own.yaml]\nservices: {web: {image: x}}\n")},
		{Name: "a/own.yaml", Data: []byte("include:\n  - {path: b/own.yaml, project_directory: .}\n")},
		{Name: "a/b/own.yaml", Data: []byte("services: {db: {image: x}}\n")},
	}))
	if want := "a/own.yaml:2: include: project_directory and env_file are understood in compose.yaml only; include this file there"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	// What is not extended does not matter.
	mustLoad(t, writeProject(t, []txtar.File{
		{Name: "compose.yaml", Data: []byte("services: {web: {extends: {file: own.yaml, service: good}}}\n")},
		{Name: "own.yaml", Data: []byte("services: {bad: {privileged: true}, good: {image: x}}\n")},
	}))
}

// TestAllFaultsAtOnce: nobody wants to mend them one by one.
func TestAllFaultsAtOnce(t *testing.T) {
	dir := writeProject(t, []txtar.File{{Name: "compose.yaml", Data: []byte(
		"services:\n  web:\n    image: nginx\n    privileged: true\n    volumes: ['/:/host']\n    pid: host\n    restart: maybe\n",
	)}})
	_, err := Load(dir)
	var e *bulkhead.Error
	if !errors.As(err, &e) || len(e.Faults) != 3 {
		t.Fatalf("want three faults: %v", report(err))
	}
	for i, line := range []string{"compose.yaml:4", "compose.yaml:5", "compose.yaml:6"} {
		if e.Faults[i].Where != line {
			t.Errorf("fault %d is at %s, not %s", i, e.Faults[i].Where, line)
		}
	}
}

func TestLoadFindsTheFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("no folder: %v", err)
	}
	if _, err := Load(t.TempDir()); !errors.Is(err, bulkhead.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	dir := writeProject(t, []txtar.File{{Name: "prod.yaml", Data: []byte("services: {web: {image: nginx}}\n")}})
	t.Setenv("X", "of the machine")
	p, err := Load(filepath.Join(dir, "prod.yaml"))
	if err != nil || p.Product != "shop" {
		t.Errorf("a file by its name: %v, %v", p, err)
	}
}
