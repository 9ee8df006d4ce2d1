package clustertest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/imagebuild"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The exit codes of `bulkhead help exit-codes`.
const (
	exitInvalid     = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitUnavailable = 5
	exitDenied      = 6
	exitExhausted   = 7
)

// tree lists what is below a folder with sizes and modes, so that two can be
// compared.
func tree(t testing.TB, folder string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a folder of things to come, or a file that was just replaced
		} else if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		size := info.Size()
		if d.IsDir() {
			size = 0
		}
		fmt.Fprintf(&b, "%s %v %d\n", path, info.Mode(), size)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// holdings is everything that a refused command must leave as it was.
func (n *Node) holdings() string {
	n.T.Helper()
	folder := regexp.MustCompile(`(?m)^.* drwx.*\n`) // an upload that is refused may leave its empty folder
	var stamps strings.Builder
	for _, line := range strings.Split(n.Run("stamp", "list", "--deleted", "-o", "yaml"), "\n") {
		for _, field := range []string{"name:", "generation:", "desired:", "release:", "settings:"} {
			if strings.Contains(line, field) {
				stamps.WriteString(line + "\n")
			}
		}
	}
	return stamps.String() + n.Run("release", "list", "-o", "json") +
		folder.ReplaceAllString(tree(n.T, filepath.Join(n.Data(), "registry")), "") + tree(n.T, filepath.Join(n.Data(), "volumes"))
}

// difference is the lines that only one of two texts has.
func difference(was, is string) string {
	var b strings.Builder
	for _, pair := range []struct{ sign, of, other string }{{"- ", was, is}, {"+ ", is, was}} {
		others := map[string]bool{}
		for line := range strings.SplitSeq(pair.other, "\n") {
			others[line] = true
		}
		for line := range strings.SplitSeq(pair.of, "\n") {
			if !others[line] {
				b.WriteString(pair.sign + line + "\n")
			}
		}
	}
	return b.String()
}

// refused checks that an answer is what a refusal has to be: one line that says
// what is wrong, below it at most a list of faults, and a hint.
func refused(t *testing.T, out string, code, wantCode int, want ...string) {
	t.Helper()
	if code != wantCode {
		t.Errorf("exit code %d, want %d:\n%s", code, wantCode, out)
	}
	lines := 0
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		switch {
		case strings.HasPrefix(line, "bulkhead: "):
			lines++
		case strings.HasPrefix(line, "  "), strings.HasPrefix(line, "hint: "), strings.HasPrefix(line, "warning: "):
		default:
			t.Errorf("this line belongs to no refusal: %q", line)
		}
	}
	if lines != 1 {
		t.Errorf("%d lines say what is wrong:\n%s", lines, out)
	}
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(out) {
			t.Errorf("%q is not in\n%s", w, out)
		}
	}
}

const input = `
name: input
services:
  web:
    image: probe:1
    environment: {NAME: "${COLOUR}"}
    ports: ["80:8080"]
  extra:
    image: probe:1
    profiles: [reports]
    volumes: ["data:/data"]
volumes: {data: {}}
x-bulkhead:
  version: "1"
  settings:
    type: object
    additionalProperties: false
    properties:
      COLOUR: {type: string, enum: [green, blue], default: green}
      SIZE: {type: integer, minimum: 1}
`

