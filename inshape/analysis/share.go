package analysis

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"inshape/frame"
)

// Share is a link to a picture of a revision for people without an account, who
// see what the part looks like and get nothing of its geometry.
type Share struct {
	Link    string    `json:"link" doc:"A page; shown once, when the link is made"`
	Expires time.Time `json:"expires"`
}

const maxShareDays = 90

// share makes a link that nobody can guess. The store keeps its hash alone.
func (s *service) share(ctx context.Context, id string, n, days int) (Share, error) {
	if days < 1 || days > maxShareDays {
		return Share{}, frame.Invalid("days: a link holds 1 to %d days", maxShareDays)
	}
	secret := make([]byte, 24)
	_, _ = rand.Read(secret) // never fails
	token := base64.RawURLEncoding.EncodeToString(secret)
	now := time.Now()
	made := Share{Link: "/analysis/shared/" + token, Expires: now.AddDate(0, 0, days).UTC()}
	err := s.Store.Update(ctx, func(tx *frame.Tx) error {
		m, r, err := findBoth(ctx, tx, id, n)
		if err != nil {
			return err
		}
		if r.State != Done {
			return frame.Conflict("there is no picture of revision %d: its analysis is %s", n, r.State)
		}
		if _, err := tx.Exec("DELETE FROM share WHERE expires < ?", frame.Stamp(now)); err != nil {
			return fmt.Errorf("share: %w", err)
		}
		if _, err := tx.Exec("INSERT INTO share (token, model, n, by_name, at, expires) VALUES (?, ?, ?, ?, ?, ?)",
			hashToken(token), m.ID, n, frame.Who(ctx).Name, frame.Stamp(now), frame.Stamp(made.Expires)); err != nil {
			return fmt.Errorf("share: %w", err)
		}
		return tx.Audit("model.share", m.ID, "picture of revision %d for %d days", n, days)
	})
	return made, err
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// shared finds what a link leads to.
func (s *service) shared(ctx context.Context, token string) (m Model, r Revision, err error) {
	err = s.Store.View(ctx, func(tx *sql.Tx) error {
		var id string
		var n int
		row := tx.QueryRow("SELECT s.model, s.n FROM share s JOIN model m ON m.id = s.model WHERE s.token = ? AND s.expires > ? AND m.deleted = ''",
			hashToken(token), frame.Stamp(time.Now()))
		if err := row.Scan(&id, &n); errors.Is(err, sql.ErrNoRows) {
			return frame.NotFound("this link leads nowhere, or no longer").Advise("Ask whoever sent it for a new one.")
		} else if err != nil {
			return fmt.Errorf("read link: %w", err)
		}
		m, r, err = findBoth(frame.WithIdentity(ctx, frame.Identity{Role: frame.Staff}), tx, id, n)
		return err
	})
	return m, r, err
}

func (s *service) shareAPI() {
	huma.Register(s.API, huma.Operation{
		OperationID: "share-picture", Method: http.MethodPost, Path: s.Base() + "/models/{id}/revisions/{n}/shares", Tags: []string{"Revisions"}, DefaultStatus: http.StatusCreated,
		Summary:     "Make a link to a picture, for people without an account",
		Description: "They see a small picture with the shop's name across, and nothing of the geometry.", Errors: []int{404, 409},
	}, func(ctx context.Context, in *struct {
		RevisionRef
		Body struct {
			Days int `json:"days,omitempty" minimum:"1" maximum:"90" default:"14"`
		}
	},
	) (*struct{ Body Share }, error) {
		made, err := s.share(ctx, in.ID, in.N, in.Body.Days)
		if err != nil {
			return nil, err
		}
		return &struct{ Body Share }{made}, nil
	})
}
