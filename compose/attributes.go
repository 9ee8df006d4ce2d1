package compose

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// verdict is what Bulkhead does with an attribute of the Compose format.
type verdict int

const (
	allow  verdict = iota // honoured
	ignore                // accepted without effect; a warning says so
	deny                  // refused
)

// attribute is one row of the table below.
type attribute struct {
	// path names the attribute: "*" stands for a name that the author chose and
	// for any item of a list. A row that ignores or denies covers what is below.
	path    string
	verdict verdict
	// reason completes the warning ("ignored: …") or the refusal; a refusal says
	// after a semicolon what to do instead.
	reason string
	// unless lists values that say nothing or what Bulkhead does anyway: with
	// them the row has no effect.
	unless []string
}

// defaultCapabilities are what a task has when nothing is dropped; adding one
// of them says nothing new.
var defaultCapabilities = []string{
	"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
	"NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}

var notTrue = []string{"false", ""}

// attributes is what Bulkhead does with every attribute of the Compose format.
// A test walks the schema that compose-go ships and proves that no attribute is
// missing here and none is here that the schema lacks; docs/products.md shows
// the same rows.
var attributes = []attribute{
	// The file.
	{"version", ignore, "the Compose format has no versions any more", nil},
	{"name", allow, "", nil},
	{"include", allow, "", nil},
	{"include.*.path", allow, "", nil},
	{"include.*.env_file", allow, "", nil},
	{"include.*.project_directory", allow, "", nil},
	{"services", allow, "", nil},
	{"networks", allow, "", nil},
	{"volumes", allow, "", nil},
	{"configs", allow, "", nil},
	{"secrets", allow, "", nil},
	{"models", deny, "language models are not provided by the platform; run one as a service", nil},
	{"jobs", deny, "jobs are not supported; use a service that ends, with depends_on: service_completed_successfully", nil},

	// What a service runs.
	{"services.*.image", allow, "", nil},
	{"services.*.build", ignore, "Bulkhead builds nothing; build the image first (docker compose build)", nil},
	{"services.*.command", allow, "", nil},
	{"services.*.entrypoint", allow, "", nil},
	{"services.*.environment", allow, "", nil},
	{"services.*.env_file", allow, "", nil},
	{"services.*.env_file.*.path", allow, "", nil},
	{"services.*.env_file.*.required", allow, "", nil},
	{"services.*.env_file.*.format", allow, "", nil},
	{"services.*.working_dir", allow, "", nil},
	{"services.*.user", allow, "", nil},
	{"services.*.hostname", allow, "", nil},
	{"services.*.domainname", ignore, "names end in the stamp's own domain", nil},
	{"services.*.labels", allow, "", nil},
	{"services.*.label_file", allow, "", nil},
	{"services.*.annotations", ignore, "use labels", nil},
	{"services.*.init", allow, "", nil},
	{"services.*.read_only", allow, "", nil},
	{"services.*.extends", allow, "", nil},
	{"services.*.extends.service", allow, "", nil},
	{"services.*.extends.file", allow, "", nil},
	{"services.*.profiles", allow, "", nil},
	{"services.*.container_name", deny, "a fixed name can exist only once on a machine, and every stamp needs its own; remove it, other services reach this one by its service name", nil},
	{"services.*.provider", deny, "services run by a program of the host are not supported; use an image", nil},
	{"services.*.models", deny, "language models are not provided by the platform; run one as a service", nil},
	{"services.*.platform", ignore, "the image for the node's platform is used", nil},
	{"services.*.pull_policy", ignore, "a release pins its images by digest", nil},
	{"services.*.pull_refresh_after", ignore, "a release pins its images by digest", nil},
	{"services.*.attach", ignore, "logs of every task are kept", nil},
	{"services.*.stdin_open", ignore, "tasks have no terminal", notTrue},
	{"services.*.tty", ignore, "tasks have no terminal", notTrue},
	{"services.*.develop", ignore, "it serves development only", nil},
	{"services.*.logging", ignore, "Bulkhead keeps and rotates the logs itself", nil},

	// Its life.
	{"services.*.depends_on", allow, "", nil},
	{"services.*.depends_on.*.condition", allow, "", nil},
	{"services.*.depends_on.*.required", allow, "", nil},
	{"services.*.depends_on.*.restart", allow, "", nil},
	{"services.*.healthcheck", allow, "", nil},
	{"services.*.healthcheck.test", allow, "", nil},
	{"services.*.healthcheck.interval", allow, "", nil},
	{"services.*.healthcheck.timeout", allow, "", nil},
	{"services.*.healthcheck.retries", allow, "", nil},
	{"services.*.healthcheck.start_period", allow, "", nil},
	{"services.*.healthcheck.start_interval", allow, "", nil},
	{"services.*.healthcheck.disable", allow, "", nil},
	{"services.*.restart", allow, "", nil},
	{"services.*.stop_signal", allow, "", nil},
	{"services.*.stop_grace_period", allow, "", nil},
	{"services.*.pre_start", deny, "hooks are not supported; use a service that ends, with depends_on: service_completed_successfully", nil},
	{"services.*.post_start", deny, "hooks are not supported; put the command into the image's entrypoint", nil},
	{"services.*.pre_stop", deny, "hooks are not supported; let the process handle its stop_signal", nil},

	// Its size.
	{"services.*.scale", allow, "", nil},
	{"services.*.deploy", allow, "", nil},
	{"services.*.deploy.mode", deny, "a stamp runs a fixed number of tasks; use replicas", []string{"replicated"}},
	{"services.*.deploy.replicas", allow, "", nil},
	{"services.*.deploy.endpoint_mode", ignore, "names resolve to all healthy tasks", nil},
	{"services.*.deploy.labels", ignore, "use the labels of the service", nil},
	{"services.*.deploy.placement", allow, "", nil},
	{"services.*.deploy.placement.constraints", allow, "", nil},
	{"services.*.deploy.placement.preferences", allow, "", nil},
	{"services.*.deploy.placement.preferences.*.spread", allow, "", nil},
	{"services.*.deploy.placement.max_replicas_per_node", ignore, "a stamp is placed as a whole", nil},
	{"services.*.deploy.update_config", ignore, "updates are the platform's", nil},
	{"services.*.deploy.rollback_config", ignore, "updates are the platform's", nil},
	{"services.*.deploy.restart_policy", allow, "", nil},
	{"services.*.deploy.restart_policy.condition", allow, "", nil},
	{"services.*.deploy.restart_policy.delay", allow, "", nil},
	{"services.*.deploy.restart_policy.max_attempts", allow, "", nil},
	{"services.*.deploy.restart_policy.window", ignore, "the platform's back-off applies", nil},
	{"services.*.deploy.resources", allow, "", nil},
	{"services.*.deploy.resources.limits", allow, "", nil},
	{"services.*.deploy.resources.limits.cpus", allow, "", nil},
	{"services.*.deploy.resources.limits.memory", allow, "", nil},
	{"services.*.deploy.resources.limits.pids", allow, "", nil},
	{"services.*.deploy.resources.reservations", allow, "", nil},
	{"services.*.deploy.resources.reservations.cpus", allow, "", nil},
	{"services.*.deploy.resources.reservations.memory", allow, "", nil},
	{"services.*.deploy.resources.reservations.devices", deny, "devices of the machine belong to no stamp; remove it", nil},
	{"services.*.deploy.resources.reservations.generic_resources", allow, "", nil},
	{"services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec", allow, "", nil},
	{"services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec.kind", allow, "", nil},
	{"services.*.deploy.resources.reservations.generic_resources.*.discrete_resource_spec.value", allow, "", nil},
	{"services.*.cpus", allow, "", nil},
	{"services.*.mem_limit", allow, "", nil},
	{"services.*.mem_reservation", allow, "", nil},
	{"services.*.pids_limit", allow, "", nil},
	{"services.*.cpu_count", ignore, "use cpus", nil},
	{"services.*.cpu_percent", ignore, "use cpus", nil},
	{"services.*.cpu_shares", ignore, "use deploy.resources.reservations.cpus", nil},
	{"services.*.cpu_quota", ignore, "use cpus", nil},
	{"services.*.cpu_period", ignore, "use cpus", nil},
	{"services.*.cpu_rt_period", ignore, "tasks get no real-time share", nil},
	{"services.*.cpu_rt_runtime", ignore, "tasks get no real-time share", nil},
	{"services.*.cpuset", ignore, "a task runs on any core; use cpus", nil},
	{"services.*.memswap_limit", ignore, "tasks have no swap of their own", nil},
	{"services.*.mem_swappiness", ignore, "tasks have no swap of their own", nil},
	{"services.*.oom_kill_disable", ignore, "a task beyond its memory is ended", notTrue},
	{"services.*.oom_score_adj", ignore, "the platform sets it", nil},
	{"services.*.blkio_config", ignore, "disks are shared evenly", nil},
	{"services.*.storage_opt", ignore, "the file system of a task is not bounded by it", nil},
	{"services.*.shm_size", ignore, "use tmpfs: /dev/shm:size=…", nil},
	{"services.*.ulimits", allow, "", nil},
	{"services.*.ulimits.*.soft", allow, "", nil},
	{"services.*.ulimits.*.hard", allow, "", nil},

	// Its files.
	{"services.*.volumes", allow, "", nil},
	{"services.*.volumes.*.type", deny, "only volumes, files of the project and tmpfs can be mounted; use type volume, bind or tmpfs", []string{"volume", "bind", "tmpfs"}},
	{"services.*.volumes.*.source", allow, "", nil},
	{"services.*.volumes.*.target", allow, "", nil},
	{"services.*.volumes.*.read_only", allow, "", nil},
	{"services.*.volumes.*.consistency", ignore, "mounts are always consistent", nil},
	{"services.*.volumes.*.bind", ignore, "project files are mounted read-only from the release", nil},
	{"services.*.volumes.*.volume", allow, "", nil},
	{"services.*.volumes.*.volume.nocopy", allow, "", nil},
	{"services.*.volumes.*.volume.subpath", allow, "", nil},
	{"services.*.volumes.*.volume.labels", ignore, "label the volume at the top level", nil},
	{"services.*.volumes.*.tmpfs", allow, "", nil},
	{"services.*.volumes.*.tmpfs.size", allow, "", nil},
	{"services.*.volumes.*.tmpfs.mode", allow, "", nil},
	{"services.*.volumes.*.image", deny, "images cannot be mounted; copy the files into the service's image", nil},
	{"services.*.volumes_from", deny, "mounts are not taken over; name the volumes in both services", nil},
	{"services.*.tmpfs", allow, "", nil},
	{"services.*.configs", allow, "", nil},
	{"services.*.configs.*.source", allow, "", nil},
	{"services.*.configs.*.target", allow, "", nil},
	{"services.*.configs.*.uid", allow, "", nil},
	{"services.*.configs.*.gid", allow, "", nil},
	{"services.*.configs.*.mode", allow, "", nil},
	{"services.*.secrets", allow, "", nil},
	{"services.*.secrets.*.source", allow, "", nil},
	{"services.*.secrets.*.target", allow, "", nil},
	{"services.*.secrets.*.uid", allow, "", nil},
	{"services.*.secrets.*.gid", allow, "", nil},
	{"services.*.secrets.*.mode", allow, "", nil},

	// Its network.
	{"services.*.ports", allow, "", nil},
	{"services.*.ports.*.target", allow, "", nil},
	{"services.*.ports.*.published", allow, "", nil},
	{"services.*.ports.*.protocol", allow, "", nil},
	{"services.*.ports.*.name", allow, "", nil},
	{"services.*.ports.*.host_ip", ignore, "the gateway publishes ports, on its own addresses", nil},
	{"services.*.ports.*.mode", ignore, "the gateway publishes ports", []string{"ingress"}},
	{"services.*.ports.*.app_protocol", ignore, "the gateway speaks HTTP", nil},
	{"services.*.expose", allow, "", nil},
	{"services.*.networks", allow, "", nil},
	{"services.*.networks.*.aliases", allow, "", nil},
	{"services.*.networks.*.ipv4_address", ignore, "addresses are given by the platform; use the service name", nil},
	{"services.*.networks.*.ipv6_address", ignore, "addresses are given by the platform; use the service name", nil},
	{"services.*.networks.*.link_local_ips", ignore, "addresses are given by the platform; use the service name", nil},
	{"services.*.networks.*.mac_address", ignore, "addresses are given by the platform", nil},
	{"services.*.networks.*.interface_name", ignore, "a task has one interface, eth0", nil},
	{"services.*.networks.*.driver_opts", ignore, "a stamp has one bridge of its own", nil},
	{"services.*.networks.*.priority", ignore, "a task has one interface", nil},
	{"services.*.networks.*.gw_priority", ignore, "a task has one interface", nil},
	{"services.*.networks.*.use_service_name_alias", ignore, "a service is always known by its name", []string{"true"}},
	{"services.*.network_mode", deny, "every stamp has a network of its own, and nothing may join another one; remove it", []string{"bridge", "default", "none"}},
	{"services.*.extra_hosts", allow, "", nil},
	{"services.*.links", allow, "", nil},
	{"services.*.external_links", deny, "nothing outside the stamp can be reached by name; put the other service into this file", nil},
	{"services.*.dns", ignore, "names are resolved by the stamp's own name server", nil},
	{"services.*.dns_opt", ignore, "names are resolved by the stamp's own name server", nil},
	{"services.*.dns_search", ignore, "names are resolved by the stamp's own name server", nil},
	{"services.*.mac_address", ignore, "addresses are given by the platform", nil},

	// Its rights.
	{"services.*.privileged", deny, "it would own the machine and every other stamp on it; remove it", notTrue},
	{"services.*.use_api_socket", deny, "the container engine's socket owns the machine; remove it", notTrue},
	{"services.*.cap_add", deny, "a task gets no more than the default capabilities; remove it", defaultCapabilities},
	{"services.*.cap_drop", allow, "", nil},
	{"services.*.security_opt", deny, "it would loosen the walls around a task; remove it", []string{"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}},
	{"services.*.devices", deny, "devices of the machine belong to no stamp; remove it", nil},
	{"services.*.device_cgroup_rules", deny, "devices of the machine belong to no stamp; remove it", nil},
	{"services.*.gpus", deny, "devices of the machine belong to no stamp; remove it", nil},
	{"services.*.pid", deny, "a task sees its own processes only; remove it", []string{"private", ""}},
	{"services.*.ipc", deny, "a task shares no memory with others; remove it", []string{"private", "shareable", "none", ""}},
	{"services.*.uts", deny, "a task has a host name of its own; remove it", []string{"private", ""}},
	{"services.*.userns_mode", deny, "user names are mapped by the platform; remove it", []string{"private", ""}},
	{"services.*.cgroup", deny, "a task lives in its stamp's cgroup; remove it", []string{"private"}},
	{"services.*.cgroup_parent", deny, "a task lives in its stamp's cgroup; remove it", nil},
	{"services.*.runtime", deny, "the platform chooses the runtime; remove it", []string{"runc"}},
	{"services.*.credential_spec", deny, "Windows containers are not supported; remove it", nil},
	{"services.*.isolation", ignore, "it concerns Windows only", nil},
	{"services.*.sysctls", ignore, "kernel parameters are the platform's", nil},
	{"services.*.group_add", ignore, "a process has the groups that its image gives its user", nil},
	{"services.*.umask", ignore, "let the process set it", nil},

	// What services share inside their stamp.
	{"networks.*.name", ignore, "a network belongs to its stamp and needs no other name", nil},
	{"networks.*.external", deny, "stamps share nothing, so there is no network outside of them; remove it", notTrue},
	{"networks.*.driver", deny, "a stamp has one bridge of its own; remove it", []string{"bridge", "default", "overlay", ""}},
	{"networks.*.driver_opts", ignore, "a stamp has one bridge of its own", nil},
	{"networks.*.ipam", ignore, "addresses are given by the platform; use service names", nil},
	{"networks.*.internal", ignore, "networks of a stamp differ in names only", notTrue},
	{"networks.*.attachable", ignore, "nothing else can join a stamp's network", nil},
	{"networks.*.enable_ipv4", ignore, "addresses are given by the platform", nil},
	{"networks.*.enable_ipv6", ignore, "addresses are given by the platform", nil},
	{"networks.*.labels", ignore, "networks of a stamp are names only", nil},
	{"volumes.*.name", ignore, "a volume belongs to its stamp and needs no other name", nil},
	{"volumes.*.external", deny, "stamps share nothing, so there is no volume outside of them; remove it, every stamp gets a volume of its own", notTrue},
	{"volumes.*.driver", deny, "the platform keeps the data of stamps; remove it", []string{"local", "default", ""}},
	{"volumes.*.driver_opts", deny, "they can mount what lies outside the stamp; remove them", nil},
	{"volumes.*.labels", allow, "", nil},
	{"configs.*.file", allow, "", nil},
	{"configs.*.content", allow, "", nil},
	{"configs.*.environment", allow, "", nil},
	{"configs.*.name", ignore, "a config belongs to its release and needs no other name", nil},
	{"configs.*.labels", ignore, "configs have no labels", nil},
	{"configs.*.external", deny, "a release holds all that it needs; give a file, content or environment", notTrue},
	{"configs.*.template_driver", deny, "templates are not supported; use ${VARIABLES} in content", nil},
	{"secrets.*.file", allow, "", nil},
	{"secrets.*.environment", allow, "", nil},
	{"secrets.*.name", ignore, "a secret belongs to its stamp and needs no other name", nil},
	{"secrets.*.labels", ignore, "secrets have no labels", nil},
	{"secrets.*.external", deny, "stamps share no secrets; use environment: NAME and a secret setting", notTrue},
	{"secrets.*.driver", deny, "Bulkhead keeps secrets itself; use environment: NAME and a secret setting", nil},
	{"secrets.*.driver_opts", deny, "Bulkhead keeps secrets itself; use environment: NAME and a secret setting", nil},
	{"secrets.*.template_driver", deny, "templates are not supported; use environment: NAME and a secret setting", nil},
}

// secretPlaces are the attributes in which a secret setting may stand: those
// that the agent completes, in memory, while it creates a task.
var secretPlaces = []string{
	"services.*.environment", "services.*.env_file", "services.*.command", "services.*.entrypoint", "services.*.healthcheck.test",
	"configs.*.content", "configs.*.environment", "secrets.*.environment",
}

// rows is the table as a tree, for walking along a file.
type rows struct {
	*attribute                  // nil: only a step on the way
	names      map[string]*rows // attributes below, by name
	any        *rows            // what stands for "*"
}

func newRows() *rows {
	root := &rows{}
	for i := range attributes {
		at := root
		for name := range strings.SplitSeq(attributes[i].path, ".") {
			next := at.any
			if name != "*" {
				next = at.names[name]
			}
			if next == nil {
				next = &rows{}
				if name == "*" {
					at.any = next
				} else {
					if at.names == nil {
						at.names = map[string]*rows{}
					}
					at.names[name] = next
				}
			}
			at = next
		}
		at.attribute = &attributes[i]
	}
	return root
}

// effective is the verdict on value: allow when it is one that says nothing.
func (a *attribute) effective(value *yaml.Node) verdict {
	if a == nil || a.verdict == allow || a.unless == nil {
		if a == nil {
			return allow
		}
		return a.verdict
	}
	value = target(value)
	if value.Kind == yaml.ScalarNode {
		if a.harmless(value.Value) {
			return allow
		}
		return a.verdict
	}
	if value.Kind == yaml.SequenceNode {
		for _, item := range value.Content {
			if item = target(item); item.Kind != yaml.ScalarNode || !a.harmless(item.Value) {
				return a.verdict
			}
		}
		return allow
	}
	return a.verdict
}

func (a *attribute) harmless(value string) bool {
	return slices.Contains(a.unless, value) ||
		strings.HasSuffix(a.path, ".cap_add") && slices.Contains(a.unless, capability(value))
}

// capability is the name of a Linux capability as runtimes spell it without
// prefix: "cap_net_raw" is NET_RAW.
func capability(s string) string {
	return strings.TrimPrefix(strings.ToUpper(s), "CAP_")
}
