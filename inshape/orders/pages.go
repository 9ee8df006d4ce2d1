package orders

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"inshape/frame"

	"github.com/danielgtaylor/huma/v2"
)

// said is what a page tells after something was done, or was not.
type said struct {
	Text string
	Bad  bool
}

// refusal says why something was not done.
func refusal(p *frame.Problem) *said {
	text := p.Detail
	if p.Hint != "" {
		text += ". " + p.Hint
	}
	return &said{Text: text, Bad: true}
}

// doneTexts are what ?done= may say; other values say nothing.
var doneTexts = map[string]string{
	"placed": "Thank you. Your order is placed.", "confirm": "The order is confirmed.", "cancel": "The order is cancelled.", "verdict": "The verdict is noted.",
	"events": "Noted.", "reprint": "A new line was added, free of charge.", "comments": "Sent.", "attachments": "The file is added.", "party": "Saved.",
	"address": "The address is forgotten.", "change": "The changes are saved.", "requirements": "The requirements are saved.", "price": "The price is set.",
}

func (m *module) pages() {
	s := m.server
	s.Page("GET /orders/{$}", m.listPage)
	s.Page("GET /orders/card", m.cardPage)
	s.Page("GET /orders/new", m.newPage)
	s.Page("POST /orders/new", m.place)
	s.Page("GET /orders/parties", m.partiesPage)
	s.Page("POST /orders/parties", m.addParty)
	s.Page("GET /orders/parties/{id}", m.partyPage)
	s.Page("POST /orders/parties/{id}/details/save", m.saveParty)
	s.Page("POST /orders/parties/{id}/addresses/{address}/delete", m.forgetAddress)
	s.Page("GET /orders/{id}", m.orderPage)
	s.Page("GET /orders/history/{id}", m.historyPage)
	s.Page("GET /orders/slip/{id}", m.slipPage)
	s.Page("POST /orders/{id}/attachments", m.attachPage)
	for what, do := range map[string]func(*http.Request, frame.Match) error{
		"change": m.changeForm, "confirm": m.confirmForm, "cancel": m.cancelForm, "comments": m.commentForm, "lines/{line}/verdict": m.verdictForm,
		"lines/{line}/events": m.eventForm, "lines/{line}/reprint": m.reprintForm, "lines/{line}/requirements": m.requirementsForm, "lines/{line}/price": m.priceForm,
	} {
		s.Page("POST /orders/{id}/"+what, m.act(path.Base(what), do))
	}
}

// act is a form's handler: it does something to an order and shows the order
// again, with what came of it.
func (m *module) act(done string, do func(*http.Request, frame.Match) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		if err := r.ParseForm(); err != nil {
			return frame.Invalid("the form could not be read").Because(err)
		}
		id := r.PathValue("id")
		var match frame.Match
		if version := r.PostForm.Get("version"); version != "" {
			match.IfMatch = `"v` + version + `"`
		}
		r = r.WithContext(frame.WithKey(r.Context(), r.PostForm.Get("key"), r.URL.Path+"?"+r.PostForm.Encode()))
		if err := do(r, match); err != nil {
			if p := frame.AsProblem(err); p.Status < 500 && p.Status != http.StatusNotFound {
				return m.showOrder(w, r, p.Status, id, refusal(p))
			}
			return err
		}
		http.Redirect(w, r, "/orders/"+url.PathEscape(id)+"?done="+done, http.StatusSeeOther)
		return nil
	}
}

// fits holds a form to the API's schema of the same thing.
func (m *module) fits(body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("check form: %w", err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return fmt.Errorf("check form: %w", err)
	}
	registry := m.server.API.OpenAPI().Components.Schemas
	result := &huma.ValidateResult{}
	huma.Validate(registry, registry.Schema(reflect.TypeOf(body), true, ""), huma.NewPathBuffer(nil, 0), huma.ModeWriteToServer, value, result)
	if len(result.Errors) == 0 {
		return nil
	}
	problem := frame.Invalid("some of what was written cannot be taken")
	for _, err := range result.Errors {
		message := err.Error()
		if fault, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			message = fieldWord(fault.Location) + ": " + plain(fault.Message)
		}
		problem.Errors = append(problem.Errors, frame.Fault{Message: message})
	}
	problem.Detail = problem.Errors[0].Message
	problem.Errors = problem.Errors[1:]
	return problem
}

var schemaWords = []struct {
	schema *regexp.Regexp
	plain  string
}{
	{regexp.MustCompile(`^expected length <= (\d+)$`), "at most $1 characters"},
	{regexp.MustCompile(`^expected length >= 1$`), "this is needed"},
	{regexp.MustCompile(`^expected number <= (\d+)$`), "at most $1"},
	{regexp.MustCompile(`^expected number >= (\d+)$`), "at least $1"},
	{regexp.MustCompile(`^expected string to be `), "it must be "},
}

// plain says what a schema's fault is as one person would to another.
func plain(message string) string {
	for _, w := range schemaWords {
		message = w.schema.ReplaceAllString(message, w.plain)
	}
	return message
}

var lineInPath = regexp.MustCompile(`^(lines|requirements)\[(\d+)\]\.?`)

// fieldWord says in words what lines[0].requirements.finish is: part 1, finish.
func fieldWord(location string) string {
	if found := lineInPath.FindStringSubmatch(location); found != nil {
		number, _ := strconv.Atoi(found[2]) // digits
		location = fmt.Sprintf("part %d.%s", number+1, strings.TrimPrefix(location, found[0]))
	}
	location = strings.TrimPrefix(strings.Replace(location, ".requirements.", ".", 1), "ship_to.")
	return strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(location, "_", " "), ".", ", "), "line1", "street")
}