// TestWrongCommands: what a user may ask for that does not exist or stands
// against something.
func TestWrongCommands(t *testing.T) {
	n := shared(t)
	n.Publish("input", input)
	without := input[:strings.Index(input, "  extra:")] + input[strings.Index(input, "x-bulkhead:"):]
	n.File("input2/compose.yaml", without)
	n.Run("release", "publish", filepath.Join(n.Dir, "input2"), "--version", "2")
	n.Run("stamp", "create", "wrong", "--product", "input", "--release", "1", "--module", "reports")
	n.Run("stamp", "create", "gone", "--product", "input", "--release", "1")
	n.Run("stamp", "delete", "gone")
	n.Run("stamp", "create", "halted", "--product", "input", "--release", "1")
	n.Run("stamp", "stop", "halted")
	defer func() {
		for _, name := range []string{"wrong", "gone", "halted"} {
			n.Run("stamp", "delete", name, "--purge", "--yes")
		}
	}()
	create := func(args ...string) []string {
		return append([]string{"stamp", "create", "fresh", "--product", "input"}, args...)
	}
	stamps := func(name, text string) []string { return []string{"apply", "-f", n.File(name, text)} }
	const one = "kind: Stamp\nname: fresh\nproduct: input\n"
	was := n.holdings()
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"no such product", []string{"stamp", "create", "fresh", "--product", "nosuch"}, exitNotFound, []string{"product nosuch does not exist", "hint: published: .*input"}},
		{"no such product, listed", []string{"release", "list", "nosuch"}, exitNotFound, []string{"product nosuch does not exist"}},
		{"no such product's stamps", []string{"stamp", "list", "--product", "nosuch"}, exitNotFound, []string{"product nosuch does not exist"}},
		{"no such release", create("--release", "9"), exitNotFound, []string{`product input has no release "9"`, "hint: it has: 1, 2"}},
		{"no such release, deleted", []string{"release", "delete", "input", "9"}, exitNotFound, []string{"release input 9 does not exist"}},
		{"no such module", create("--release", "1", "--module", "nosuch"), exitInvalid, []string{"modules.nosuch: no such module; there are reports"}},
		{"no such setting", create("--set", "NOSUCH=1"), exitInvalid, []string{"settings.NOSUCH: no such setting; there are COLOUR, SIZE"}},
		{"no such service", []string{"stamp", "exec", "wrong", "nosuch", "--", "/probe"}, exitNotFound, []string{`stamp wrong has no service "nosuch"`, "hint: it has: "}},
		{"no such service, logs", []string{"stamp", "logs", "wrong", "nosuch"}, exitNotFound, []string{`stamp wrong has no service "nosuch"`}},
		{"no such stamp", []string{"stamp", "show", "nosuch"}, exitNotFound, []string{"stamp nosuch does not exist", "hint: bulkhead stamp list"}},
		{"no such stamp, events", []string{"events", "--stamp", "nosuch"}, exitNotFound, []string{"stamp nosuch does not exist"}},
		{"no such phase", []string{"stamp", "list", "--phase", "asleep"}, exitInvalid, []string{`phase "asleep" does not exist: there are .*running`}},
		{"wrong type", create("--set", "SIZE=big"), exitInvalid, []string{"settings.SIZE: got string, want integer"}},
		{
			"all faults at once", create("--set", "SIZE=0", "--set", "COLOUR=pink", "--set", "NOSUCH=1"), exitInvalid,
			[]string{"3 faults", "settings.SIZE: minimum", "settings.COLOUR: value must be one of 'green', 'blue'", "settings.NOSUCH"},
		},
		{"name taken", []string{"stamp", "create", "wrong", "--product", "input"}, exitConflict, []string{"stamp wrong exists already"}},
		{"name in capitals is taken, too", []string{"stamp", "create", "WRONG", "--product", "input"}, exitConflict, []string{"stamp wrong exists already"}},
		{"name of a deleted stamp", []string{"stamp", "create", "gone", "--product", "input"}, exitConflict, []string{"its data is kept until", "hint: .*--restore"}},
		{"empty name", []string{"stamp", "create", "", "--product", "input"}, exitInvalid, []string{"stamp name is empty"}},
		{"no DNS label", []string{"stamp", "create", "ż_ó", "--product", "input"}, exitInvalid, []string{"is not a DNS label"}},
		{"long name", []string{"stamp", "create", strings.Repeat("a", 60), "--product", "input"}, exitInvalid, []string{"at most 40"}},
		{"restore of nothing", []string{"stamp", "create", "fresh", "--restore"}, exitNotFound, []string{"nothing of a stamp fresh is kept"}},
		{"update to a release without the module", []string{"stamp", "update", "wrong", "--release", "2"}, exitInvalid, []string{"modules.reports: no such module"}},
		{"update of a deleted stamp", []string{"stamp", "update", "gone", "--set", "SIZE=1"}, exitNotFound, []string{"stamp gone is deleted", "hint: .*--restore"}},
		{"exec in a stopped stamp", []string{"stamp", "exec", "halted", "web", "--", "/probe"}, exitConflict, []string{"stamp halted is stopped", "hint: bulkhead stamp start halted"}},
		{"release in use", []string{"release", "delete", "input", "1"}, exitConflict, []string{"release input 1 is used by .*wrong"}},
		{"not KEY=VALUE", create("--set", "SIZE"), exitInvalid, []string{`--set "SIZE" is not KEY=VALUE`}},
		{"no file of a setting", create("--set", "COLOUR=@/nosuch"), exitInvalid, []string{"--set COLOUR: open /nosuch: no such file"}},
		{"label", create("--label", "a b=c"), exitInvalid, []string{`label "a b"`}},
		{"unknown flag", create("--nosuch"), exitInvalid, []string{"unknown flag: --nosuch"}},
		{"no bool", create("--no-wait=maybe"), exitInvalid, []string{`"maybe" is no value for --no-wait: true or false is wanted`}},
		{"unknown output", []string{"stamp", "list", "-o", "xml"}, exitInvalid, []string{`output "xml" is not table, json or yaml`}},
		{"unknown command", []string{"stamp", "frobnicate"}, exitInvalid, []string{`unknown command "frobnicate"`}},
		{"wrong token", []string{"stamp", "list", "--token", "bh_wrong"}, exitDenied, []string{"the token is not known here", "hint: "}},
		{"API down", []string{"stamp", "list", "--api", "127.0.0.1:1"}, exitUnavailable, []string{"cannot reach Bulkhead at http://127.0.0.1:1: connection refused"}},
		{"no address", []string{"stamp", "list", "--api", "nonsense"}, exitInvalid, []string{`"nonsense", is neither HOST:PORT nor a URL`}},
		{"another server", []string{"stamp", "list", "--api", n.HTTP}, exitNotFound, []string{"is not the API of Bulkhead: 404"}},
		{"no configuration", []string{"stamp", "list", "--config", "/nosuch"}, exitNotFound, []string{"configuration /nosuch does not exist"}},
		{"bad configuration", []string{"stamp", "list", "--config", n.File("bad.yaml", "curent: x\n")}, exitInvalid, []string{`bad.yaml:1: .*curent`}},
		{"bad default", []string{"stamp", "list", "--config", n.File("default.yaml", "defaults: {outptu: json}\n")}, exitInvalid, []string{`defaults.outptu: no command has a flag`}},
		{"apply: nothing", stamps("none.yaml", "# none\n"), exitInvalid, []string{"describes no stamp"}},
		{"apply: no file", []string{"apply", "-f", "/nosuch"}, exitNotFound, []string{"no such file or folder: /nosuch"}},
		{"apply: syntax", stamps("syntax.yaml", "kind: [Stamp\n"), exitInvalid, []string{`syntax.yaml:\d: YAML: `}},
		{"apply: unknown key", stamps("key.yaml", one+"colour: red\n"), exitInvalid, []string{`key.yaml:4: unknown key "colour"`}},
		{"apply: shape", stamps("shape.yaml", one+"modules: reports\nsettings: [1]\n"), exitInvalid, []string{"shape.yaml:4: modules is a list", "shape.yaml:5: settings is a mapping"}},
		{"apply: twice", stamps("twice.yaml", one+"---\n"+strings.Replace(one, "fresh", "FRESH", 1)), exitInvalid, []string{"twice.yaml:5: stamp fresh was described at .*twice.yaml:1 already"}},
		{"apply: the second is wrong", stamps("half.yaml", one+"---\nkind: Stamp\nname: other\nproduct: nosuch\n"), exitNotFound, []string{"half.yaml:5: product nosuch does not exist"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, code := n.Try(c.args...)
			refused(t, out, code, c.code, c.want...)
		})
	}
	if is := n.holdings(); is != was {
		t.Errorf("refused commands changed:\n%s", difference(was, is))
	}
}

