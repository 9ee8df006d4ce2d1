package orders

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
)

// Comment is a word between the shop and its customer, or inside the shop.
type Comment struct {
	ID       string     `json:"id"`
	Text     string     `json:"text"`
	Internal bool       `json:"internal" doc:"Seen by staff alone"`
	Actor    string     `json:"actor"`
	Name     string     `json:"name"`
	Role     frame.Role `json:"role" enum:"customer,staff,admin"`
	At       time.Time  `json:"at"`
}

// NewComment is what somebody says.
type NewComment struct {
	Text     string `json:"text" minLength:"1" maxLength:"4000" pattern:"\\S" patternDescription:"more than blanks"`
	Internal bool   `json:"internal,omitempty" doc:"Among staff"`
}

func (m *module) commentOperations() {
	api, path, tags := m.server.API, m.server.Base()+"/orders/{id}/comments", []string{"Comments"}
	huma.Register(api, huma.Operation{
		OperationID: "create-comment", Method: http.MethodPost, Path: path, Tags: tags, DefaultStatus: http.StatusCreated, Summary: "Say something", Errors: []int{403, 404, 422},
	}, func(ctx context.Context, in *struct {
		OrderPath
		Key  string `header:"Idempotency-Key"`
		Body NewComment
	},
	) (*struct{ Body Comment }, error) {
		c, err := m.comment(ctx, in.ID, in.Body)
		return &struct{ Body Comment }{c}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-comments", Method: http.MethodGet, Path: path, Tags: tags, Summary: "What was said, oldest first", Errors: []int{404},
	}, func(ctx context.Context, in *struct {
		OrderPath
		frame.Page
	},
	) (*struct{ Body frame.List[Comment] }, error) {
		list, err := m.comments(ctx, in.ID, "id > ? ORDER BY id", in.After, in.Limit+1)
		return &struct{ Body frame.List[Comment] }{frame.ListOf(list, in.Limit, func(c Comment) string { return c.ID })}, err
	})
}

// comment keeps what was said. An order whose customer said the last word is
// marked so; whatever staff say takes the mark away.
func (m *module) comment(ctx context.Context, order string, in NewComment) (Comment, error) {
	who := frame.Who(ctx)
	if in.Internal && !who.May(frame.Staff) {
		return Comment{}, frame.Forbidden("internal: only staff talk among themselves")
	}
	return frame.Once(ctx, m.store, func(tx *frame.Tx) (Comment, error) {
		o, err := loadOrder(tx, who, order)
		if err != nil {
			return Comment{}, err
		}
		c := Comment{ID: frame.NewID("cmt"), Text: strings.TrimSpace(in.Text), Internal: in.Internal, Actor: who.Subject, Name: who.Name, Role: who.Role, At: time.Now().UTC()}
		if _, err := tx.Exec("INSERT INTO comment (id, order_id, text, internal, actor, name, role, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			c.ID, o.ID, c.Text, c.Internal, c.Actor, c.Name, c.Role, frame.Stamp(c.At)); err != nil {
			return c, fmt.Errorf("save comment: %w", err)
		}
		if _, err := tx.Exec("UPDATE orders SET asked = ? WHERE id = ?", !who.May(frame.Staff), o.ID); err != nil {
			return c, fmt.Errorf("mark order: %w", err)
		}
		kind, party := "order.commented", o.Party
		if c.Internal {
			kind, party = "order.noted", "" // the shop's own
		}
		return c, errors.Join(tx.Emit(kind, o.ID, party, Remark{Order: o.ID, Number: o.Number, Comment: c.ID, Role: c.Role}), tx.Audit(kind, o.ID, "%s", c.ID))
	})
}

// comments are up to limit that the asker may read, of those and in the order
// that part says.
func (m *module) comments(ctx context.Context, order, part, cursor string, limit int) ([]Comment, error) {
	who := frame.Who(ctx)
	var list []Comment
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		if err := mustSee(tx, who, order); err != nil {
			return err
		}
		rows, err := tx.Query("SELECT id, text, internal, actor, name, role, at FROM comment WHERE order_id = ? AND (? OR NOT internal) AND "+part+" LIMIT ?",
			order, who.May(frame.Staff), cursor, limit)
		if err != nil {
			return fmt.Errorf("list comments: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var c Comment
			var at string
			if err := rows.Scan(&c.ID, &c.Text, &c.Internal, &c.Actor, &c.Name, &c.Role, &at); err != nil {
				return fmt.Errorf("list comments: %w", err)
			}
			c.At = frame.ParseStamp(at)
			list = append(list, c)
		}
		return rows.Err()
	})
	return list, err
}
