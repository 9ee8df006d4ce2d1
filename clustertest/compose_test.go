package clustertest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestComposeConformance are the runtime cases that Compose's own conformance
// project names, each as a stamp.
func TestComposeConformance(t *testing.T) {
	for _, c := range []struct {
		name, compose string
		files         map[string]string
		path, want    string
		fails         bool
	}{
		{
			name: "simple-network",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"]}
  target: {image: "probe:1", environment: {NAME: target}}
`,
			path: "/fetch?url=http://target:8080/ping", want: "target ",
		},
		{
			name: "different-networks",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"], networks: [front]}
  target: {image: "probe:1", environment: {NAME: target}, networks: [back]}
networks: {front: {}, back: {}}
`,
			path: "/fetch?url=http://target:8080/ping", fails: true,
		},
		{
			name: "volume",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"], volumes: ["shared:/shared"], depends_on: {writer: {condition: service_completed_successfully}}}
  writer: {image: "probe:1", command: [write, /shared/file, "from the writer"], volumes: ["shared:/shared"]}
volumes: {shared: {}}
`,
			path: "/read?path=/shared/file", want: "from the writer",
		},
		{
			name: "config-file",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"], configs: [{source: setup, target: /volumes/setup.txt}]}
configs: {setup: {file: ./setup.txt}}
`,
			files: map[string]string{"setup.txt": "the configuration"},
			path:  "/read?path=/volumes/setup.txt", want: "the configuration",
		},
		{
			name: "secret-file",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"], secrets: [word]}
secrets: {word: {file: ./word.txt}}
`,
			files: map[string]string{"word.txt": "the secret"},
			path:  "/read?path=/run/secrets/word", want: "the secret",
		},
		{
			name: "udp-port",
			compose: `
services:
  entry: {image: "probe:1", ports: ["8080:8080"]}
  target: {image: "probe:1", expose: ["8080/udp"]}
`,
			path: "/udp?addr=target:8080&text=hello", want: "echo hello",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := shared(t)
			for file, text := range c.files {
				n.File(c.name+"/"+file, text)
			}
			n.Publish(c.name, c.compose, "--version", "1")
			stamp := "c-" + c.name
			n.Run("stamp", "create", stamp, "--product", c.name)
			defer n.Run("stamp", "delete", stamp, "--purge", "--yes")
			n.MustGet(stamp, "/")
			got, err := n.Get(stamp, c.path)
			switch {
			case c.fails && err == nil:
				t.Errorf("%s answers %q", c.path, got)
			case !c.fails && (err != nil || !strings.HasPrefix(got, c.want)):
				t.Errorf("%s answers %q, %v; want %q", c.path, got, err, c.want)
			}
		})
	}
}

// TestComposeAttributes reads back what Compose attributes do to a task.
func TestComposeAttributes(t *testing.T) {
	n := shared(t)
	n.File("attributes/app.env", "FROM_FILE=file\nBOTH=file\n")
	n.File("attributes/page/index.html", "a page")
	n.Publish("attributes", `
services:
  web:
    image: probe:1
    ports: ["8080:8080"]
    hostname: front
    user: "1000:1000"
    working_dir: /tmp
    read_only: true
    init: true
    tmpfs: [/scratch]
    environment: {BOTH: inline}
    env_file: [app.env]
    extra_hosts: ["legacy:203.0.113.7"]
    cap_drop: [ALL]
    ulimits: {nofile: {soft: 1000, hard: 1000}}
    volumes: ["./page:/page:ro"]
    networks: {default: {aliases: [frontdoor]}}
    deploy: {replicas: 2, resources: {limits: {memory: 128M, cpus: "0.5", pids: 100}}}
x-bulkhead: {version: "1"}
`)
	n.Run("stamp", "create", "attributes", "--product", "attributes")
	defer n.Run("stamp", "delete", "attributes", "--purge", "--yes")
	for path, want := range map[string]string{
		"/whoami":                        `"dir":"/tmp"`,
		"/whoami?":                       `"uid":1000`,
		"/whoami??":                      `"host":"front"`,
		"/env":                           `"FROM_FILE=file"`,
		"/env?":                          `"BOTH=inline"`,
		"/read?path=/page/index.html":    "a page",
		"/lookup?name=legacy":            "203.0.113.7",
		"/lookup?name=frontdoor":         ".",
		"/write?path=/scratch/x&text=hi": "written",
		"/read?path=/proc/self/limits":   "1000                 1000                 files",
	} {
		if got, err := n.Get("attributes", path); err != nil || !strings.Contains(got, want) {
			t.Errorf("%s answers %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"/write?path=/x&text=hi", "/write?path=/page/x&text=hi"} {
		if got, err := n.Get("attributes", path); err == nil {
			t.Errorf("%s answers %q", path, got)
		}
	}
	// Two replicas share the work.
	seen := map[string]bool{}
	n.Until(10*time.Second, "both replicas answer", func() error {
		seen[n.MustGet("attributes", "/")] = true
		if len(seen) != 2 {
			return fmt.Errorf("%v", seen)
		}
		return nil
	})
}
