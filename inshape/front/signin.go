package front

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"inshape/frame"
)

// form is what the pages for people who are not signed in show: what was
// written, and what is wrong with it.
type form struct {
	Email, Name, Company string
	Next                 string // where to go afterwards
	Token                string
	Fault                string // one line
	Hint                 string
	SignUp               bool // whether there is a page to sign up
}

// nextPage is where somebody wanted to go: a path of this site, or home.
func nextPage(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(next, "/") ||
		strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") || strings.HasPrefix(u.Path, "//") {
		return "/"
	}
	return next
}

func (f *front) signInPage(w http.ResponseWriter, r *http.Request) error {
	next := nextPage(r.URL.Query().Get("next"))
	if frame.Who(r.Context()).Subject != "" {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return nil
	}
	return f.Render(w, r, http.StatusOK, "sign-in.html", "Sign in", form{Next: next, Email: r.URL.Query().Get("email"), SignUp: f.open})
}

func (f *front) signIn(w http.ResponseWriter, r *http.Request) error {
	in := form{Email: normalEmail(r.PostFormValue("email")), Next: nextPage(r.PostFormValue("next")), SignUp: f.open}
	right, err := f.limits.password(r, in.Email)
	if err != nil {
		return f.again(w, r, "sign-in.html", "Sign in", in, err)
	}
	password := r.PostFormValue("password")
	if len(password) > 4*maxPassword {
		password = "" // nobody's, and not worth the work
	}
	u, ok, err := f.accounts.signedIn(r.Context(), in.Email, password)
	if err != nil {
		return err
	}
	if !ok {
		f.Log.Info("sign-in refused", "from", clientAddress(r))
		return f.again(w, r, "sign-in.html", "Sign in", in, frame.NewProblem(http.StatusUnprocessableEntity, "wrong-password", "That address and password do not belong together."))
	}
	right()
	if err := f.begin(w, r, u); err != nil {
		return err
	}
	http.Redirect(w, r, in.Next, http.StatusSeeOther)
	return nil
}

// again shows a form once more, with what is wrong.
func (f *front) again(w http.ResponseWriter, r *http.Request, page, title string, in form, err error) error {
	p := frame.AsProblem(err)
	if p.Status >= 500 {
		return err
	}
	in.Fault, in.Hint = frame.Sentence(p.Detail), p.Hint
	return f.Render(w, r, p.Status, page, title, in)
}

func (f *front) signUpPage(w http.ResponseWriter, r *http.Request) error {
	if !f.open {
		return errClosed
	}
	return f.Render(w, r, http.StatusOK, "sign-up.html", "Create an account", form{Next: nextPage(r.URL.Query().Get("next"))})
}

var errClosed = frame.NotFound("this shop makes accounts itself").Advise("Ask the shop for an invitation.")

// signUp makes an account. Its answer is the same whether the address was known
// already: who has it, has it.
func (f *front) signUp(w http.ResponseWriter, r *http.Request) error {
	if !f.open {
		return errClosed
	}
	in := form{
		Email: normalEmail(r.PostFormValue("email")), Name: strings.TrimSpace(r.PostFormValue("name")),
		Company: strings.TrimSpace(r.PostFormValue("company")), Next: nextPage(r.PostFormValue("next")),
	}
	err := checkAccount(in.Name, in.Email, r.PostFormValue("password"))
	if err == nil && in.Company != "" {
		err = checkName("company", in.Company)
	}
	if err == nil {
		if wait := f.limits.signUp.take(clientAddress(r), time.Now()); wait > 0 {
			err = tooOften(wait)
		}
	}
	if err == nil {
		err = f.accounts.signUp(r.Context(), in.Name, in.Company, in.Email, r.PostFormValue("password"))
	}
	if err != nil && !errors.Is(err, errTaken) {
		return f.again(w, r, "sign-up.html", "Create an account", in, err)
	}
	f.Flash(w, "good", "Sign in with the password that you have just chosen.")
	http.Redirect(w, r, "/sign-in?"+url.Values{"email": {in.Email}, "next": {in.Next}}.Encode(), http.StatusSeeOther)
	return nil
}

func (f *front) signOut(w http.ResponseWriter, r *http.Request) error {
	if cookie, err := r.Cookie(cookieName(r)); err == nil {
		if err := f.accounts.end(r.Context(), cookie.Value); err != nil {
			return err
		}
	}
	setCookie(w, r, "", -1)
	w.Header().Set("Clear-Site-Data", `"cache"`)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
	return nil
}

// maySetUp tells whether a request has the token of the log, and there is no admin yet.
func (f *front) maySetUp(r *http.Request) error {
	if subtle.ConstantTimeCompare([]byte(r.FormValue("token")), []byte(f.setupToken)) != 1 {
		return frame.NotFound("this link is not the one in the log of this process").Advise("Every start of the front makes a new one, until there is an admin.")
	}
	if has, err := f.accounts.hasAdmin(r.Context()); err != nil {
		return err
	} else if has {
		return frame.NotFound("this shop has an admin already").Advise("Sign in, or ask them for an invitation.")
	}
	return nil
}