// TestWrongProjects: Compose files and images that are not published.
func TestWrongProjects(t *testing.T) {
	n := shared(t)
	image := n.ProbeImage()
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%[3]s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 10), ", "))
	}
	whole, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	archive := func(name string, content []byte) string { return n.File(name, string(content)) }
	corrupt := bytes.Clone(whole)
	copy(corrupt[len(corrupt)/2:], "this is no gzip")
	const web = "name: refused\nservices:\n  web:\n    image: probe:1\n"
	if err := os.MkdirAll(filepath.Join(n.Dir, "refused"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(n.Dir, "refused", "link")); err != nil {
		t.Fatal(err)
	}
	n.Publish("there", strings.Replace(web, "refused", "there", 1), "--version", "1") // its image is in the registry: no case uploads it
	was := n.holdings()
	for _, c := range []struct {
		name    string
		compose string
		images  string
		code    int
		want    []string
	}{
		{"syntax", "name: refused\nservices: {web: {image: probe:1\n", "", exitInvalid, []string{`compose.yaml:\d+: YAML syntax: `}},
		{"tab", "name: refused\nservices:\n\tweb: {}\n", "", exitInvalid, []string{`compose.yaml:3: YAML syntax: `}},
		{"bomb", bomb + web, "", exitInvalid, []string{`compose.yaml:\d+: aliases make this file larger than \d+ nodes`}},
		{"empty", "", "", exitInvalid, []string{"compose.yaml:1: the file is empty; it needs services"}},
		{"cycle", web + "    depends_on: [db]\n  db:\n    image: probe:1\n    depends_on: [web]\n", "", exitInvalid, []string{`compose.yaml:\d+: services\.\w+\.depends_on: dependency cycle`}},
		{"denied", web + "    privileged: true\n    network_mode: host\n", "", exitInvalid, []string{"2 faults", "compose.yaml:5: services.web.privileged: ", "compose.yaml:6: services.web.network_mode: "}},
		{"unknown attribute", web + "    nosuch: 1\n", "", exitInvalid, []string{"compose.yaml:5: services.web.nosuch: Compose has no such attribute"}},
		{"path climbs", web + "    volumes: [\"../../etc:/x:ro\"]\n", "", exitInvalid, []string{"compose.yaml:5: .*climbs out of the project folder"}},
		{"path of the machine", web + "    env_file: /etc/passwd\n", "", exitInvalid, []string{"compose.yaml:5: .*is a path of the machine"}},
		{"link leads out", web + "    volumes: [\"./link:/x:ro\"]\n", "", exitInvalid, []string{"compose.yaml:5: .*a link leads out of the project folder"}},
		{"no such image", strings.Replace(web, "probe:1", "registry.invalid/none:1", 1), "", exitNotFound, []string{"image registry.invalid/none:1 is nowhere to be found", "hint: .*--images"}},
		{"no archive", web, "/nosuch", exitInvalid, []string{"archive /nosuch does not exist"}},
		{"truncated archive", web, archive("truncated.tar", whole[:len(whole)/2]), exitInvalid, []string{"truncated.tar is truncated, corrupt", "hint: "}},
		{"corrupt archive", web, archive("corrupt.tar", corrupt), exitInvalid, []string{`corrupt.tar\)?.*layer 1 of 1 .* (truncated or )?corrupt`}},
		{"archive of nothing", web, archive("empty.tar", nil), exitInvalid, []string{"empty.tar is truncated, corrupt"}},
		{"layer climbs", web, n.layer("climb.tar", &tar.Header{Name: "../../etc/cron.d/x", Typeflag: tar.TypeReg}), exitInvalid, []string{`entry "../../etc/cron.d/x" has an absolute name or one that climbs`, "hint: "}},
		{"layer of absolute names", web, n.layer("absolute.tar", &tar.Header{Name: "/etc/cron.d/x", Typeflag: tar.TypeReg}), exitInvalid, []string{`entry "/etc/cron.d/x" has an absolute name`}},
		{"symbolic link climbs", web, n.layer("symlink.tar", &tar.Header{Name: "x", Linkname: "../../etc", Typeflag: tar.TypeSymlink}), exitInvalid, []string{`entry "x" is a symbolic link that climbs above the root`}},
		{"hard link is absolute", web, n.layer("hardlink.tar", &tar.Header{Name: "x", Linkname: "/etc/shadow", Typeflag: tar.TypeLink}), exitInvalid, []string{`entry "x" is a hard link that is absolute`}},
		{
			"written through a link", web, n.layer("through.tar", &tar.Header{Name: "x", Linkname: "/etc", Typeflag: tar.TypeSymlink}, &tar.Header{Name: "x/cron.d/y", Typeflag: tar.TypeReg}),
			exitInvalid,
			[]string{`entry "x/cron.d/y" would be written through a symbolic link`},
		},
		{"device", web, n.layer("device.tar", &tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}), exitInvalid, []string{`entry "sda" is a device node`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := n.File("refused/compose.yaml", c.compose)
			args := []string{"release", "publish", file, "--version", "1"}
			out, code := n.Try(append(args, "--images", cmp.Or(c.images, image))...)
			refused(t, out, code, c.code, c.want...)
		})
	}
	file := n.File("refused/compose.yaml", web)
	for name, args := range map[string][]string{
		"no version":    {file},
		"wrong version": {file, "--version", "../.."},
		"no project":    {filepath.Join(n.Dir, "nosuch")},
		"no file":       {t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := n.Try(append([]string{"release", "publish"}, args...)...)
			want := exitInvalid
			if strings.HasPrefix(name, "no ") && name != "no version" {
				want = exitNotFound
			}
			refused(t, out, code, want)
		})
	}
	if is := n.holdings(); is != was {
		t.Errorf("refused projects changed:\n%s", difference(was, is))
	}
	if found := n.grepData("cron.d"); found != "" {
		t.Errorf("a refused layer is kept in %s", found)
	}
}

