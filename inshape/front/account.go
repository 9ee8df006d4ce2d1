package front

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"inshape/frame"
)

// User is somebody who can sign in.
type User struct {
	ID      string     `json:"id"`
	Email   string     `json:"email"`
	Name    string     `json:"name"`
	Role    frame.Role `json:"role" enum:"customer,staff,admin"`
	Party   string     `json:"party,omitempty" doc:"Whose things a customer sees"`
	Active  bool       `json:"active" doc:"Whether they may sign in"`
	Invited bool       `json:"invited" doc:"They have no password yet"`
	At      time.Time  `json:"at"`
	Version int64      `json:"version"`
}

// Roles are what a user's role can be.
func (User) Roles() []frame.Role { return []frame.Role{frame.Customer, frame.Staff, frame.Admin} }

// Party is who buys: a company or a person, with one user or several.
type Party struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	At      time.Time `json:"at"`
	Version int64     `json:"version"`
	Users   int       `json:"users" doc:"How many"`
}

// accounts are the users and parties of the shop, and their sessions and keys.
type accounts struct {
	store     *frame.Store
	passwords *passwords
}

const (
	maxName  = 120
	maxEmail = 254
)

// checkAccount tells what is wrong with what somebody wrote into a form.
func checkAccount(name, email, password string) error {
	if err := checkName("name", name); err != nil {
		return err
	}
	if err := checkEmail(email); err != nil {
		return err
	}
	return checkPassword(password, email)
}

func checkName(what, name string) error {
	if name == "" || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return frame.Invalid("%s: needs one to %d characters on one line", what, maxName)
	}
	return nil
}

func checkEmail(email string) error {
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > maxEmail || !strings.Contains(email, "@") {
		return frame.Invalid("email: %q is no e-mail address", email)
	}
	return nil
}

func checkPassword(password, email string) error {
	local, _, _ := strings.Cut(strings.ToLower(email), "@")
	switch n := utf8.RuneCountInString(password); {
	case n < minPassword:
		return frame.Invalid("password: needs at least %d characters", minPassword).Advise("A few words in a row are good, and easy to keep in mind.")
	case n > maxPassword:
		return frame.Invalid("password: at most %d characters", maxPassword)
	case strings.EqualFold(password, email) || len(local) >= 4 && strings.Trim(strings.ToLower(password), "0123456789!.-_") == local:
		return frame.Invalid("password: it must not be your address")
	case strings.Count(password, password[:1]) == len(password):
		return frame.Invalid("password: it must not be one character again and again")
	}
	return nil
}

// normalEmail is how an address is kept and looked up.
func normalEmail(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

const userColumns = "id, email, name, role, coalesce(party, ''), active, password = '', at, version"

func scanUser(row frame.Row) (User, error) {
	var u User
	var at string
	err := row.Scan(&u.ID, &u.Email, &u.Name, &u.Role, &u.Party, &u.Active, &u.Invited, &at, &u.Version)
	u.At = frame.ParseStamp(at)
	return u, err
}

func (a *accounts) hasAdmin(ctx context.Context) (bool, error) {
	var has bool
	err := a.store.View(ctx, func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT EXISTS (SELECT 1 FROM user WHERE role = 'admin')").Scan(&has)
	})
	return has, err
}

func (a *accounts) user(ctx context.Context, id string) (User, error) {
	var u User
	err := a.store.View(ctx, func(tx *sql.Tx) (err error) {
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE id = ?", id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return u, frame.NotFound("there is no user %s", id)
	}
	return u, err
}

var errTaken = frame.Conflict("somebody has this e-mail address already")

// create makes a user; without a password they need an invitation.
func (a *accounts) create(ctx context.Context, u User, password string) (User, error) {
	hash, err := a.hashIfAny(ctx, password)
	if err != nil {
		return u, err
	}
	err = a.store.Update(ctx, func(tx *frame.Tx) error {
		u, err = insertUser(tx, u, hash)
		return err
	})
	return u, err
}

// createFirst is create for the first admin: of two at once, one is refused.
func (a *accounts) createFirst(ctx context.Context, u User, password string) (User, error) {
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return u, err
	}
	err = a.store.Update(ctx, func(tx *frame.Tx) error {
		var has bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM user WHERE role = 'admin')").Scan(&has); err != nil {
			return fmt.Errorf("look for an admin: %w", err)
		}
		if has {
			return frame.Conflict("this shop has an admin already")
		}
		u, err = insertUser(tx, u, hash)
		return err
	})
	return u, err
}

