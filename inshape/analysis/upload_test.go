package analysis

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"inshape/frame"
	"inshape/frame/frametest"
	"inshape/mesh"
)

const uploadsPath = "/api/analysis/uploads"

// tus is a client that speaks the protocol.
func tus(c *frametest.Client) *frametest.Client { return c.With("Tus-Resumable", "1.0.0") }

func metadata(pairs ...string) string {
	var list []string
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(list, ",")
}

// begin makes an upload and gives its address.
func begin(t testing.TB, c *frametest.Client, size int, pairs ...string) string {
	t.Helper()
	answer := tus(c).With("Upload-Length", strconv.Itoa(size)).With("Upload-Metadata", metadata(pairs...)).Post(uploadsPath, nil).Want(201)
	if answer.Header.Get("Upload-Expires") == "" {
		t.Error("it does not say when the upload is given up")
	}
	return answer.Header.Get("Location")
}

func send(c *frametest.Client, address string, offset int, data []byte) *frametest.Answer {
	return tus(c).With("Upload-Offset", strconv.Itoa(offset)).With("Content-Type", "application/offset+octet-stream").Patch(address, data)
}

func TestUploadInParts(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	data := stl(t, ball(20, 20))
	address := begin(t, c, len(data), "name", "folder/ball.stl", "unit", "millimeter")
	half := len(data) / 2
	if got := send(c, address, 0, data[:half]).Want(204).Header.Get("Upload-Offset"); got != strconv.Itoa(half) {
		t.Errorf("it is at %s, want %d", got, half)
	}
	send(c, address, 0, data[half:]).Refused(409, "wrong-offset")
	send(c, address, half, append(data[half:], 0)).Refused(413, "too-large")
	tus(m.As(frametest.Customer("pty_b"))).Do("HEAD", address, nil).Want(404)
	send(m.As(frametest.Customer("pty_b")), address, half, data[half:]).Refused(404, "not-found")
	// A restart in between costs nothing.
	m.Stop()
	m = frametest.Start(t, Module(), frametest.Setting{Name: "INSHAPE_DATA", Value: m.Server.Config.Data})
	c = m.As(frametest.Customer("pty_a"))
	head := tus(c).Do("HEAD", address, nil).Want(200)
	if head.Header.Get("Upload-Offset") != strconv.Itoa(half) || head.Header.Get("Upload-Length") != strconv.Itoa(len(data)) || head.Header.Get("Inshape-Model") != "" {
		t.Errorf("HEAD: %v", head.Header)
	}
	id := send(c, address, half, data[half:]).Want(204).Header.Get("Inshape-Model")
	model := wait(t, c, id)
	if model.Name != "ball.stl" || model.Revision.State != Done {
		t.Errorf("%s is %s", model.Name, model.Revision.State)
	}
	if got := c.Get(modelsPath + "/" + id + "/revisions/1/file").Want(200).Body; !bytes.Equal(got, data) {
		t.Error("the file is not what was sent")
	}
	if again := tus(c).Do("HEAD", address, nil).Want(200).Header.Get("Inshape-Model"); again != id {
		t.Errorf("afterwards it is model %q", again)
	}
}

func TestUploadIsRefused(t *testing.T) {
	m := frametest.Start(t, Module(), frametest.Setting{Name: "INSHAPE_MAX_UPLOAD", Value: "1"})
	c := m.As(frametest.Customer("pty_a"))
	create := func(length, meta string) *frametest.Answer {
		return tus(c).With("Upload-Length", length).With("Upload-Metadata", meta).Post(uploadsPath, nil)
	}
	name := metadata("name", "a.stl")
	create("", name).Refused(422, "invalid")
	create("-1", name).Refused(422, "invalid")
	create("0", name).Refused(422, "empty")
	create(strconv.Itoa(1<<20+1), name).Refused(413, "too-large")
	create("5", "").Refused(422, "invalid")
	create("5", "name !!!").Refused(422, "invalid")
	create("5", metadata("name", "a.stl", "unit", "cubit")).Refused(422, "invalid")
	c.With("Upload-Length", "5").Post(uploadsPath, nil).Refused(412, "tus-version")
	options := tus(c).Do("OPTIONS", uploadsPath, nil).Want(204)
	if options.Header.Get("Tus-Max-Size") != strconv.Itoa(1<<20) || !strings.Contains(options.Header.Get("Tus-Extension"), "creation") {
		t.Errorf("OPTIONS: %v", options.Header)
	}
	address := begin(t, c, 10, "name", "a.stl")
	tus(c).With("Upload-Offset", "0").Patch(address, []byte("12345")).Refused(415, "unsupported-media-type")
	tus(c).Delete(address).Want(204)
	tus(c).Do("HEAD", address, nil).Want(404)

	c.Post(modelsPath+"?name=a.stl", []byte{}).Refused(422, "empty")
	c.Post(modelsPath, []byte("solid")).Refused(422, "invalid")
	c.Post(modelsPath+"?name=a.stl&unit=cubit", []byte("solid")).Refused(422, "invalid")
	c.Post(modelsPath+"?name=a.stl", make([]byte, 1<<20+1)).Refused(413, "too-large")
	c.Post(modelsPath+"?name=a.stl", io.LimitReader(zeros{}, 1<<20+1)).Refused(413, "too-large") // of no known length
	nothingLeft(t, m)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// nothingLeft fails if a file stands where none should.
func nothingLeft(t *testing.T, m *frametest.Module) {
	t.Helper()
	for _, folder := range []string{"uploads", "models"} {
		entries, err := os.ReadDir(m.Server.Config.File(folder))
		if err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v %v", folder, entries, err)
		}
	}
}

