// Package front is Inshape's door: it signs people and programs in, shows the
// modules that the shop has, and passes requests on to them with the identity of
// whoever asks.
//
// It keeps users, parties, sessions and API keys, and nothing of what the shop
// makes: that is the modules'. Start with [Module]; then neighbour.go (which
// modules there are), proxy.go (the way to them) and signin.go.
package front

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"

	"inshape/frame"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

//go:embed pages/*.html
var pageFiles embed.FS

// Module is what the frame needs to run it.
func Module() frame.Module { return new(front).module() }

func (f *front) module() frame.Module {
	return frame.Module{
		Name: "front", Title: "Front", About: "Accounts, parties and API keys of the shop; which modules it has.",
		Migrations: sub(migrationFiles, "migrations"), Pages: sub(pageFiles, "pages"),
		Icon: "house", Set: f.set,
	}
}

func sub(files embed.FS, folder string) fs.FS {
	in, err := fs.Sub(files, folder)
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return in
}

type front struct {
	*frame.Server
	accounts   *accounts
	neighbours *neighbours
	transport  *http.Transport
	open       bool   // whether customers may sign themselves up
	setupToken string // lets somebody make the first admin
	limits     limits
	begun      chan struct{} // closed when it is sure that there is a way to administer the shop
}

func (f *front) set(s *frame.Server) error {
	transport := roads()
	*f = front{
		Server: s, accounts: &accounts{store: s.Store, passwords: newPasswords()},
		neighbours: newNeighbours(s.Config, transport, s.Log), transport: transport, setupToken: newSecret(""), limits: newLimits(), begun: make(chan struct{}),
	}
	switch signUp := s.Config.Setting("INSHAPE_SIGN_UP", "open"); signUp {
	case "open":
		f.open = true
	case "closed":
	default:
		return fmt.Errorf("INSHAPE_SIGN_UP: %q is neither open nor closed", signUp)
	}
	email, password := s.Config.Setting("INSHAPE_ADMIN_EMAIL", ""), s.Config.Setting("INSHAPE_ADMIN_PASSWORD", "")
	if (email == "") != (password == "") {
		return fmt.Errorf("INSHAPE_ADMIN_EMAIL and INSHAPE_ADMIN_PASSWORD: set both, or neither for a setup link in the log")
	}
	if email != "" {
		if err := checkAccount("admin", email, password); err != nil {
			return fmt.Errorf("INSHAPE_ADMIN_EMAIL, INSHAPE_ADMIN_PASSWORD: %w", err)
		}
	}
	s.Loop("make the first admin", func(ctx context.Context) error {
		if err := f.firstAdmin(ctx, email, password); err != nil {
			return err
		}
		close(f.begun)
		<-ctx.Done()
		return nil
	})
	s.Loop("watch modules", f.neighbours.run)
	s.Loop("forget sessions", f.accounts.forget)
	s.SetDoor(frame.Door{Identify: f.identify, SignIn: "/sign-in", Rest: http.HandlerFunc(f.pass)})
	s.Wrap(sameOrigin)
	s.Ready(func(context.Context) error {
		select {
		case <-f.begun:
			return nil
		default:
			return errors.New("the first admin is not made yet")
		}
	})
	f.mount()
	return nil
}

// firstAdmin makes sure that somebody can administer the shop: the one that the
// settings name, or whoever follows the link in the log.
func (f *front) firstAdmin(ctx context.Context, email, password string) error {
	if exists, err := f.accounts.hasAdmin(ctx); err != nil || exists {
		return err
	}
	if email == "" {
		f.Log.Warn("nobody administers this shop yet: open this link, at the shop's address, and choose a password", "link", "/setup?token="+f.setupToken)
		return nil
	}
	_, err := f.accounts.create(ctx, User{Email: email, Name: "Administrator", Role: frame.Admin}, password)
	if err != nil {
		return fmt.Errorf("make admin %s: %w", email, err)
	}
	f.Log.Info("made the admin that the settings name", "email", email)
	return nil
}

// mount adds everything that the front serves itself.
func (f *front) mount() {
	f.PublicPage("GET /{$}", f.home)
	f.PublicPage("GET /sign-in", f.signInPage)
	f.PublicPage("POST /sign-in", f.signIn)
	f.PublicPage("GET /sign-up", f.signUpPage)
	f.PublicPage("POST /sign-up", f.signUp)
	f.PublicPage("POST /sign-out", f.signOut)
	f.PublicPage("GET /setup", f.setupPage)
	f.PublicPage("POST /setup", f.setup)
	f.PublicPage("GET /invitation", f.invitationPage)
	f.PublicPage("POST /invitation", f.acceptInvitation)
	f.PublicPage("GET /docs", f.docs)

	f.person("GET /account", f.account)
	f.person("POST /account", f.changeName)
	f.person("POST /account/password", f.changePassword)
	f.person("POST /account/sessions", f.endOtherSessions)

	f.Page("GET /admin/{$}", func(w http.ResponseWriter, r *http.Request) error {
		http.Redirect(w, r, "/admin/users", http.StatusSeeOther)
		return nil
	})
	f.admin("GET /admin/users", f.usersPage)
	f.admin("POST /admin/users", f.inviteUser)
	f.admin("GET /admin/users/{id}", f.userPage)
	f.admin("POST /admin/users/{id}", f.changeUser)
	f.admin("POST /admin/users/{id}/invitation", f.inviteAgain)
	f.admin("GET /admin/keys", f.keysPage)
	f.admin("POST /admin/keys", f.makeKey)
	f.admin("POST /admin/keys/{id}/revoke", f.revokeKey)
	f.admin("GET /admin/webhooks", f.webhooksPage)
	f.admin("POST /admin/webhooks", f.makeWebhook)
	f.admin("GET /admin/webhooks/{module}/{id}", f.deliveriesPage)
	f.admin("POST /admin/webhooks/{module}/{id}/delete", f.deleteWebhook)
	f.admin("POST /admin/webhooks/{module}/{id}/resume", f.resumeWebhook)
	f.admin("POST /admin/webhooks/{module}/{id}/{sequence}", f.redeliver)
	f.admin("GET /admin/audit", f.auditPage)
	f.operations()
}

type handler = func(http.ResponseWriter, *http.Request) error

// admin is a page for admins alone.
func (f *front) admin(pattern string, h handler) {
	f.Page(pattern, func(w http.ResponseWriter, r *http.Request) error {
		if err := frame.Require(r.Context(), frame.Admin); err != nil {
			return err
		}
		return h(w, r)
	})
}

// person is a page for people, who have an account; an API key has none.
func (f *front) person(pattern string, h handler) {
	f.Page(pattern, func(w http.ResponseWriter, r *http.Request) error {
		if !strings.HasPrefix(frame.Who(r.Context()).Subject, "usr_") {
			return frame.Forbidden("this is for people; an API key has no account")
		}
		return h(w, r)
	})
}

// sameOrigin refuses what another site makes a signed-in browser do. Who shows
// an API key acts on purpose.
func sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This was asked for by a page of another site.", http.StatusForbidden)
	}))
	guarded := protection.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := frame.Bearer(r); ok {
			next.ServeHTTP(w, r)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}