func (a *accounts) hashIfAny(ctx context.Context, password string) (string, error) {
	if password == "" {
		return "", nil
	}
	return a.passwords.hash(ctx, password)
}

func insertUser(tx *frame.Tx, u User, hash string) (User, error) {
	u.ID, u.Email, u.Active, u.Invited = frame.NewID("usr"), normalEmail(u.Email), true, hash == ""
	u.At, u.Version = time.Now().UTC(), 1
	var taken bool
	if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM user WHERE email = ?)", u.Email).Scan(&taken); err != nil {
		return u, fmt.Errorf("look up address: %w", err)
	}
	if taken {
		return u, errTaken
	}
	if err := checkParty(tx, u.Role, u.Party); err != nil {
		return u, err
	}
	if _, err := tx.Exec("INSERT INTO user (id, email, name, role, party, password, at) VALUES (?, ?, ?, ?, nullif(?, ''), ?, ?)",
		u.ID, u.Email, u.Name, u.Role, u.Party, hash, frame.Stamp(u.At)); err != nil {
		return u, fmt.Errorf("keep user: %w", err)
	}
	if err := tx.Emit("user.created", u.ID, u.Party, u); err != nil {
		return u, err
	}
	return u, tx.Audit("user.create", u.ID, "%s as %s", u.Email, u.Role)
}

// checkParty tells whether somebody of a role may belong to a party.
func checkParty(tx *frame.Tx, role frame.Role, party string) error {
	if party == "" {
		if role == frame.Customer {
			return frame.Invalid("party: a customer belongs to one")
		}
		return nil
	}
	var exists bool
	if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM party WHERE id = ?)", party).Scan(&exists); err != nil {
		return fmt.Errorf("look up party: %w", err)
	}
	if !exists {
		return frame.Invalid("party: there is no %s", party)
	}
	return nil
}

func insertParty(tx *frame.Tx, name string) (Party, error) {
	p := Party{ID: frame.NewID("pty"), Name: name, At: time.Now().UTC(), Version: 1}
	if _, err := tx.Exec("INSERT INTO party (id, name, at) VALUES (?, ?, ?)", p.ID, p.Name, frame.Stamp(p.At)); err != nil {
		return p, fmt.Errorf("keep party: %w", err)
	}
	if err := tx.Emit("party.created", p.ID, p.ID, p); err != nil {
		return p, err
	}
	return p, tx.Audit("party.create", p.ID, "%s", p.Name)
}

// signUp makes a customer with a party of their own.
func (a *accounts) signUp(ctx context.Context, name, company, email, password string) error {
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		if company == "" {
			company = name
		}
		p, err := insertParty(tx, company)
		if err != nil {
			return err
		}
		_, err = insertUser(tx, User{Email: email, Name: name, Role: frame.Customer, Party: p.ID}, hash)
		return err
	})
}

// UserChange is what may be changed of a user; nil leaves it as it is.
type UserChange struct {
	Name   *string     `json:"name,omitempty" minLength:"1" maxLength:"120"`
	Role   *frame.Role `json:"role,omitempty" enum:"customer,staff,admin"`
	Party  *string     `json:"party,omitempty" maxLength:"64" doc:"Empty: none"`
	Active *bool       `json:"active,omitempty" doc:"false signs them out everywhere and lets them in no more"`
}

