package orders

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
)

const (
	maxAttachment  = 32 << 20 // bytes
	maxAttachments = 50       // of an order
)

// Attachment is a file that belongs to an order: a drawing, a purchase order.
type Attachment struct {
	ID     string    `json:"id"`
	Name   string    `json:"name"`
	Type   string    `json:"type" doc:"Media type, as the sender said"`
	Size   int64     `json:"size" doc:"Bytes"`
	SHA256 string    `json:"sha256"`
	Actor  string    `json:"actor"`
	ByName string    `json:"by_name"`
	At     time.Time `json:"at"`
}

func (m *module) attachmentOperations() {
	api, path, tags := m.server.API, m.server.Base()+"/orders/{id}/attachments", []string{"Attachments"}
	huma.Register(api, huma.Operation{
		OperationID: "list-attachments", Method: http.MethodGet, Path: path, Tags: tags, Summary: "An order's files", Errors: []int{404},
	}, func(ctx context.Context, in *OrderPath) (*struct{ Body frame.List[Attachment] }, error) {
		list, err := m.attachments(ctx, in.ID)
		return &struct{ Body frame.List[Attachment] }{frame.ListOf(list, maxAttachments, nil)}, err
	})
	// Files are streams, which the API's document describes by hand.
	binary := map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}
	order := &huma.Param{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}
	api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "create-attachment", Method: http.MethodPost, Path: path, Tags: tags, Summary: "Add a file: the body is its bytes, at most 32 MiB",
		Parameters: []*huma.Param{
			order,
			{Name: "name", In: "query", Required: true, Description: "File name", Schema: &huma.Schema{Type: huma.TypeString}},
			{Name: "Idempotency-Key", In: "header", Description: "A repetition gets the file that is there", Schema: &huma.Schema{Type: huma.TypeString}},
		},
		RequestBody: &huma.RequestBody{Required: true, Content: binary},
		Responses:   map[string]*huma.Response{"201": {Description: "Created", Content: map[string]*huma.MediaType{"application/json": {Schema: api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Attachment](), true, "Attachment")}}}},
	})
	api.OpenAPI().AddOperation(&huma.Operation{
		OperationID: "get-attachment", Method: http.MethodGet, Path: path + "/{attachment}", Tags: tags, Summary: "The bytes of a file",
		Parameters: []*huma.Param{order, {Name: "attachment", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}}},
		Responses:  map[string]*huma.Response{"200": {Description: "The file", Content: binary}},
	})
	m.server.Handle("POST "+path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, err := m.attach(r.Context(), r.PathValue("id"), r.URL.Query().Get("name"), r.Header.Get("Content-Type"), http.MaxBytesReader(w, r.Body, maxAttachment))
		if err != nil {
			m.server.Fail(w, r, err)
			return
		}
		frame.WriteJSON(w, http.StatusCreated, a)
	}))
	m.server.Handle("GET "+path+"/{attachment}", http.HandlerFunc(m.download))
}

