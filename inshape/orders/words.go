package orders

import (
	"fmt"
	"html/template"
	"slices"
	"strings"

	"inshape/frame"
)

func stateWord(s State) string {
	text := strings.ReplaceAll(string(s), "-", " ")
	return strings.ToUpper(text[:1]) + text[1:]
}

// requirement is one of Requirements, as pages show it and ask for it.
type requirement struct {
	Field, Name, Text, Example string
	Max                        int
}

// requirementsOf are all of them; those that were given have a text.
func requirementsOf(r Requirements) []requirement {
	return []requirement{
		{"tolerances", "Tolerances", r.Tolerances, "such as ISO 2768-m", 1000},
		{"orientation", "Orientation when built", r.Orientation, "such as flat side down", 400},
		{"inspection", "Inspection", r.Inspection, "such as measure the bore of every part", 400},
		{"feedstock", "Powder or resin", r.Feedstock, "such as virgin powder, lot certificate", 400},
		{"repairs", "Repairs that are allowed", r.Repairs, "such as none without asking", 400},
		{"packaging", "Packaging", r.Packaging, "such as one bag per part", 400},
		{"file_format", "File format", r.FileFormat, "such as 3MF 1.4", 60},
		{"file_version", "Version of the file or drawing", r.FileVersion, "such as B", 60},
		{"notes", "Notes", r.Notes, "", 2000},
	}
}

func given(r Requirements) []requirement {
	return slices.DeleteFunc(requirementsOf(r), func(n requirement) bool { return n.Text == "" })
}

// possible are the events that a line can take now, the likeliest first.
func possible(o *Order, l Line) []Kind {
	var kinds []Kind
	if o.stage == Confirmed {
		for _, kind := range []Kind{Start, Make, Scrap, Ship, Deliver} {
			if _, refusal := l.Apply(kind, 1); refusal == "" && !(kind == Start && l.Started) {
				kinds = append(kinds, kind)
			}
		}
		if l.Made == l.Quantity { // what is left to do stands first
			kinds = slices.DeleteFunc(kinds, func(k Kind) bool { return k == Scrap })
		}
	}
	if o.stage == Confirmed || o.stage == Placed {
		if _, refusal := l.Apply(Cancel, 0); refusal == "" {
			kinds = append(kinds, Cancel)
		}
	}
	return kinds
}

// suggest is how many pieces the next event is likely about.
func suggest(l Line) int {
	switch {
	case l.Made < l.Quantity:
		return l.Quantity - l.Made
	case l.Shipped < l.Made:
		return l.Made - l.Shipped
	case l.Delivered < l.Shipped:
		return l.Shipped - l.Delivered
	}
	return 1
}

// stepWord says a step of the history in words.
func stepWord(o *Order, s Step) string {
	name := ""
	if l, err := o.line(s.Line); s.Line != "" && err == nil {
		name = l.Name
	}
	switch {
	case s.Line == "":
		return stateWord(State(s.Kind))
	case s.Kind == "reprint":
		return fmt.Sprintf("%d × %s are made again", s.Quantity, name)
	case s.Kind == "verdict":
		return "Verdict for " + name
	case s.Kind == "requirements":
		return "New requirements for " + name
	case s.Kind == "price":
		return "Price of " + name
	case s.Quantity > 0:
		return fmt.Sprintf("%d × %s %s", s.Quantity, name, s.Kind)
	}
	return name + " " + s.Kind
}

func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

// funcs are what the pages of this module use beside the frame's.
func funcs() template.FuncMap {
	return template.FuncMap{
		"stateWord": stateWord,
		"stateLook": func(s State) string {
			switch s {
			case Delivered:
				return "good"
			case Cancelled:
				return "bad"
			case Placed, Waiting:
				return "warn"
			}
			return "busy"
		},
		"missingVerdict": func(o Order) bool {
			return o.State == Placed && slices.ContainsFunc(o.Lines, func(l Line) bool { return l.Verdict == nil && !l.Cancelled })
		},
		"late": func(o Order, today string) bool { return o.Due < today && o.State != Delivered && o.State != Cancelled },
		"pick": func(so bool, yes, no string) string {
			if so {
				return yes
			}
			return no
		},
		"minus":        func(a, b int) int { return a - b },
		"plus":         func(a, b int) int { return a + b },
		"percent":      func(part, whole int) int { return 100 * part / max(whole, 1) },
		"bytes":        size,
		"requirements": requirementsOf,
		"given":        given,
		"prefix":       prefix,
		"requirable": func(o *Order, l Line, staff bool) bool {
			return l.State() == Waiting && (o.stage == Placed || staff && o.stage == Confirmed)
		},
		"events": possible,
		"eventWord": func(k Kind) string {
			return map[Kind]string{Start: "Started", Make: "Made", Scrap: "Failed", Ship: "Shipped", Deliver: "Delivered", Cancel: "Cancel the line"}[k]
		},
		"suggest":  suggest,
		"stepWord": stepWord,
		"newKey":   func() string { return frame.NewID("key") },
	}
}