// cut sends part of a body and closes the connection for writing, or altogether.
func cut(t *testing.T, m *frametest.Module, method, path string, header http.Header, data []byte, announced int) string {
	t.Helper()
	r, err := http.NewRequest(method, m.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := frame.Attach(r, frametest.Secret, frametest.Customer("pty_a")); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(m.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n", method, path, announced)
	for _, h := range []http.Header{r.Header, header} {
		if err := h.Write(conn); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprint(conn, "\r\n")
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestUploadIsCut(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	data := stl(t, ball(20, 20))
	answer := cut(t, m, "POST", modelsPath+"?name=a.stl&unit=millimeter", nil, data[:1000], len(data))
	if !strings.HasPrefix(answer, "HTTP/1.1 400") || !strings.Contains(answer, `"upload-cut"`) {
		t.Errorf("a whole upload: %.300s", answer)
	}
	nothingLeft(t, m)

	address := begin(t, c, len(data), "name", "ball.stl", "unit", "millimeter")
	answer = cut(t, m, "PATCH", address, http.Header{"Tus-Resumable": {"1.0.0"}, "Upload-Offset": {"0"}, "Content-Type": {"application/offset+octet-stream"}}, data[:1000], len(data))
	if !strings.HasPrefix(answer, "HTTP/1.1 400") || !strings.Contains(answer, `"upload-cut"`) {
		t.Errorf("an upload in parts: %.300s", answer)
	}
	if got := tus(c).Do("HEAD", address, nil).Want(200).Header.Get("Upload-Offset"); got != "1000" {
		t.Fatalf("it is at %s, want 1000", got)
	}
	model := wait(t, c, send(c, address, 1000, data[1000:]).Want(204).Header.Get("Inshape-Model"))
	if model.Revision.State != Done {
		t.Errorf("it is %s: %+v", model.Revision.State, model.Revision.Problem)
	}
}

func TestUploadIsMadeOnce(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a")).With("Idempotency-Key", "one").With("Content-Type", "application/octet-stream")
	data := stl(t, ball(20, 180)) // above what the frame keeps of a body
	var first, again Model
	path := modelsPath + "?name=a.stl&unit=millimeter"
	c.Post(path, data).Want(201).Into(&first)
	c.Post(path, data).Want(201).Into(&again)
	if first.ID != again.ID {
		t.Error("a repetition made another model")
	}
	c.Post(path, stl(t, block())).Refused(422, "idempotency-key-reused")
	entries, err := os.ReadDir(m.Server.Config.File("models"))
	if err != nil || len(entries) != 1 {
		t.Errorf("%d folders, %v", len(entries), err)
	}
}

func TestUploadByForm(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	post := func(names ...string) *frametest.Answer {
		var b bytes.Buffer
		form := multipart.NewWriter(&b)
		err := form.WriteField("unit", "millimeter")
		for _, name := range names {
			part, failed := form.CreateFormFile("file", name)
			if err = errors.Join(err, failed); err == nil {
				_, err = part.Write(stl(t, block()))
			}
		}
		if err = errors.Join(err, form.Close()); err != nil {
			t.Fatal(err)
		}
		return c.With("Content-Type", form.FormDataContentType()).Post("/analysis/models", b.Bytes())
	}
	one := post("one.stl").Want(303).Header.Get("Location")
	if m := wait(t, c, strings.TrimPrefix(one, "/analysis/models/")); m.Name != "one.stl" || m.Revision.State != Done {
		t.Errorf("%s is %s", m.Name, m.Revision.State)
	}
	if list := post("two.stl", "three.stl").Want(303).Header.Get("Location"); list != "/analysis/" {
		t.Errorf("two files lead to %s", list)
	}
	post().Want(422).Has("No file was chosen")
}

func TestAbandonedUploadsAreCleanedAway(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	model := bring(t, c, "kept.stl", "millimeter", stl(t, block()))
	address := begin(t, c, 1000, "name", "a.stl")
	send(c, address, 0, make([]byte, 100)).Want(204)
	old := time.Now().Add(-2 * orphanAge)
	orphans := []string{m.Server.Config.File("uploads", "mod_orphan"), m.Server.Config.File("models", "mod_orphan")}
	for _, path := range orphans {
		if err := errors.Join(os.MkdirAll(path, 0o700), os.Chtimes(path, old, old)); err != nil {
			t.Fatal(err)
		}
	}
	s := &service{Server: m.Server}
	s.uploads = newUploads(s)
	if err := s.uploads.clean(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	tus(c).Do("HEAD", address, nil).Want(200)
	if err := s.uploads.clean(t.Context(), time.Now().Add(uploadLife+time.Minute)); err != nil {
		t.Fatal(err)
	}
	tus(c).Do("HEAD", address, nil).Want(404)
	c.Get(modelsPath + "/" + model.ID + "/revisions/1/file").Want(200)
	for _, path := range append(orphans, m.Server.Config.File("uploads", filepath.Base(address))) {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", path, err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	m := frametest.Start(t, Module(), frametest.Setting{Name: "INSHAPE_DATA", Value: frametest.SmallDisk(t, "4m")})
	c := m.As(frametest.Customer("pty_a"))
	large := make([]byte, 6<<20)
	c.Post(modelsPath+"?name=a.stl&unit=millimeter", large).Refused(507, "disk-full")
	nothingLeft(t, m)
	address := begin(t, c, len(large), "name", "a.stl")
	send(c, address, 0, large).Refused(507, "disk-full")
	tus(c).Delete(address).Want(204)
	// When there is room again, it goes on.
	model := bring(t, c, "block.stl", "millimeter", stl(t, block()))
	if model.Revision.State != Done {
		t.Errorf("it is %s: %+v", model.Revision.State, model.Revision.Problem)
	}
}

// TestWrongFiles: each wrong input ends with its own code and a text, and is not
// tried again.
func TestWrongFiles(t *testing.T) {
	m := frametest.Start(t, Module())
	c := m.As(frametest.Customer("pty_a"))
	good := stl(t, block())
	patched := func(at int, b ...byte) []byte {
		data := bytes.Clone(good)
		copy(data[at:], b)
		return data
	}
	flat := &mesh.Mesh{Vertices: []mesh.Vec{{0, 0, 0}, {1, 1, 1}, {2, 2, 2}}, Facets: []mesh.Facet{{0, 1, 2}}}
	for name, f := range map[string]struct {
		data []byte
		code mesh.Code
	}{
		"truncated.stl":  {good[:len(good)-20], mesh.Truncated},
		"count.stl":      {patched(80, 200, 0, 0, 0), mesh.WrongCount},
		"magic.png":      {[]byte("\x89PNG\r\n\x1a\n and so on, which is no model"), mesh.WrongMagic},
		"nan.stl":        {patched(84+12, 0, 0, 0xc0, 0x7f), mesh.NotFinite},
		"flat.stl":       {stl(t, flat), mesh.OnlyDegenerate},
		"index.obj":      {[]byte("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"), mesh.BadIndex},
		"bomb.3mf":       {zipBomb(t), mesh.ZipBomb},
		"entity.amf":     {[]byte(`<?xml version="1.0"?><!DOCTYPE amf [<!ENTITY a "aaaa">]><amf unit="millimeter">&a;</amf>`), mesh.XMLEntity},
		"unit.stl":       {good, mesh.MissingUnit},
		"extension.3mf":  {requiresUnknown(t), mesh.UnsupportedExtension},
		"nothing.3mf":    {[]byte("PK\x05\x06" + strings.Repeat("\x00", 18)), ""},
		"not an stl.3mf": {good, mesh.WrongMagic},
	} {
		t.Run(name, func(t *testing.T) {
			unit := "millimeter"
			if f.code == mesh.MissingUnit {
				unit = ""
			}
			r := bring(t, c, strings.ReplaceAll(name, " ", "%20"), unit, f.data).Revision
			want := Refused
			if f.code == mesh.MissingUnit {
				want = Asking
			}
			if r.State != want || r.Problem == nil || len(r.Problem.Text) < 20 || f.code != "" && r.Problem.Code != string(f.code) {
				t.Errorf("%s: %+v, want %s", r.State, r.Problem, f.code)
			}
		})
	}
}

// threeMF is a 3MF package with a model part.
func threeMF(t *testing.T, model io.Reader) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, part := range []struct {
		name string
		body io.Reader
	}{
		{"[Content_Types].xml", strings.NewReader(`<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>`)},
		{"_rels/.rels", strings.NewReader(`<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r" Target="/3D/3dmodel.model" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>`)},
		{"3D/3dmodel.model", model},
	} {
		w, err := z.Create(part.name)
		if err == nil {
			_, err = io.Copy(w, part.body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipBomb(t *testing.T) []byte { return threeMF(t, io.LimitReader(zeros{}, 64<<20)) }

func requiresUnknown(t *testing.T) []byte {
	return threeMF(t, strings.NewReader(`<?xml version="1.0"?><model unit="millimeter" xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02" xmlns:q="http://example.com/unheard-of" requiredextensions="q"><resources/><build/></model>`))
}
