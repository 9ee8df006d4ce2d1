package frame

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// onceLife is how long the answer to an Idempotency-Key is kept.
const onceLife = 7 * 24 * time.Hour

// idempotencyHeader names the header of
// draft-ietf-httpapi-idempotency-key-header.
const idempotencyHeader = "Idempotency-Key"

type onceKey struct{}

type once struct{ key, request string }

// Once is Store.Update for requests that make something. If the request had an
// Idempotency-Key, the result is kept in the same transaction, and a repetition
// gets it again without do being run: also after a crash between the commit and
// the answer. The same key with another request is refused.
func Once[T any](ctx context.Context, s *Store, do func(*Tx) (T, error)) (T, error) {
	var result T
	o, keyed := ctx.Value(onceKey{}).(once)
	err := s.Update(ctx, func(tx *Tx) error {
		var err error
		if !keyed {
			result, err = do(tx)
			return err
		}
		subject := Who(ctx).Subject
		var request, text string
		switch err := tx.QueryRow("SELECT request, result FROM idempotency WHERE subject = ? AND key = ?", subject, o.key).Scan(&request, &text); {
		case err == nil && request != o.request:
			return NewProblem(http.StatusUnprocessableEntity, "idempotency-key-reused",
				"this Idempotency-Key was used for another request").Advise("Use a new key for every new request.")
		case err == nil:
			return json.Unmarshal([]byte(text), &result)
		case !errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("look up idempotency key: %w", err)
		}
		if result, err = do(tx); err != nil {
			return err
		}
		kept, err := json.Marshal(result)
		if err != nil {
			return fmt.Errorf("keep result: %w", err)
		}
		if _, err := tx.Exec("INSERT INTO idempotency (subject, key, request, result, at) VALUES (?, ?, ?, ?, ?)",
			subject, o.key, o.request, string(kept), Stamp(time.Now())); err != nil {
			return fmt.Errorf("keep idempotency key: %w", err)
		}
		return nil
	})
	return result, err
}

// WithKey gives a form's submission the key that the form was made with, so that
// Once does it once however often it is sent.
func WithKey(ctx context.Context, key, request string) context.Context {
	if key == "" {
		return ctx
	}
	return withOnce(ctx, key, "FORM", request, nil)
}

// withOnce takes note of a request's Idempotency-Key and of what it asks.
func withOnce(ctx context.Context, key, method, path string, body []byte) context.Context {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s\n", method, path)
	sum.Write(body)
	return context.WithValue(ctx, onceKey{}, once{key: key, request: hex.EncodeToString(sum.Sum(nil))})
}
