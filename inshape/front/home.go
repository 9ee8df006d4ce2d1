package front

import (
	"net/http"
	"time"

	"inshape/frame"
)

// homeData is what the first page shows.
type homeData struct {
	Greeting string
	Modules  []frame.ModuleState
	About    map[string]string
	SignUp   bool
}

// about is what modules do, in words for customers, for the cards of the first
// page. One that is not here shows its title.
var about = map[string]string{
	"analysis":      "Upload a part, see what it can be made of and what it costs.",
	"routing":       "Who makes which part, and when.",
	"orders":        "From quote to parcel: what is ordered and how far it is.",
	"manufacturing": "Trays, builds, operations and inspections.",
	"monitoring":    "What the machines do at this moment.",
	"fulfilment":    "Collate, pack and ship.",
}

// home is the first page: to strangers a door, to others what the shop has.
func (f *front) home(w http.ResponseWriter, r *http.Request) error {
	who := frame.Who(r.Context())
	data := homeData{Greeting: greeting(time.Now()), Modules: who.Modules, About: about, SignUp: f.open}
	if who.Subject == "" {
		data.Modules = f.neighbours.list(r.Context())
		return f.Render(w, r, http.StatusOK, "welcome.html", "", data)
	}
	return f.Render(w, r, http.StatusOK, "home.html", "Home", data)
}

func greeting(now time.Time) string {
	switch hour := now.Hour(); {
	case hour >= 5 && hour < 12:
		return "Good morning"
	case hour >= 12 && hour < 18:
		return "Good afternoon"
	}
	return "Good evening"
}

// docs is the page for programmers: where each module's API is described.
func (f *front) docs(w http.ResponseWriter, r *http.Request) error {
	modules := append([]frame.ModuleState{{Name: f.Module.Name, Title: "Accounts", Icon: "users", Up: true}}, f.neighbours.list(r.Context())...)
	base := map[bool]string{true: "https://", false: "http://"}[overTLS(r)] + r.Host
	return f.Render(w, r, http.StatusOK, "docs-index.html", "API", map[string]any{"Modules": modules, "Base": base})
}