// attach keeps a file: first whole on disk, then known.
func (m *module) attach(ctx context.Context, order, name, kind string, body io.Reader) (*Attachment, error) {
	if err := m.store.View(ctx, func(tx *sql.Tx) error { return mustSee(tx, frame.Who(ctx), order) }); err != nil {
		return nil, err
	}
	name = strings.TrimSpace(filepath.Base(strings.ReplaceAll(name, `\`, "/")))
	if slices.Contains([]string{"", ".", "..", "/"}, name) || len(name) > 200 || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return nil, frame.Invalid("name: a file name of at most 200 bytes is needed, such as ?name=drawing.pdf")
	}
	kind, _, err := mime.ParseMediaType(kind)
	if err != nil || strings.HasPrefix(kind, "multipart/") || len(kind) > 100 {
		kind = "application/octet-stream"
	}
	who := frame.Who(ctx)
	a := &Attachment{ID: frame.NewID("att"), Name: name, Type: kind, Actor: who.Subject, ByName: who.Name, At: time.Now().UTC()}
	if err := m.keep(a, body); err != nil {
		return nil, err
	}
	kept, err := frame.Once(ctx, m.store, func(tx *frame.Tx) (Attachment, error) {
		o, err := loadOrder(tx, who, order)
		if err != nil {
			return *a, err
		}
		var count int
		if err := tx.QueryRow("SELECT count(*) FROM attachment WHERE order_id = ?", order).Scan(&count); err != nil {
			return *a, fmt.Errorf("count attachments: %w", err)
		}
		if count >= maxAttachments {
			return *a, frame.Conflict("order %d has %d files already", o.Number, count)
		}
		if _, err := tx.Exec("INSERT INTO attachment (id, order_id, name, type, size, sha256, actor, by_name, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			a.ID, order, a.Name, a.Type, a.Size, a.SHA256, a.Actor, a.ByName, frame.Stamp(a.At)); err != nil {
			return *a, fmt.Errorf("save attachment: %w", err)
		}
		return *a, errors.Join(tx.Emit("order.attached", o.ID, o.Party, Attached{Order: o.ID, Number: o.Number, Attachment: *a}),
			tx.Audit("order.attached", o.ID, "%s, %d bytes", a.Name, a.Size))
	})
	if err != nil {
		return nil, errors.Join(err, os.Remove(m.path(a.ID)))
	}
	if kept.ID == a.ID {
		return a, nil
	}
	// The request was repeated. Its body was no part of what the key stands for.
	if err := os.Remove(m.path(a.ID)); err != nil {
		return nil, fmt.Errorf("forget repeated attachment: %w", err)
	}
	if kept.SHA256 != a.SHA256 {
		return nil, frame.NewProblem(http.StatusUnprocessableEntity, "idempotency-key-reused", "this Idempotency-Key was used for another file").
			Advise("Use a new key for every new file.")
	}
	return &kept, nil
}

// sweep removes what a crash left between the file and the store: files that no
// order has.
func (m *module) sweep(ctx context.Context) error {
	files, err := os.ReadDir(m.files)
	if err != nil {
		return fmt.Errorf("sweep attachments: %w", err)
	}
	return m.store.View(ctx, func(tx *sql.Tx) error {
		for _, file := range files {
			known := false
			if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM attachment WHERE id = ?)", file.Name()).Scan(&known); err != nil {
				return fmt.Errorf("sweep attachments: %w", err)
			}
			if known {
				continue
			}
			if err := os.Remove(m.path(file.Name())); err != nil {
				return fmt.Errorf("sweep attachments: %w", err)
			}
			m.log.Info("removed a file of no order", "file", file.Name())
		}
		return nil
	})
}

func (m *module) path(attachment string) string { return filepath.Join(m.files, attachment) }

// keep writes a file under its identifier, so that a crash cannot take it, or
// leaves nothing.
func (m *module) keep(a *Attachment, body io.Reader) (err error) {
	file, err := os.CreateTemp(m.files, "new-")
	if err != nil {
		return fmt.Errorf("keep attachment: %w", err)
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err == nil {
			err = os.Rename(file.Name(), m.path(a.ID))
		}
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
			return
		}
		if err = syncFolder(m.files); err != nil {
			err = errors.Join(err, os.Remove(m.path(a.ID)))
		}
	}()
	sum := sha256.New()
	if a.Size, err = io.Copy(io.MultiWriter(file, sum), body); err != nil {
		return err
	}
	if a.Size == 0 {
		return frame.Invalid("the file is empty")
	}
	a.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := file.Sync(); err != nil {
		return fmt.Errorf("keep attachment: %w", err)
	}
	return nil
}

// syncFolder puts the names in a folder on disk.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (m *module) attachments(ctx context.Context, order string) ([]Attachment, error) {
	var list []Attachment
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		if err := mustSee(tx, frame.Who(ctx), order); err != nil {
			return err
		}
		rows, err := tx.Query("SELECT id, name, type, size, sha256, actor, by_name, at FROM attachment WHERE order_id = ? ORDER BY id", order)
		if err != nil {
			return fmt.Errorf("list attachments: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var a Attachment
			var at string
			if err := rows.Scan(&a.ID, &a.Name, &a.Type, &a.Size, &a.SHA256, &a.Actor, &a.ByName, &at); err != nil {
				return fmt.Errorf("list attachments: %w", err)
			}
			a.At = frame.ParseStamp(at)
			list = append(list, a)
		}
		return rows.Err()
	})
	return list, err
}

// download gives the bytes, always to be saved and never to be shown in the
// shop's own origin.
func (m *module) download(w http.ResponseWriter, r *http.Request) {
	list, err := m.attachments(r.Context(), r.PathValue("id"))
	if err != nil {
		m.server.Fail(w, r, err)
		return
	}
	for _, a := range list {
		if a.ID != r.PathValue("attachment") {
			continue
		}
		file, err := os.Open(m.path(a.ID))
		if err != nil {
			m.server.Fail(w, r, fmt.Errorf("open attachment: %w", err))
			return
		}
		defer file.Close()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": a.Name}))
		w.Header().Set("ETag", `"`+a.SHA256+`"`)
		http.ServeContent(w, r, "", a.At, file)
		return
	}
	m.server.Fail(w, r, frame.NotFound("there is no file %s", r.PathValue("attachment")))
}
