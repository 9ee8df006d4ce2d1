package analysis

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
	"inshape/mesh"
)

const (
	tusVersion   = "1.0.0"
	uploadLife   = 24 * time.Hour   // since its last byte
	uploadStall  = time.Minute      // without a byte, then the connection is given up
	uploadsOpen  = 200              // of a party at a time
	cleaningTime = 10 * time.Minute // between looks at what was left behind
	orphanAge    = time.Hour        // of files without a model, then they are deleted
)

// uploads takes files in: whole ones by POST, and in parts by the tus protocol
// 1.0.0 (tus.io/protocols/resumable-upload) with creation, expiration and
// termination. What has arrived of an upload is its file's size and nothing
// else, so that a crash costs no more than what was on its way.
type uploads struct {
	s *service

	mu   sync.Mutex
	busy map[string]bool // guarded by mu; uploads that are being written to
}

func newUploads(s *service) *uploads { return &uploads{s: s, busy: map[string]bool{}} }

func (s *service) uploadAPI() {
	u, base := s.uploads, s.Base()+"/uploads"
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		s.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := h(w, r); err != nil {
				s.Fail(w, r, uploadProblem(err))
			}
		}))
	}
	tus := func(h func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			w.Header().Set("Tus-Resumable", tusVersion)
			w.Header().Set("Cache-Control", "no-store")
			if r.Method != http.MethodOptions && r.Header.Get("Tus-Resumable") != tusVersion {
				w.Header().Set("Tus-Version", tusVersion)
				return frame.NewProblem(http.StatusPreconditionFailed, "tus-version", "Tus-Resumable: this is tus %s", tusVersion)
			}
			return h(w, r)
		}
	}
	handle("POST "+s.Base()+"/models", u.whole)
	handle("OPTIONS "+base, tus(u.options))
	handle("POST "+base, tus(u.create))
	handle("HEAD "+base+"/{id}", tus(u.head))
	handle("PATCH "+base+"/{id}", tus(u.patch))
	handle("DELETE "+base+"/{id}", tus(u.terminate))

	text := func(name, in, about string) *huma.Param {
		return &huma.Param{Name: name, In: in, Description: about, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	schema := s.API.OpenAPI().Components.Schemas
	s.API.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "create-model", Method: http.MethodPost, Path: s.Base() + "/models", Tags: []string{"Models"},
		Summary:     "Upload a file, whole",
		Description: fmt.Sprintf("The body is the file: STL, OBJ, 3MF or AMF, at most %d MiB. Its analysis begins at once. A file whose format has no unit and that comes without one ends in the state asking.", s.settings.MaxUpload>>20),
		Parameters: []*huma.Param{
			text("name", "query", "Of the file, with its extension"),
			text("unit", "query", "Of an STL or OBJ: micron, millimeter, centimeter, meter, inch or foot"),
			text("party", "query", "Whose it becomes; for staff"), text("Idempotency-Key", "header", ""),
		},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/octet-stream": {}}},
		Responses: map[string]*huma.Response{
			"201": {Description: "The model", Content: map[string]*huma.MediaType{"application/json": {Schema: schema.Schema(reflect.TypeFor[Model](), true, "Model")}}},
		},
	})
	s.API.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "create-upload", Method: http.MethodPost, Path: base, Tags: []string{"Models"},
		Summary:     "Begin a resumable upload",
		Description: "tus 1.0.0 with creation, expiration and termination. Upload-Metadata: name, unit, party. The last PATCH and HEAD answer with Inshape-Model: the model that the file became.",
		Parameters: []*huma.Param{
			text("Tus-Resumable", "header", tusVersion), text("Upload-Length", "header", "Bytes of the file"), text("Upload-Metadata", "header", ""),
		},
		Responses: map[string]*huma.Response{"201": {Description: "Location is where to PATCH the bytes to"}},
	})
}