// change changes a user. One admin stays, who can sign in.
func (a *accounts) change(ctx context.Context, id string, match frame.Match, c UserChange) (User, error) {
	var u User
	err := a.store.Update(ctx, func(tx *frame.Tx) error {
		var err error
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE id = ?", id))
		if errors.Is(err, sql.ErrNoRows) {
			return frame.NotFound("there is no user %s", id)
		}
		if err != nil {
			return fmt.Errorf("read user: %w", err)
		}
		if err := match.Check(u.Version); err != nil {
			return err
		}
		before := u
		if c.Name != nil {
			if u.Name = strings.TrimSpace(*c.Name); checkName("name", u.Name) != nil {
				return checkName("name", u.Name)
			}
		}
		if c.Role != nil {
			u.Role = *c.Role
		}
		if c.Party != nil {
			u.Party = *c.Party
		}
		if c.Active != nil {
			u.Active = *c.Active
		}
		if u == before {
			return nil
		}
		if err := checkParty(tx, u.Role, u.Party); err != nil {
			return err
		}
		u.Version++
		if _, err := tx.Exec("UPDATE user SET name = ?, role = ?, party = nullif(?, ''), active = ?, version = ? WHERE id = ?",
			u.Name, u.Role, u.Party, u.Active, u.Version, id); err != nil {
			return fmt.Errorf("change user: %w", err)
		}
		var admins int
		if err := tx.QueryRow("SELECT count(*) FROM user WHERE role = 'admin' AND active").Scan(&admins); err != nil {
			return fmt.Errorf("count admins: %w", err)
		}
		if admins == 0 {
			return frame.Conflict("%s is the last admin", before.Email).Advise("Make somebody else an admin first.")
		}
		if !u.Active {
			for _, table := range []string{"session", "invitation"} {
				if _, err := tx.Exec("DELETE FROM "+table+" WHERE user = ?", id); err != nil {
					return fmt.Errorf("end sessions: %w", err)
				}
			}
		}
		if err := tx.Emit("user.changed", u.ID, u.Party, u); err != nil {
			return err
		}
		return tx.Audit("user.change", id, "%s: role %s, party %s, active %t", u.Email, u.Role, u.Party, u.Active)
	})
	return u, err
}

// users are those whose name or address has a text in it, newest first.
func (a *accounts) users(ctx context.Context, search string, page frame.Page) (frame.List[User], error) {
	var list []User
	err := a.store.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = frame.Select(tx, scanUser, "SELECT "+userColumns+` FROM user WHERE (? = '' OR id < ?) AND (? = '' OR instr(email, lower(?)) OR instr(lower(name), lower(?)))
			ORDER BY id DESC LIMIT ?`, page.After, page.After, search, search, search, page.Limit+1)
		return err
	})
	if err != nil {
		return frame.List[User]{}, fmt.Errorf("read users: %w", err)
	}
	return frame.ListOf(list, page.Limit, func(u User) string { return u.ID }), nil
}

func (a *accounts) parties(ctx context.Context, search string, page frame.Page) (frame.List[Party], error) {
	var list []Party
	err := a.store.View(ctx, func(tx *sql.Tx) (err error) {
		list, err = frame.Select(tx, scanParty, `SELECT id, name, at, version, (SELECT count(*) FROM user WHERE party = party.id) FROM party
			WHERE (? = '' OR id < ?) AND (? = '' OR instr(lower(name), lower(?))) ORDER BY id DESC LIMIT ?`, page.After, page.After, search, search, page.Limit+1)
		return err
	})
	if err != nil {
		return frame.List[Party]{}, fmt.Errorf("read parties: %w", err)
	}
	return frame.ListOf(list, page.Limit, func(p Party) string { return p.ID }), nil
}

func scanParty(row frame.Row) (Party, error) {
	var p Party
	var at string
	err := row.Scan(&p.ID, &p.Name, &at, &p.Version, &p.Users)
	p.At = frame.ParseStamp(at)
	return p, err
}

