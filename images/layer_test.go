package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"strings"
	"testing"

	"bulkhead"
)

func link(name, target string) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: target}}
}

func hardLink(name, target string) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeLink, Linkname: target}}
}

func folderEntry(name string) file {
	return file{name: name, Header: tar.Header{Typeflag: tar.TypeDir}}
}

func device(name string, kind byte, major, minor int64) file {
	return file{name: name, Header: tar.Header{Typeflag: kind, Devmajor: major, Devminor: minor}}
}

func TestLayer(t *testing.T) {
	for _, test := range []struct {
		name  string
		files []file
		want  string // in the error; "" for none
	}{
		{"nothing", nil, ""},
		{"usual", []file{folderEntry("./"), folderEntry("./bin/"), {name: "./bin/busybox", body: "x"}, hardLink("bin/ls", "bin/busybox")}, ""},
		{"the root", []file{folderEntry("/")}, ""},
		{"absolute symbolic link", []file{link("bin/sh", "/bin/busybox")}, ""},
		{"link to the root", []file{link("a/b/c", "../..")}, ""},
		{"merged /usr", []file{link("bin", "usr/bin"), {name: "bin/app"}}, ""},
		{"merged /usr, sideways", []file{link("var/run", "../run"), {name: "var/run/pid"}}, ""},
		{"whiteouts", []file{{name: "a/.wh.b"}, {name: "a/.wh..wh..opq"}, device("a/c", tar.TypeChar, 0, 0)}, ""},
		{"pipe", []file{device("run/p", tar.TypeFifo, 0, 0)}, ""},
		{"dots in a name", []file{{name: "a/..b"}, {name: "a/b.."}, {name: "a/..."}}, ""},
		{"absolute link replaced by a folder's file", []file{link("a", "/etc"), {name: "a"}, {name: "b/a"}}, ""},

		{"climbing name", []file{{name: "../x"}}, "climbs"},
		{"climbing name, later", []file{{name: "a/../../x"}}, "climbs"},
		{"climbing name that comes back", []file{{name: "a/../../a/x"}}, "climbs"},
		{"absolute name", []file{{name: "/etc/passwd"}}, "absolute"},
		{"no name", []file{{name: ""}}, "absolute"},
		{"absolute hard link", []file{hardLink("a", "/etc/shadow")}, "hard link"},
		{"climbing hard link", []file{hardLink("a/b", "../etc/shadow")}, "hard link"},
		{"climbing symbolic link", []file{link("a/b", "../../etc")}, "climbs above the root"},
		{"through an absolute link", []file{link("a", "/etc"), {name: "a/passwd"}}, "through a symbolic link"},
		{"folder over an absolute link", []file{link("a", "/etc"), folderEntry("a")}, "through a symbolic link"},
		{"through two links", []file{link("b", "/etc"), link("a", "b"), {name: "a/passwd"}}, "through a symbolic link"},
		{"through a link and up", []file{link("a/b", ".."), link("c", "a/b/.."), {name: "c/x"}}, "through a symbolic link"},
		{"through a loop", []file{link("a", "b"), link("b", "a"), {name: "a/x"}}, "through a symbolic link"},
		{"through a copied link", []file{link("a", "/etc"), hardLink("b", "a"), {name: "b/passwd"}}, "through a symbolic link"},
		{"hard link through a link", []file{link("a", "/etc"), hardLink("b", "a/shadow")}, "hard link through"},
		{"whiteout of the parent", []file{{name: "a/.wh..."}}, "removes a folder"},
		{"whiteout of itself", []file{{name: "a/.wh.."}}, "removes a folder"},
		{"whiteout of nothing", []file{{name: "a/.wh."}}, "removes a folder"},
		{"device", []file{device("dev/mem", tar.TypeChar, 1, 1)}, "device node"},
		{"block device", []file{device("dev/sda", tar.TypeBlock, 8, 0)}, "device node"},
		{"block device 0:0", []file{device("dev/sda", tar.TypeBlock, 0, 0)}, "device node"},
		{"unknown type", []file{device("a", 'Z', 0, 0)}, "unknown type"},
		{"long name", []file{{name: strings.Repeat("a/", 3000)}}, "more than 4096"},
		{"too many", make([]file, 101), ""},
		{"too large", []file{{name: "a", body: strings.Repeat("x", 2<<20)}}, "is larger than"},
		{"too large together", []file{{name: "a", body: strings.Repeat("x", 700<<10)}, {name: "b", body: strings.Repeat("x", 700<<10)}}, "unpacks to more than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.name == "too many" {
				for i := range test.files {
					test.files[i].name = "a"
				}
				test.want = "more than 100 entries"
			}
			raw := tarOf(t, test.files...)
			for _, c := range []struct {
				compression
				raw []byte
			}{{plain, raw}, {gzipd, gzipOf(t, raw)}, {zstdd, zstdOf(t, raw)}} {
				err := checkLayer(bytes.NewReader(c.raw), c.compression, digestOf(raw), Limits{Bytes: 1 << 20, Entries: 100, Ratio: 1000}, new(spent))
				if test.want == "" && err != nil {
					t.Errorf("%q: %v", c.compression, err)
				}
				if test.want != "" && (!errors.Is(err, bulkhead.ErrInvalid) || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("%q: %v, want ... %s ...", c.compression, err, test.want)
				}
			}
		})
	}
}