// uploadProblem gives what can go wrong with a file on its way a code of its own.
func uploadProblem(err error) error {
	if _, ok := errors.AsType[*frame.Problem](err); ok {
		return err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "disk is full"):
		full := diskFull()
		return frame.NewProblem(http.StatusInsufficientStorage, full.Code, "%s", full.Text).Because(err)
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.ECONNRESET):
		return frame.NewProblem(http.StatusBadRequest, "upload-cut", "the upload was cut in the middle; nothing of it is kept").Because(err).
			Advise("Send it again; /api/analysis/uploads takes files in parts and goes on where it stopped.")
	}
	return err
}

func (u *uploads) tooLarge() error {
	return frame.NewProblem(http.StatusRequestEntityTooLarge, "too-large", "the file is larger than %d MiB", u.s.settings.MaxUpload>>20).
		Advise("Simplify the model, or split it.")
}

// whole takes a file that comes in one request.
func (u *uploads) whole(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > u.s.settings.MaxUpload {
		return u.tooLarge()
	}
	q := r.URL.Query()
	m, err := u.take(r.Context(), body(w, r), q.Get("name"), mesh.Unit(q.Get("unit")), q.Get("party"))
	if err != nil {
		return err
	}
	w.Header().Set("Location", u.s.Base()+"/models/"+m.ID)
	w.Header().Set("ETag", frame.ETag(m.Version))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(m)
}

// take keeps one file and makes a model of it.
func (u *uploads) take(ctx context.Context, from io.Reader, name string, unit mesh.Unit, party string) (Model, error) {
	a, err := u.arrival(ctx, name, unit, party)
	if err != nil {
		return Model{}, err
	}
	path := u.s.Config.File("uploads", a.id)
	defer os.Remove(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Model{}, fmt.Errorf("keep upload: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(from, u.s.settings.MaxUpload+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return Model{}, fmt.Errorf("keep upload: %w", err)
	}
	switch {
	case n > u.s.settings.MaxUpload:
		return Model{}, u.tooLarge()
	case n == 0:
		return Model{}, frame.NewProblem(http.StatusUnprocessableEntity, string(mesh.Empty), "the file is empty").Advise("Export it again.")
	}
	return u.finish(ctx, path, a, nil)
}

// arrival checks what is said about a file.
func (u *uploads) arrival(ctx context.Context, name string, unit mesh.Unit, party string) (arrival, error) {
	a := arrival{id: frame.NewID("mod"), name: cleanName(name), unit: unit}
	if a.name == "" {
		return a, frame.Invalid("name: say what the file is called, such as bracket.stl")
	}
	if _, ok := unit.Millimetres(); unit != "" && !ok {
		return a, frame.Invalid("unit: %q is none of micron, millimeter, centimeter, meter, inch and foot", unit)
	}
	var err error
	a.party, err = forWhom(ctx, party)
	return a, err
}

// finish makes a model of a file that is complete. It may be repeated.
func (u *uploads) finish(ctx context.Context, path string, a arrival, also func(*frame.Tx) error) (Model, error) {
	var err error
	if a.bytes, a.sha256, err = digest(path); err != nil {
		return Model{}, fmt.Errorf("keep upload: %w", err)
	}
	place := u.s.path(a.id, 1, fileSource)
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return Model{}, fmt.Errorf("keep upload: %w", err)
	}
	if err := os.Link(path, place); err != nil && !errors.Is(err, os.ErrExist) {
		return Model{}, fmt.Errorf("keep upload: %w", err)
	}
	for _, folder := range []string{filepath.Dir(place), u.s.Config.File("models", a.id), u.s.Config.File("models")} {
		if err := syncFolder(folder); err != nil {
			return Model{}, fmt.Errorf("keep upload: %w", err)
		}
	}
	m, err := frame.Once(ctx, u.s.Store, func(tx *frame.Tx) (Model, error) {
		m, err := u.s.add(tx, a)
		if err == nil && also != nil {
			err = also(tx)
		}
		return m, err
	})
	if err != nil || m.ID != a.id {
		_ = os.RemoveAll(u.s.Config.File("models", a.id)) // the cleaner finds what is left
	}
	if err == nil && m.ID != a.id && m.Revision.SHA256 != a.sha256 {
		err = frame.NewProblem(http.StatusUnprocessableEntity, "idempotency-key-reused", "this Idempotency-Key was used for another file").
			Advise("Use a new key for every new request.")
	}
	if err != nil {
		return Model{}, err
	}
	u.s.queue.notice()
	return m, nil
}

