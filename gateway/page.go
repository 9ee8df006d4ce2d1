package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// page is what the gateway answers itself. It is shown to the users of stamps:
// it says what they can do and nothing about the machine, the stamp or why.
type page struct {
	status int
	title  string
	text   string
	retry  int // seconds after which to ask again; 0: no use
}

var (
	pageBadRequest  = page{status: http.StatusBadRequest, title: "Bad request", text: "The request could not be understood."}
	pageNotFound    = page{status: http.StatusNotFound, title: "Not found", text: "There is nothing at this address. Please check it for a typing mistake."}
	pageMethod      = page{status: http.StatusMethodNotAllowed, title: "Method not allowed", text: "This method is not available here."}
	pageTimeout     = page{status: http.StatusRequestTimeout, title: "Too slow", text: "The request did not arrive in time. Please try again."}
	pageTooLarge    = page{status: http.StatusRequestEntityTooLarge, title: "Too large", text: "What was sent is larger than this address accepts."}
	pageMisdirected = page{status: http.StatusMisdirectedRequest, title: "Misdirected request", text: "This connection was opened for another address."}
	pageBadGateway  = page{status: http.StatusBadGateway, title: "No valid answer", text: "The application broke off. Please try again."}
	pageDown        = page{status: http.StatusServiceUnavailable, title: "Not available", text: "This application is switched off at the moment. Please try again later."}
	pageStarting    = page{status: http.StatusServiceUnavailable, title: "One moment, please", text: "This application is starting. The page tries again by itself.", retry: 5}
)

const pageHTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">%[4]s
<title>%[2]s</title>
<style>
:root { color-scheme: light dark; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; font: 1.05rem/1.6 system-ui, sans-serif; }
main { max-width: 26rem; padding: 2rem; }
p { margin: .3rem 0; }
.status { font-size: .85rem; letter-spacing: .08em; opacity: .6; }
h1 { margin: 0; font-size: 1.7rem; font-weight: 600; line-height: 1.25; }
</style>
</head>
<body>
<main>
<p class="status">%[1]d</p>
<h1>%[2]s</h1>
<p>%[3]s</p>
</main>
</body>
</html>
`

// write answers with the page: as HTML to who accepts that, otherwise as text.
func (p page) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	var text string
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		refresh := ""
		if p.retry > 0 && r.Method == http.MethodGet {
			refresh = fmt.Sprintf("\n<meta http-equiv=\"refresh\" content=\"%d\">", p.retry)
		}
		text = fmt.Sprintf(pageHTML, p.status, p.title, p.text, refresh)
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	} else {
		text = fmt.Sprintf("%d %s: %s\n", p.status, p.title, p.text)
		h.Set("Content-Type", "text/plain; charset=utf-8")
	}
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retry))
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(p.status)
	_, _ = w.Write([]byte(text)) // nobody to tell when the client is gone
}
