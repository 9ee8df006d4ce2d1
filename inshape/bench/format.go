package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"inshape/mesh"
)

// formats measures one ball in every other format.
func formats(ctx context.Context, b *bench) error {
	m := ball(50, 350)
	writers := []struct {
		name  string
		write func(w *bufio.Writer)
	}{
		{"ascii.stl", func(w *bufio.Writer) { writeASCII(w, m) }},
		{"ball.obj", func(w *bufio.Writer) { writeOBJ(w, m) }},
		{"ball.amf", func(w *bufio.Writer) { writeAMF(w, m) }},
		{"ball.3mf", func(w *bufio.Writer) { _ = mesh.WriteThreeMF(w, m, "ball") }}, // w keeps its error
	}
	for _, f := range writers {
		path := filepath.Join(b.tmp, f.name)
		out, err := os.Create(path)
		if err != nil {
			return err
		}
		w := bufio.NewWriter(out)
		f.write(w)
		if err := w.Flush(); err != nil {
			return err
		}
		if err := out.Close(); err != nil {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		fmt.Printf("%s, %d facets, %.1f MB:\n\n", f.name, len(m.Facets), float64(info.Size())/1e6)
		ours, err := b.ours(ctx, 1, func() error { return measure(path) })
		if err != nil {
			return err
		}
		rows := []row{{"Inshape, one thread", ours}}
		if f.name == "ascii.stl" && installed("admesh") {
			c, err := b.peer(ctx, "admesh", []string{path})
			if err != nil {
				return err
			}
			rows = append(rows, row{"admesh", c})
		}
		if installed("prusa-slicer") {
			c, err := b.peer(ctx, "prusa-slicer", []string{"--info", path})
			if err != nil {
				return err
			}
			rows = append(rows, row{"prusa-slicer --info", c})
		}
		table(len(m.Facets), rows, "Inshape, one thread")
	}
	return nil
}

func writeASCII(w *bufio.Writer, m *mesh.Mesh) {
	fmt.Fprintln(w, "solid ball")
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		n := m.Normal(f)
		fmt.Fprintf(w, "  facet normal %e %e %e\n    outer loop\n", n[0], n[1], n[2])
		for _, v := range []mesh.Vec{p, q, r} {
			fmt.Fprintf(w, "      vertex %e %e %e\n", v[0], v[1], v[2])
		}
		fmt.Fprint(w, "    endloop\n  endfacet\n")
	}
	fmt.Fprintln(w, "endsolid ball")
}

func writeOBJ(w *bufio.Writer, m *mesh.Mesh) {
	for _, v := range m.Vertices {
		fmt.Fprintf(w, "v %.6f %.6f %.6f\n", v[0], v[1], v[2])
	}
	for _, f := range m.Facets {
		fmt.Fprintf(w, "f %d %d %d\n", f[0]+1, f[1]+1, f[2]+1)
	}
}

func writeAMF(w *bufio.Writer, m *mesh.Mesh) {
	fmt.Fprint(w, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<amf unit=\"millimeter\"><object id=\"0\"><mesh><vertices>\n")
	for _, v := range m.Vertices {
		fmt.Fprintf(w, "<vertex><coordinates><x>%.6f</x><y>%.6f</y><z>%.6f</z></coordinates></vertex>\n", v[0], v[1], v[2])
	}
	fmt.Fprint(w, "</vertices><volume>\n")
	for _, f := range m.Facets {
		fmt.Fprintf(w, "<triangle><v1>%d</v1><v2>%d</v2><v3>%d</v3></triangle>\n", f[0], f[1], f[2])
	}
	fmt.Fprint(w, "</volume></mesh></object></amf>\n")
}