func (a *accounts) party(ctx context.Context, id string) (Party, error) {
	var p Party
	err := a.store.View(ctx, func(tx *sql.Tx) (err error) {
		p, err = scanParty(tx.QueryRow("SELECT id, name, at, version, (SELECT count(*) FROM user WHERE party = party.id) FROM party WHERE id = ?", id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return p, frame.NotFound("there is no party %s", id)
	}
	return p, err
}

func (a *accounts) renameParty(ctx context.Context, id string, match frame.Match, name string) error {
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		p, err := scanParty(tx.QueryRow("SELECT id, name, at, version, 0 FROM party WHERE id = ?", id))
		if errors.Is(err, sql.ErrNoRows) {
			return frame.NotFound("there is no party %s", id)
		}
		if err != nil {
			return fmt.Errorf("read party: %w", err)
		}
		if err := match.Check(p.Version); err != nil {
			return err
		}
		p.Name = name
		p.Version++
		if _, err := tx.Exec("UPDATE party SET name = ?, version = ? WHERE id = ?", p.Name, p.Version, id); err != nil {
			return fmt.Errorf("change party: %w", err)
		}
		if err := tx.Emit("party.changed", id, id, p); err != nil {
			return err
		}
		return tx.Audit("party.change", id, "%s", name)
	})
}

// signedIn is who has an address and a password; ok is false if nobody has.
func (a *accounts) signedIn(ctx context.Context, email, password string) (u User, ok bool, err error) {
	var hash string
	err = a.store.View(ctx, func(tx *sql.Tx) (err error) {
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE email = ?", normalEmail(email)))
		if err == nil {
			err = tx.QueryRow("SELECT password FROM user WHERE id = ?", u.ID).Scan(&hash)
		}
		return err
	})
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return u, false, fmt.Errorf("look up address: %w", err)
	}
	matches, err := a.passwords.matches(ctx, hash, password)
	return u, matches && u.Active, err
}

// setPassword gives a user a new password and ends all sessions and invitations of theirs.
func (a *accounts) setPassword(ctx context.Context, id, password string) error {
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *frame.Tx) error {
		return keepPassword(tx, id, hash)
	})
}

func keepPassword(tx *frame.Tx, id, hash string) error {
	for _, change := range []string{
		"UPDATE user SET password = ?1, version = version + 1 WHERE id = ?2",
		"DELETE FROM session WHERE user = ?2", "DELETE FROM invitation WHERE user = ?2",
	} {
		if _, err := tx.Exec(change, hash, id); err != nil {
			return fmt.Errorf("keep password: %w", err)
		}
	}
	return tx.Audit("user.password", id, "")
}

// invitationLife is how long somebody has to choose a password.
const invitationLife = 7 * 24 * time.Hour

// invite makes a token that lets a user choose a password, once. Earlier ones end.
func (a *accounts) invite(ctx context.Context, id string) (token string, err error) {
	token = newSecret("")
	err = a.store.Update(ctx, func(tx *frame.Tx) error {
		if _, err := tx.Exec("DELETE FROM invitation WHERE user = ?", id); err != nil {
			return fmt.Errorf("end invitations: %w", err)
		}
		if _, err := tx.Exec("INSERT INTO invitation (hash, user, expires) VALUES (?, ?, ?)", hashSecret(token), id, frame.Stamp(time.Now().Add(invitationLife))); err != nil {
			return fmt.Errorf("keep invitation: %w", err)
		}
		return tx.Audit("user.invite", id, "")
	})
	return token, err
}

var errInvitation = frame.NotFound("this invitation has been used, or is too old").Advise("Ask the shop for a new one.")

// invited is who an invitation is for.
func (a *accounts) invited(ctx context.Context, token string) (User, error) {
	var u User
	err := a.store.View(ctx, func(tx *sql.Tx) (err error) {
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE active AND id = (SELECT user FROM invitation WHERE hash = ? AND expires > ?)",
			hashSecret(token), frame.Stamp(time.Now())))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return u, errInvitation
	}
	return u, err
}

// accept uses an invitation up.
func (a *accounts) accept(ctx context.Context, token, password string) (User, error) {
	hash, err := a.passwords.hash(ctx, password)
	if err != nil {
		return User{}, err
	}
	var u User
	err = a.store.Update(ctx, func(tx *frame.Tx) (err error) {
		u, err = scanUser(tx.QueryRow("SELECT "+userColumns+" FROM user WHERE active AND id = (SELECT user FROM invitation WHERE hash = ? AND expires > ?)",
			hashSecret(token), frame.Stamp(time.Now())))
		if errors.Is(err, sql.ErrNoRows) {
			return errInvitation
		}
		if err != nil {
			return fmt.Errorf("read invitation: %w", err)
		}
		return keepPassword(tx, u.ID, hash)
	})
	return u, err
}