func digest(path string) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err == nil {
		err = f.Sync()
	}
	return n, hex.EncodeToString(sum.Sum(nil)), err
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// body is a request's body that must not stall.
func body(w http.ResponseWriter, r *http.Request) io.Reader {
	return &lively{r.Body, http.NewResponseController(w)}
}

type lively struct {
	from    io.Reader
	control *http.ResponseController
}

func (l *lively) Read(p []byte) (int, error) {
	// Not every connection has deadlines: those of tests have none.
	_ = l.control.SetReadDeadline(time.Now().Add(uploadStall))
	n, err := l.from.Read(p)
	if err == io.EOF {
		_ = l.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// upload is a file on its way.
type upload struct {
	arrival
	id     string
	size   int64
	offset int64
	ends   time.Time // when it is given up
	done   bool
}

// find gives an upload of whoever asks. Others learn that there is none.
func (u *uploads) find(ctx context.Context, id string) (upload, error) {
	var up upload
	var by, expires string
	err := u.s.Store.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT id, party, by_id, name, unit, size, expires, model, done FROM upload WHERE id = ?", id).
			Scan(&up.id, &up.party, &by, &up.name, &up.unit, &up.size, &expires, &up.arrival.id, &up.done)
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && by != frame.Who(ctx).Subject {
		return up, frame.NotFound("there is no upload %s", id)
	}
	if err != nil {
		return up, fmt.Errorf("find upload: %w", err)
	}
	up.ends, up.offset = frame.ParseStamp(expires), up.size
	if up.done {
		return up, nil
	}
	info, err := os.Stat(u.path(id))
	if err != nil {
		return up, frame.NewProblem(http.StatusGone, "expired", "upload %s was given up", id).Because(err).Advise("Begin a new one.")
	}
	up.offset = info.Size()
	return up, nil
}

func (u *uploads) path(id string) string { return u.s.Config.File("uploads", id) }

// lock keeps an upload for one request. What writes to it has it until it ends.
func (u *uploads) lock(id string) (unlock func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[id] {
		return nil, frame.NewProblem(http.StatusLocked, "upload-busy", "upload %s is being written to by another request", id).Advise("Try again when that has ended.")
	}
	u.busy[id] = true
	return func() {
		u.mu.Lock()
		delete(u.busy, id)
		u.mu.Unlock()
	}, nil
}

func (u *uploads) options(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Tus-Version", tusVersion)
	w.Header().Set("Tus-Extension", "creation,expiration,termination")
	w.Header().Set("Tus-Max-Size", strconv.FormatInt(u.s.settings.MaxUpload, 10))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (u *uploads) create(w http.ResponseWriter, r *http.Request) error {
	size, err := strconv.ParseInt(r.Header.Get("Upload-Length"), 10, 64)
	switch {
	case err != nil || size < 0:
		return frame.Invalid("Upload-Length: %q is no number of bytes", r.Header.Get("Upload-Length"))
	case size > u.s.settings.MaxUpload:
		return u.tooLarge()
	case size == 0:
		return frame.NewProblem(http.StatusUnprocessableEntity, string(mesh.Empty), "the file is empty").Advise("Export it again.")
	}
	metadata, err := tusMetadata(r.Header.Get("Upload-Metadata"))
	if err != nil {
		return err
	}
	name := metadata["name"]
	if name == "" {
		name = metadata["filename"] // as clients of tus call it
	}
	a, err := u.arrival(r.Context(), name, mesh.Unit(metadata["unit"]), metadata["party"])
	if err != nil {
		return err
	}
	id := frame.NewID("upl")
	f, err := os.OpenFile(u.path(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("begin upload: %w", err)
	}
	ends := time.Now().Add(uploadLife)
	err = u.s.Store.Update(r.Context(), func(tx *frame.Tx) error {
		var open int
		if err := tx.QueryRow("SELECT count(*) FROM upload WHERE party = ? AND NOT done", a.party).Scan(&open); err != nil {
			return fmt.Errorf("count uploads: %w", err)
		}
		if open >= uploadsOpen {
			return frame.Conflict("%d uploads are under way already", open).Advise("Finish or delete some first.")
		}
		_, err := tx.Exec("INSERT INTO upload (id, party, by_id, name, unit, size, at, expires, model) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			id, a.party, frame.Who(r.Context()).Subject, a.name, a.unit, size, frame.Stamp(time.Now()), frame.Stamp(ends), a.id)
		return err
	})
	if err != nil {
		_ = os.Remove(u.path(id)) // the cleaner finds what is left
		return err
	}
	w.Header().Set("Location", u.s.Base()+"/uploads/"+id)
	w.Header().Set("Upload-Expires", ends.UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tusMetadata reads pairs of a key and a value in base 64.
func tusMetadata(header string) (map[string]string, error) {
	metadata := map[string]string{}
	for pair := range strings.SplitSeq(header, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), " ")
		if key == "" {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return nil, frame.Invalid("Upload-Metadata: %s is not in base 64", key)
		}
		metadata[key] = string(text)
	}
	return metadata, nil
}

func (u *uploads) tell(w http.ResponseWriter, up upload) {
	w.Header().Set("Upload-Offset", strconv.FormatInt(up.offset, 10))
	w.Header().Set("Upload-Length", strconv.FormatInt(up.size, 10))
	w.Header().Set("Upload-Expires", up.ends.UTC().Format(http.TimeFormat))
	if up.done {
		w.Header().Set("Inshape-Model", up.arrival.id)
	}
}

func (u *uploads) head(w http.ResponseWriter, r *http.Request) error {
	up, err := u.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	// It may be complete without being a model: after a crash, or a full disk.
	if up.offset == up.size && !up.done {
		unlock, err := u.lock(up.id)
		if err != nil {
			return err
		}
		defer unlock()
		if up, err = u.complete(r.Context(), up); err != nil {
			return err
		}
	}
	u.tell(w, up)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (u *uploads) patch(w http.ResponseWriter, r *http.Request) error {
	if kind := r.Header.Get("Content-Type"); kind != "application/offset+octet-stream" {
		return frame.NewProblem(http.StatusUnsupportedMediaType, "unsupported-media-type", "Content-Type: %q is not application/offset+octet-stream", kind)
	}
	unlock, err := u.lock(r.PathValue("id"))
	if err != nil {
		return err
	}
	defer unlock()
	up, err := u.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if offset := r.Header.Get("Upload-Offset"); offset != strconv.FormatInt(up.offset, 10) {
		return frame.NewProblem(http.StatusConflict, "wrong-offset", "Upload-Offset: %q is not %d, where the upload is", offset, up.offset).
			Advise("Ask by HEAD where it is and go on there.")
	}
	if r.ContentLength > up.size-up.offset {
		return frame.NewProblem(http.StatusRequestEntityTooLarge, "too-large", "that is more than the %d bytes that were announced", up.size)
	}
	n, err := u.receive(u.path(up.id), up.size-up.offset, body(w, r))
	up.offset += n
	up.ends = time.Now().Add(uploadLife)
	if n > 0 {
		noted := u.s.Store.Update(context.WithoutCancel(r.Context()), func(tx *frame.Tx) error {
			_, err := tx.Exec("UPDATE upload SET expires = ? WHERE id = ?", frame.Stamp(up.ends), up.id)
			return err
		})
		if noted != nil {
			return errors.Join(err, fmt.Errorf("note upload: %w", noted))
		}
	}
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return frame.NewProblem(http.StatusBadRequest, "upload-cut", "the upload was cut at byte %d of %d", up.offset, up.size).Because(err).
				Advise("Go on there.")
		}
		return err
	}
	if up.offset == up.size {
		if up, err = u.complete(r.Context(), up); err != nil {
			return err
		}
	}
	u.tell(w, up)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receive adds to a file at most room bytes, and tells how many. They are on the
// disk when it returns.
func (u *uploads) receive(path string, room int64, from io.Reader) (int64, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, fmt.Errorf("keep upload: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(from, room))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, fmt.Errorf("keep upload: %w", err)
	}
	return n, nil
}

// complete makes a model of an upload of which all has arrived.
func (u *uploads) complete(ctx context.Context, up upload) (upload, error) {
	// The client may be gone; its file has arrived all the same.
	_, err := u.finish(context.WithoutCancel(ctx), u.path(up.id), up.arrival, func(tx *frame.Tx) error {
		_, err := tx.Exec("UPDATE upload SET done = 1 WHERE id = ?", up.id)
		return err
	})
	if err != nil {
		return up, err
	}
	up.done = true
	return up, os.Remove(u.path(up.id))
}

func (u *uploads) terminate(w http.ResponseWriter, r *http.Request) error {
	unlock, err := u.lock(r.PathValue("id"))
	if err != nil {
		return err
	}
	defer unlock()
	up, err := u.find(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if err := u.forget(r.Context(), up.id); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// forget deletes the file first: that makes room if the disk is full.
func (u *uploads) forget(ctx context.Context, id string) error {
	if err := os.Remove(u.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forget upload: %w", err)
	}
	err := u.s.Store.Update(ctx, func(tx *frame.Tx) error {
		_, err := tx.Exec("DELETE FROM upload WHERE id = ?", id)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget upload: %w", err)
	}
	return nil
}

// Run deletes uploads that were given up, and files that a crash left without a
// model or an upload, until ctx ends.
func (u *uploads) Run(ctx context.Context) error {
	tick := time.NewTicker(cleaningTime)
	defer tick.Stop()
	for {
		if err := u.clean(ctx, time.Now()); err != nil {
			u.s.log(ctx, "clean uploads", err) // it is tried again
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (u *uploads) clean(ctx context.Context, now time.Time) error {
	var expired []string
	known := map[string]bool{} // names in the folders uploads and models that belong to something
	err := u.s.Store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT id, expires FROM upload UNION ALL SELECT id, '' FROM model WHERE deleted = ''")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, ends string
			if err := rows.Scan(&id, &ends); err != nil {
				return err
			}
			known[id] = true
			if ends != "" && ends < frame.Stamp(now) {
				expired = append(expired, id)
			}
		}
		return rows.Err()
	})
	if err != nil {
		return fmt.Errorf("find uploads: %w", err)
	}
	for _, id := range expired {
		unlock, err := u.lock(id)
		if err != nil {
			continue // somebody goes on with it just now
		}
		err = u.forget(ctx, id)
		unlock()
		if err != nil {
			return err
		}
	}
	for _, folder := range []string{"uploads", "models"} {
		entries, err := os.ReadDir(u.s.Config.File(folder))
		if err != nil {
			return fmt.Errorf("find orphans: %w", err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil || known[e.Name()] || now.Sub(info.ModTime()) < orphanAge {
				continue
			}
			if err := os.RemoveAll(u.s.Config.File(folder, e.Name())); err != nil {
				return fmt.Errorf("delete orphan: %w", err)
			}
		}
	}
	return nil
}