// layer writes an archive with image probe:1 of one layer, which holds entries
// as they are, and returns its path.
func (n *Node) layer(name string, entries ...*tar.Header) string {
	n.T.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Mode = 0o644
		if err := w.WriteHeader(h); err != nil {
			n.T.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		n.T.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		n.T.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		n.T.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		n.T.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if image, err = mutate.ConfigFile(image, config); err != nil {
		n.T.Fatal(err)
	}
	path := filepath.Join(n.Dir, name)
	f, err := os.Create(path)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := errors.Join(imagebuild.WriteDocker(f, "probe:1", image), f.Close()); err != nil {
		n.T.Fatal(err)
	}
	return path
}

func TestRacingCreates(t *testing.T) {
	n := shared(t)
	n.Publish("raced", strings.Replace(input, "name: input", "name: raced", 1))

	t.Run("two commands", func(t *testing.T) {
		var codes [2]int
		var outs [2]string
		var both sync.WaitGroup
		for i := range codes {
			both.Go(func() { outs[i], codes[i] = n.Try("stamp", "create", "pole", "--product", "raced") })
		}
		both.Wait()
		if codes[0] != 0 {
			codes[0], codes[1], outs[0], outs[1] = codes[1], codes[0], outs[1], outs[0]
		}
		if codes[0] != 0 {
			t.Fatalf("neither won:\n%s\n%s", outs[0], outs[1])
		}
		refused(t, outs[1], codes[1], exitConflict, "stamp pole exists already")
		n.Run("stamp", "delete", "pole", "--purge", "--yes")
	})

	t.Run("a thousand requests", func(t *testing.T) {
		token, err := os.ReadFile(filepath.Join(n.Data(), "token"))
		if err != nil {
			t.Fatal(err)
		}
		client := api.NewClient(n.API, strings.TrimSpace(string(token)))
		start := make(chan struct{})
		var won, lost int
		var others []error
		var mu sync.Mutex // guards what was counted
		var all sync.WaitGroup
		names := []string{"pole", "Pole", "POLE", " pole ", "pOLE"} // one and the same
		for i := range 1000 {
			all.Go(func() {
				<-start
				colour := []byte(`"green"`)
				if i%2 == 0 {
					colour = []byte(`"blue"`)
				}
				_, err := client.CreateStamp(t.Context(), api.StampSpec{Name: names[i%len(names)], Product: "raced", Settings: map[string]json.RawMessage{"COLOUR": colour}}, false, false)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, bulkhead.ErrConflict):
					lost++
				default:
					others = append(others, err)
				}
			})
		}
		close(start)
		all.Wait()
		if won != 1 || lost != 999 {
			t.Errorf("%d won, %d lost, %d failed otherwise: %v", won, lost, len(others), errors.Join(others[:min(3, len(others))]...))
		}
		for _, name := range []string{"p\u043ele", "pol\u0435", "\uff50ole", "po\u200ble", "pole.", "xn--ple-bta"} {
			if _, err := client.CreateStamp(t.Context(), api.StampSpec{Name: name, Product: "raced"}, false, false); !errors.Is(err, bulkhead.ErrInvalid) {
				t.Errorf("look-alike %q: %v", name, err)
			}
		}
		n.Until(10*time.Second, "the winner runs", func() error { _, err := n.Get("pole", "/"); return err })
		if s := n.show("pole"); s.Generation != 1 {
			t.Errorf("the winner was changed: generation %d", s.Generation)
		}
		n.Run("stamp", "delete", "pole", "--purge", "--yes")
	})
}

