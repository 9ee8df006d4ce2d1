package cli

import (
	"fmt"
	"time"

	"bulkhead/images"
)

// uploadBar shows the upload of one image: a line that is written over on
// a terminal, else one line at the end.
type uploadBar struct {
	c      *command
	name   string
	where  string
	begin  time.Time
	shown  time.Time
	latest images.Progress
}

func (c *command) uploadBar(name, where string) *uploadBar {
	return &uploadBar{c: c, name: name, where: where, begin: time.Now()}
}

func (b *uploadBar) update(p images.Progress) {
	b.latest = p
	if !isTerminal(b.c.env.Stderr) || time.Since(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = time.Now()
	fmt.Fprintf(b.c.env.Stderr, "\r\x1b[K  %s  %s / %s", b.name, size(p.Done), size(p.Total))
}

func (b *uploadBar) end(err error) {
	if isTerminal(b.c.env.Stderr) {
		fmt.Fprint(b.c.env.Stderr, "\r\x1b[K")
	}
	if err != nil {
		return
	}
	p := b.latest
	what := "uploaded " + size(p.Total-p.Skipped)
	switch {
	case p.Skipped >= p.Total:
		what = "present"
	case p.Skipped > 0:
		what += ", " + size(p.Skipped) + " present"
	}
	fmt.Fprintf(b.c.env.Stderr, "  %s  %s (from %s) %s\n", b.name, what, b.where, b.c.paint(faint, took(time.Since(b.begin))))
}
