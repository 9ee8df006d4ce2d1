package front

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"inshape/frame"
)

// A session is a row in the store and a secret in a cookie, of which the row
// has the hash. It is the store's and not a library's because whoever loses
// their account, their role or their password must lose their sessions in the
// same transaction.
const (
	sessionIdle = 7 * 24 * time.Hour  // without a request
	sessionLife = 30 * 24 * time.Hour // at most
	seenEvery   = 5 * time.Minute     // how exactly it is known when a session was used
)

// Session is one place where somebody is signed in.
type Session struct {
	ID    string
	At    time.Time
	Seen  time.Time
	Agent string // what the browser calls itself
	Here  bool   // it is the one that asks
}

// cookieName is the session's cookie. The prefix makes browsers refuse what
// another host of the same domain, which is another shop, wants to put there.
func cookieName(r *http.Request) string {
	if overTLS(r) {
		return "__Host-inshape"
	}
	return "inshape"
}

// overTLS tells whether the browser speaks TLS with us or with the gateway
// before us. Who lies about it spoils no cookie but their own.
func overTLS(r *http.Request) bool {
	return r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https"
}

func setCookie(w http.ResponseWriter, r *http.Request, secret string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(r), Value: secret, Path: "/", MaxAge: int(life.Seconds()),
		HttpOnly: true, Secure: overTLS(r), SameSite: http.SameSiteLaxMode,
	})
}

// begin signs somebody in on this browser.
func (f *front) begin(w http.ResponseWriter, r *http.Request, u User) error {
	secret := newSecret("")
	now := frame.Stamp(time.Now())
	agent := r.UserAgent()
	ctx := frame.WithIdentity(r.Context(), identityOf(u))
	err := f.Store.Update(ctx, func(tx *frame.Tx) error {
		if _, err := tx.Exec("INSERT INTO session (hash, id, user, at, seen, agent) VALUES (?, ?, ?, ?, ?, ?)",
			hashSecret(secret), frame.NewID("ses"), u.ID, now, now, agent[:min(len(agent), 300)]); err != nil {
			return fmt.Errorf("keep session: %w", err)
		}
		return tx.Audit("session.begin", u.ID, "")
	})
	if err != nil {
		return err
	}
	setCookie(w, r, secret, sessionLife)
	return nil
}

func identityOf(u User) frame.Identity {
	return frame.Identity{Subject: u.ID, Name: u.Name, Email: u.Email, Role: u.Role, Party: u.Party, Front: true}
}

var errNobody = errors.New("no session and no API key")

// identify finds out who asks: by API key, or by session.
func (f *front) identify(r *http.Request) (frame.Identity, error) {
	var who frame.Identity
	if key, ok := frame.Bearer(r); ok {
		if f.Config.IsKey(key) {
			who = frame.KeyIdentity
		} else {
			var err error
			if who, err = f.accounts.keyHolder(r.Context(), key); err != nil {
				return who, err
			}
		}
	} else {
		cookie, err := r.Cookie(cookieName(r))
		if err != nil {
			return who, errNobody
		}
		u, err := f.accounts.session(r.Context(), cookie.Value)
		if err != nil {
			return who, err
		}
		who = identityOf(u)
	}
	who.Front = true
	who.Modules = f.neighbours.list(r.Context())
	return who, nil
}

// session is the user of a session's secret.
func (a *accounts) session(ctx context.Context, secret string) (User, error) {
	hash, now := hashSecret(secret), time.Now()
	var u User
	var seen string
	err := a.store.View(ctx, func(tx *sql.Tx) error {
		var user string
		err := tx.QueryRow("SELECT user, seen FROM session WHERE hash = ? AND at > ? AND seen > ?",
			hash, frame.Stamp(now.Add(-sessionLife)), frame.Stamp(now.Add(-sessionIdle))).Scan(&user, &seen)
		if err != nil {
			return err
		}
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE id = ? AND active", user))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return u, errNobody
	}
	if err != nil {
		return u, fmt.Errorf("read session: %w", err)
	}
	if now.Sub(frame.ParseStamp(seen)) > seenEvery {
		// Whether this can be written must not decide who may read.
		_ = a.store.Update(ctx, func(tx *frame.Tx) error {
			_, err := tx.Exec("UPDATE session SET seen = ? WHERE hash = ?", frame.Stamp(now), hash)
			return err
		})
	}
	return u, nil
}

// sessions are where a user is signed in, newest first.
func (a *accounts) sessions(ctx context.Context, user, here string) ([]Session, error) {
	var list []Session
	err := a.store.View(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT id, at, seen, agent, hash = ? FROM session WHERE user = ? ORDER BY seen DESC LIMIT 50", hashSecret(here), user)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s Session
			var at, seen string
			if err := rows.Scan(&s.ID, &at, &seen, &s.Agent, &s.Here); err != nil {
				return err
			}
			s.At, s.Seen, s.Agent = frame.ParseStamp(at), frame.ParseStamp(seen), browser(s.Agent)
			list = append(list, s)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("read sessions: %w", err)
	}
	return list, nil
}

// browser is what a User-Agent means to its owner.
func browser(agent string) string {
	find := func(fallback string, pairs ...string) string {
		for i := 0; i < len(pairs); i += 2 {
			if strings.Contains(agent, pairs[i]) {
				return pairs[i+1]
			}
		}
		return fallback
	}
	what := find("", "Edg/", "Edge", "OPR/", "Opera", "Firefox/", "Firefox", "Chrome/", "Chrome", "Safari/", "Safari")
	where := find("", "iPhone", "iPhone", "iPad", "iPad", "Android", "Android", "Windows", "Windows", "Mac OS", "macOS", "Linux", "Linux")
	switch {
	case what != "" && where != "":
		return what + " on " + where
	case what+where != "":
		return what + where
	}
	return "Another browser"
}

// end ends the session of a secret.
func (a *accounts) end(ctx context.Context, secret string) error {
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		if _, err := tx.Exec("DELETE FROM session WHERE hash = ?", hashSecret(secret)); err != nil {
			return fmt.Errorf("end session: %w", err)
		}
		return nil
	})
}

// endOthers ends all sessions of a user but one.
func (a *accounts) endOthers(ctx context.Context, user, here string) error {
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		if _, err := tx.Exec("DELETE FROM session WHERE user = ? AND hash <> ?", user, hashSecret(here)); err != nil {
			return fmt.Errorf("end sessions: %w", err)
		}
		return tx.Audit("session.end-others", user, "")
	})
}

// forget is the loop that deletes sessions and invitations that have ended.
func (a *accounts) forget(ctx context.Context) error {
	for {
		now := time.Now()
		err := a.store.Update(ctx, func(tx *frame.Tx) error {
			if _, err := tx.Exec("DELETE FROM session WHERE at <= ? OR seen <= ?", frame.Stamp(now.Add(-sessionLife)), frame.Stamp(now.Add(-sessionIdle))); err != nil {
				return err
			}
			_, err := tx.Exec("DELETE FROM invitation WHERE expires <= ?", frame.Stamp(now))
			return err
		})
		if err != nil && ctx.Err() == nil && !frame.StorageFull(err) {
			return fmt.Errorf("forget sessions: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Hour):
		}
	}
}
