package orders

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
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

func (m *module) commentOperations() {
	api, path, tags := m.server.API, m.server.Base()+"/orders/{id}/comments", []string{"Comments"}
	huma.Register(api, huma.Operation{
		OperationID: "create-comment", Method: http.MethodPost, Path: path, Tags: tags, DefaultStatus: http.StatusCreated, Summary: "Say something", Errors: []int{403, 404, 422},
	}, func(ctx context.Context, in *struct {
		OrderPath
		Key  string `header:"Idempotency-Key"`
		Body struct {
			Text     string `json:"text" minLength:"1" maxLength:"4000"`
			Internal bool   `json:"internal,omitempty" doc:"Staff only"`
		}
	},
	) (*struct{ Body Comment }, error) {
		c, err := m.comment(ctx, in.ID, in.Body.Text, in.Body.Internal)
		return &struct{ Body Comment }{c}, err
	})
	huma.Register(api, huma.Operation{
		OperationID: "list-comments", Method: http.MethodGet, Path: path, Tags: tags, Summary: "What was said, oldest first", Errors: []int{404},
	}, func(ctx context.Context, in *OrderPath) (*struct{ Body frame.List[Comment] }, error) {
		list, err := m.comments(ctx, in.ID)
		return &struct{ Body frame.List[Comment] }{frame.ListOf(list, max(len(list), 1), nil)}, err
	})
}

func (m *module) comment(ctx context.Context, order, text string, internal bool) (Comment, error) {
	who := frame.Who(ctx)
	if internal && !who.May(frame.Staff) {
		return Comment{}, frame.Forbidden("internal: only staff talk among themselves")
	}
	return frame.Once(ctx, m.store, func(tx *frame.Tx) (Comment, error) {
		o, err := loadOrder(tx.Tx, who, order)
		if err != nil {
			return Comment{}, err
		}
		c := Comment{ID: frame.NewID("cmt"), Text: text, Internal: internal, Actor: who.Subject, Name: who.Name, Role: who.Role, At: time.Now().UTC()}
		if _, err := tx.Exec("INSERT INTO comment (id, order_id, text, internal, actor, name, role, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			c.ID, o.ID, c.Text, c.Internal, c.Actor, c.Name, c.Role, frame.Stamp(c.At)); err != nil {
			return c, fmt.Errorf("save comment: %w", err)
		}
		return c, tx.Emit("order.commented", o.ID, o.Party, c)
	})
}

func (m *module) comments(ctx context.Context, order string) ([]Comment, error) {
	who := frame.Who(ctx)
	var list []Comment
	err := m.store.View(ctx, func(tx *sql.Tx) error {
		if _, err := loadOrder(tx, who, order); err != nil {
			return err
		}
		rows, err := tx.Query("SELECT id, text, internal, actor, name, role, at FROM comment WHERE order_id = ? AND (? OR NOT internal) ORDER BY id",
			order, who.May(frame.Staff))
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