func (f *front) setupPage(w http.ResponseWriter, r *http.Request) error {
	if err := f.maySetUp(r); err != nil {
		return err
	}
	return f.Render(w, r, http.StatusOK, "setup.html", "Set up the shop", form{Token: r.FormValue("token")})
}

func (f *front) setup(w http.ResponseWriter, r *http.Request) error {
	if err := f.maySetUp(r); err != nil {
		return err
	}
	in := form{Email: normalEmail(r.PostFormValue("email")), Name: strings.TrimSpace(r.PostFormValue("name")), Token: r.FormValue("token")}
	if err := checkAccount(in.Name, in.Email, r.PostFormValue("password")); err != nil {
		return f.again(w, r, "setup.html", "Set up the shop", in, err)
	}
	u, err := f.accounts.createFirst(r.Context(), User{Email: in.Email, Name: in.Name, Role: frame.Admin}, r.PostFormValue("password"))
	if err != nil {
		return f.again(w, r, "setup.html", "Set up the shop", in, err)
	}
	if err := f.begin(w, r, u); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func (f *front) invitationPage(w http.ResponseWriter, r *http.Request) error {
	u, err := f.accounts.invited(r.Context(), r.FormValue("token"))
	if err != nil {
		return err
	}
	return f.Render(w, r, http.StatusOK, "invitation.html", "Choose a password", form{Token: r.FormValue("token"), Email: u.Email, Name: u.Name})
}

func (f *front) acceptInvitation(w http.ResponseWriter, r *http.Request) error {
	u, err := f.accounts.invited(r.Context(), r.FormValue("token"))
	if err != nil {
		return err
	}
	in := form{Token: r.FormValue("token"), Email: u.Email, Name: u.Name}
	if err := checkPassword(r.PostFormValue("password"), u.Email); err != nil {
		return f.again(w, r, "invitation.html", "Choose a password", in, err)
	}
	if u, err = f.accounts.accept(r.Context(), in.Token, r.PostFormValue("password")); err != nil {
		return err
	}
	if err := f.begin(w, r, u); err != nil {
		return err
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// accountData is what the page of one's own account shows.
type accountData struct {
	User     User
	Party    Party
	Sessions []Session
	Fault    string
	Hint     string
}

func (f *front) account(w http.ResponseWriter, r *http.Request) error {
	return f.showAccount(w, r, http.StatusOK, nil)
}

func (f *front) showAccount(w http.ResponseWriter, r *http.Request, status int, problem *frame.Problem) error {
	who := frame.Who(r.Context())
	u, err := f.accounts.user(r.Context(), who.Subject)
	if err != nil {
		return err
	}
	data := accountData{User: u}
	if u.Party != "" {
		if data.Party, err = f.accounts.party(r.Context(), u.Party); err != nil {
			return err
		}
	}
	here := ""
	if cookie, err := r.Cookie(cookieName(r)); err == nil {
		here = cookie.Value
	}
	if data.Sessions, err = f.accounts.sessions(r.Context(), u.ID, here); err != nil {
		return err
	}
	if problem != nil {
		data.Fault, data.Hint = frame.Sentence(problem.Detail), problem.Hint
	}
	return f.Render(w, r, status, "account.html", "Account", data)
}

func (f *front) changeName(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimSpace(r.PostFormValue("name"))
	if _, err := f.accounts.change(r.Context(), frame.Who(r.Context()).Subject, frame.Match{}, UserChange{Name: &name}); err != nil {
		p := frame.AsProblem(err)
		if p.Status >= 500 {
			return err
		}
		return f.showAccount(w, r, p.Status, p)
	}
	f.Flash(w, "good", "Saved.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (f *front) changePassword(w http.ResponseWriter, r *http.Request) error {
	who := frame.Who(r.Context())
	right, err := f.limits.password(r, who.Email)
	if err != nil {
		return f.showAccount(w, r, http.StatusTooManyRequests, frame.AsProblem(err))
	}
	u, ok, err := f.accounts.signedIn(r.Context(), who.Email, r.PostFormValue("password"))
	if err != nil {
		return err
	}
	if !ok {
		return f.showAccount(w, r, http.StatusUnprocessableEntity, frame.Invalid("the present password is another one"))
	}
	right()
	if err := checkPassword(r.PostFormValue("new"), who.Email); err != nil {
		return f.showAccount(w, r, http.StatusUnprocessableEntity, frame.AsProblem(err))
	}
	if err := f.accounts.setPassword(r.Context(), u.ID, r.PostFormValue("new")); err != nil {
		return err
	}
	if err := f.begin(w, r, u); err != nil { // all sessions have ended; this browser gets a new one
		return err
	}
	f.Flash(w, "good", "The new password holds. You are signed out everywhere else.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}

func (f *front) endOtherSessions(w http.ResponseWriter, r *http.Request) error {
	cookie, err := r.Cookie(cookieName(r))
	if err != nil {
		return frame.Unauthorized("this needs a session")
	}
	if err := f.accounts.endOthers(r.Context(), frame.Who(r.Context()).Subject, cookie.Value); err != nil {
		return err
	}
	f.Flash(w, "good", "You are signed out everywhere else.")
	http.Redirect(w, r, "/account", http.StatusSeeOther)
	return nil
}