// TestWrongMachine: what stands against `bulkhead up`.
func TestWrongMachine(t *testing.T) {
	t.Run("port in use", func(t *testing.T) {
		n := Start(t)
		n.Stop()
		was := tree(t, filepath.Join(n.Data(), "etcd")) + tree(t, filepath.Join(n.Data(), "keys"))
		for _, address := range []string{n.API, n.HTTP} {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			out, code := n.Try("up")
			l.Close()
			refused(t, out, code, exitConflict, regexp.QuoteMeta(address), "in use", "hint: .*another address")
		}
		if is := tree(t, filepath.Join(n.Data(), "etcd")) + tree(t, filepath.Join(n.Data(), "keys")); is != was {
			t.Errorf("a refused start changed:\n%s", difference(was, is))
		}
		n.Up()
	})

	t.Run("data folder in use", func(t *testing.T) {
		n := shared(t)
		was := n.holdings()
		for _, flags := range [][]string{{}, {"--detach"}} {
			args := append([]string{"up", "--api", freeAddr(t), "--node-api", freeAddr(t), "--http", freeAddr(t)}, flags...)
			out, code := n.Try(args...)
			refused(t, out, code, exitConflict, fmt.Sprintf("data folder %s is in use by process %d", n.Data(), n.Pid()), "hint: .*bulkhead down --data")
		}
		if is := n.holdings(); is != was {
			t.Errorf("a refused start changed:\n%s", difference(was, is))
		}
	})

	t.Run("data folder of another version", func(t *testing.T) {
		n := New(t)
		n.File("data/format", "7\n")
		n.File("data/etcd/member", "of another layout")
		n.File("data/lock", "")
		was := tree(t, n.Data())
		out, code := n.Try("up")
		refused(t, out, code, exitConflict, `has format "7"; this version of Bulkhead reads format 1 only`, "hint: ")
		if is := tree(t, n.Data()); is != was {
			t.Errorf("a refused start changed:\n%s", difference(was, is))
		}
	})

	t.Run("not root", func(t *testing.T) {
		n := New(t)
		for _, folder := range []string{n.Dir, n.Data()} { // as if it were this user's own
			if err := errors.Join(os.MkdirAll(folder, 0o755), os.Chown(folder, 65534, 65534)); err != nil {
				t.Fatal(err)
			}
		}
		program, err := os.ReadFile(Binary(t))
		if err != nil {
			t.Fatal(err)
		}
		bin := filepath.Join(n.Dir, "program") // the test's own may be in a folder of root's
		if err := os.WriteFile(bin, program, 0o755); err != nil {
			t.Fatal(err)
		}
		roots := filepath.Join(n.Dir, "roots")
		if err := os.Mkdir(roots, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"up"}, {"up", "--data", filepath.Join(roots, "data"), "--detach"}} {
			cmd := exec.Command(bin, args...)
			cmd.Env, cmd.Dir = n.env, n.Dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			out, _ := cmd.CombinedOutput()
			refused(t, string(out), cmd.ProcessState.ExitCode(), exitDenied, "bulkhead up needs root", "hint: run it with sudo")
		}
		if left, _ := os.ReadDir(n.Data()); len(left) > 0 {
			t.Errorf("a refused start left %v", left)
		}
	})

	t.Run("containerd absent", func(t *testing.T) {
		n := New(t)
		with := n.env
		n.env = append(append([]string{}, with...), "PATH="+t.TempDir())
		out, code := n.Try("up", "--containerd", "private")
		refused(t, out, code, exitUnavailable, "containerd is not installed on this machine", "hint: .*apt-get install containerd runc")
		out, code = n.Try("up", "--containerd", "/nosuch.sock")
		refused(t, out, code, exitUnavailable, "no containerd serves at /nosuch.sock", "hint: ")
		out, code = n.Try("doctor")
		if code != 1 || !regexp.MustCompile(`containerd +failed +not found`).MatchString(out) {
			t.Errorf("doctor: exit code %d\n%s", code, out)
		}
		n.env = with
		n.Up() // nothing of the failed attempts stands against it
	})
}

