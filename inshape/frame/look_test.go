package frame

import (
	"fmt"
	"io/fs"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// contrast is WCAG 2's ratio of two colours of the form #rrggbb.
func contrast(a, b string) float64 {
	luminance := func(colour string) float64 {
		var sum float64
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
			if err != nil {
				return math.NaN()
			}
			c := float64(n) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			sum += weight * c
		}
		return sum
	}
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// TestColoursCanBeRead holds every pair of colours that text is set in to WCAG
// 2.2 AA: 4.5 to 1, and 3 to 1 for the edges of controls.
func TestColoursCanBeRead(t *testing.T) {
	text, err := fs.ReadFile(staticFiles, "static/inshape.css")
	if err != nil {
		t.Fatal(err)
	}
	schemes := regexp.MustCompile(`color-scheme: (light|dark);([^}]*)`).FindAllStringSubmatch(string(text), -1)
	if len(schemes) != 2 {
		t.Fatalf("there are %d schemes", len(schemes))
	}
	for _, scheme := range schemes {
		colours := map[string]string{}
		for _, v := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(scheme[2], -1) {
			colours[v[1]] = v[2]
		}
		for _, pair := range []struct {
			on, ink string
			least   float64
		}{
			{"paper", "ink", 4.5},
			{"card", "ink", 4.5},
			{"sunk", "ink", 4.5},
			{"paper", "muted", 4.5},
			{"card", "muted", 4.5},
			{"sunk", "muted", 4.5},
			{"paper", "accent", 4.5},
			{"card", "accent", 4.5},
			{"sunk", "accent", 4.5},
			{"accent", "accent-ink", 4.5},
			{"accent-strong", "accent-ink", 4.5},
			{"accent-paper", "accent-strong", 4.5},
			{"card", "accent-strong", 4.5},
			{"accent-paper", "ink", 4.5},
			{"accent-paper", "muted", 4.5},
			{"good-paper", "good", 4.5},
			{"warn-paper", "warn", 4.5},
			{"bad-paper", "bad", 4.5},
			{"busy-paper", "busy", 4.5},
			{"card", "good", 4.5},
			{"card", "warn", 4.5},
			{"card", "bad", 4.5},
			{"card", "busy", 4.5},
			{"stage", "stage-ink", 4.5},
			{"card", "edge", 3},
			{"paper", "edge", 3},
			{"paper", "accent", 3},
		} {
			if colours[pair.on] == "" || colours[pair.ink] == "" {
				t.Errorf("%s: no --%s or no --%s", scheme[1], pair.on, pair.ink)
				continue
			}
			if ratio := contrast(colours[pair.ink], colours[pair.on]); !(ratio >= pair.least) {
				t.Errorf("%s: --%s on --%s has %.2f to 1, needs %.1f", scheme[1], pair.ink, pair.on, ratio, pair.least)
			}
		}
	}
	if got := fmt.Sprintf("%.2f %.2f", contrast("#000000", "#ffffff"), contrast("#777777", "#ffffff")); got != "21.00 4.48" {
		t.Errorf("contrast itself is wrong: %s", got)
	}
}

// TestIconsAreDrawings keeps what the icon function puts into pages to what an
// icon may have.
func TestIconsAreDrawings(t *testing.T) {
	names, err := fs.Glob(iconFiles, "icons/*.svg")
	if err != nil || len(names) < 50 {
		t.Fatalf("%d icons, %v", len(names), err)
	}
	shape := regexp.MustCompile(`^<svg class="icon" aria-hidden="true" [^>]*>(<(path|circle|rect|line|polyline|polygon|ellipse) [^<>]*/>)+</svg>$`)
	for _, name := range names {
		html, err := icon(strings.TrimSuffix(strings.TrimPrefix(name, "icons/"), ".svg"))
		if err != nil || !shape.MatchString(string(html)) {
			t.Errorf("%s: %v %s", name, err, html)
		}
	}
	if _, err := icon("../server"); err == nil {
		t.Error("any file is an icon")
	}
}

func TestInitials(t *testing.T) {
	for name, want := range map[string]string{"Ada Lindqvist": "AL", "ada": "A", "": "", "Ada (the) Great Queen": "AQ", "Émile Zola": "ÉZ", "!!": ""} {
		if got := initials(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