func TestLayerContent(t *testing.T) {
	raw := tarOf(t, file{name: "a", body: noise(1000)})
	check := func(raw []byte, c compression, diffID bulkhead.Digest, used *spent) error {
		return checkLayer(bytes.NewReader(raw), c, diffID, DefaultLimits(), used)
	}
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"other content":       {check(raw, plain, digestOf([]byte("x")), new(spent)), "is not what the image's configuration names"},
		"cut":                 {check(raw[:700], plain, "", new(spent)), "truncated or corrupt"},
		"cut gzip":            {check(gzipOf(t, raw)[:500], gzipd, digestOf(raw), new(spent)), "truncated or corrupt"},
		"gzip without a tail": {check(gzipOf(t, raw)[:len(gzipOf(t, raw))-8], gzipd, digestOf(raw), new(spent)), "truncated or corrupt"},
		"not gzip":            {check(raw, gzipd, "", new(spent)), "not a gzip stream"},
		"not zstd":            {check(raw, zstdd, "", new(spent)), "truncated or corrupt"},
		"not tar":             {check([]byte(noise(2000)), plain, "", new(spent)), "truncated or corrupt"},
	} {
		if !errors.Is(test.err, bulkhead.ErrInvalid) || !strings.Contains(test.err.Error(), test.want) {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	// The bound is on the image: another layer may have used most of it up.
	used := new(spent)
	used.bytes.Store(DefaultLimits().Bytes - 100)
	if err := check(raw, plain, "", used); err == nil || !strings.Contains(err.Error(), "unpacks to more than") {
		t.Errorf("with little left: %v", err)
	}
	// A stream of zeros, of which zstd makes next to nothing.
	bomb := &bounded{r: zeros{}, packed: &counter{n: 1 << 10}, limits: DefaultLimits(), used: new(spent), hash: nullHash{}}
	buffer := make([]byte, 1<<20)
	for range 1025 {
		if _, err := bomb.Read(buffer); err != nil {
			break
		}
	}
	if bomb.err == nil || !strings.Contains(bomb.err.Error(), "more than 1000 times its size") {
		t.Errorf("bomb: %v", bomb.err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type nullHash struct{}

func (nullHash) Write(p []byte) (int, error) { return len(p), nil }
func (nullHash) Sum(b []byte) []byte         { return b }
func (nullHash) Reset()                      {}
func (nullHash) Size() int                   { return 0 }
func (nullHash) BlockSize() int              { return 1 }

// FuzzLayer: whatever comes, the check ends, and what it lets pass names nothing
// outside of the root by itself.
func FuzzLayer(f *testing.F) {
	for _, files := range [][]file{
		nil,
		{folderEntry("bin/"), {name: "bin/app", body: "x"}, link("bin/sh", "/bin/app"), hardLink("bin/ls", "bin/app")},
		{{name: "../x"}},
		{link("a", "/etc"), {name: "a/passwd"}},
		{link("a/b", ".."), link("c", "a/b/.."), {name: "c/x"}},
		{device("dev/mem", tar.TypeChar, 1, 1)},
	} {
		raw := tarOf(f, files...)
		f.Add(raw, uint8(0))
		f.Add(gzipOf(f, raw), uint8(1))
		f.Add(zstdOf(f, raw), uint8(2))
	}
	f.Fuzz(func(t *testing.T, raw []byte, kind uint8) {
		c := []compression{plain, gzipd, zstdd}[kind%3]
		if checkLayer(bytes.NewReader(raw), c, "", Limits{Bytes: 1 << 20, Entries: 1000, Ratio: 1000}, new(spent)) != nil || c != plain {
			return
		}
		r := tar.NewReader(bytes.NewReader(raw))
		for {
			h, err := r.Next()
			if err != nil {
				return
			}
			if h.Typeflag == tar.TypeXGlobalHeader {
				continue
			}
			if strings.HasPrefix(h.Name, "../") || strings.Contains(h.Name, "/../../../../../../") || h.Typeflag == tar.TypeBlock ||
				h.Typeflag == tar.TypeLink && strings.HasPrefix(h.Linkname, "/") && strings.Trim(h.Linkname, "/") != "" {
				t.Errorf("let pass: %q %q", h.Name, h.Linkname)
			}
		}
	})
}