func TestDiskFull(t *testing.T) {
	disk, err := os.MkdirTemp("", "bhdisk")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=512m"); err != nil {
		t.Fatalf("make a small disk: %v", err)
	}
	t.Cleanup(func() { // after the node's own
		if err := errors.Join(syscall.Unmount(disk, 0), os.Remove(disk)); err != nil {
			t.Errorf("left behind: %v", err)
		}
	})
	n := New(t)
	if err := os.Symlink(disk, n.Data()); err != nil {
		t.Fatal(err)
	}
	n.Up()
	n.Publish("small", "name: small\nservices: {web: {image: probe:1, ports: [\"80:8080\"]}}\n", "--version", "1")
	n.Run("stamp", "create", "before", "--product", "small")
	noise := make([]byte, 24<<20)
	rand.Read(noise)
	big := n.ProbeImageAs("big:1", func(s *imagebuild.Spec) {
		s.Files = append(s.Files, imagebuild.File{Path: "/noise", Content: noise})
	})
	var space syscall.Statfs_t
	if err := syscall.Statfs(disk, &space); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(disk, "filler")
	const kept, left = 256 << 20, 8 << 20 // what the registry keeps back, and what it may still take
	if err := os.WriteFile(filler, make([]byte, int64(space.Bavail)*space.Bsize-kept-left), 0o600); err != nil {
		t.Fatal(err)
	}
	was := n.holdings()
	file := n.File("big/compose.yaml", "name: big\nservices: {web: {image: \"big:1\", ports: [\"80:8080\"]}}\n")
	out, code := n.Try("release", "publish", file, "--version", "1", "--images", big)
	refused(t, out, code, exitExhausted, "disk", "hint: ")
	if is := n.holdings(); is != was {
		t.Errorf("what did not fit changed:\n%s", difference(was, is))
	}
	n.MustGet("before", "/")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	n.Run("release", "publish", file, "--version", "1", "--images", big)
	n.Run("stamp", "create", "after", "--product", "big")
	n.MustGet("after", "/")
}
