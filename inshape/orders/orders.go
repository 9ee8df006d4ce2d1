// Package orders is Inshape's module Orders: parties and their addresses, orders
// with their lines from the quote to the delivery, who did what and when,
// comments, attachments, search and export.
//
// Where the shop has Analysis, an order is made of an accepted quote, or of
// models whose verdict was accepted; where it has not, staff decide for every
// line by hand whether it can be made. The module makes nothing and ships
// nothing: whoever does tells it, by line events.
//
// Start with [Module]; state.go holds the rules of an order's life. pages.go says
// which pages there are; each has a file.
package orders

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"os"

	"inshape/frame"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// Module is what the frame needs to run it.
func Module() frame.Module {
	return frame.Module{
		Name: "orders", Title: "Orders", Icon: "clipboard-list",
		About:      "Orders from quote to delivery: parties, addresses, lines, line events, comments, attachments, export.",
		Migrations: sub(migrations, "migrations"), Pages: sub(pageFiles, "pages"), Static: sub(staticFiles, "static"), Funcs: funcs(),
		Set: func(s *frame.Server) error {
			m := &module{server: s, store: s.Store, log: s.Log, files: s.Config.File("attachments")}
			if s.Config.Has("analysis") {
				m.analysis = s.Client("analysis")
			}
			if err := os.MkdirAll(m.files, 0o700); err != nil {
				return err
			}
			if err := m.sweep(context.Background()); err != nil {
				return err
			}
			m.partyOperations()
			m.orderOperations()
			m.lineOperations()
			m.commentOperations()
			m.attachmentOperations()
			m.pages()
			return nil
		},
	}
}

// module is the one that runs in a process.
type module struct {
	server   *frame.Server
	store    *frame.Store
	log      *slog.Logger
	analysis *frame.Client // nil: the shop has no Analysis
	files    string        // folder of attachments
}

func sub(files embed.FS, folder string) fs.FS {
	found, err := fs.Sub(files, folder)
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return found
}
