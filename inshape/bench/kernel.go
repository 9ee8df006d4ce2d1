package main

import (
	"context"
	"fmt"
	"runtime"

	"inshape/mesh"

	"golang.org/x/sync/errgroup"
)

// kernel measures binary STL: the real files together, and one large one. Peers
// are separate processes, so what they take for a cube of twelve facets is
// measured too and subtracted for each process: what is left is their work.
func kernel(ctx context.Context, b *bench) error {
	var real []string
	facets := 0
	for _, path := range b.files {
		if mesh.FormatOf(path) != mesh.STL {
			continue
		}
		model, err := read(path)
		if err != nil {
			fmt.Printf("%s: %v; left out\n", path, err)
			continue
		}
		real = append(real, path)
		facets += len(model.Mesh.Facets)
	}
	m := ball(50, 800)
	large, err := b.writeSTL("large.stl", m)
	if err != nil {
		return err
	}
	if len(real) > 0 {
		fmt.Printf("%d real files, %d facets:\n\n", len(real), facets)
		if err := b.beside(ctx, facets, real); err != nil {
			return err
		}
	}
	fmt.Printf("One ball of %d facets:\n\n", len(m.Facets))
	return b.beside(ctx, len(m.Facets), []string{large})
}

// beside prints the table for files.
func (b *bench) beside(ctx context.Context, facets int, files []string) error {
	all := func() error { // as many files at a time as there are threads, as a service reads them
		var group errgroup.Group
		group.SetLimit(runtime.GOMAXPROCS(0))
		for _, path := range files {
			group.Go(func() error {
				if err := measure(path); err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				return nil
			})
		}
		return group.Wait()
	}
	one, err := b.ours(ctx, 1, all)
	if err != nil {
		return err
	}
	two, err := b.ours(ctx, 2, all)
	if err != nil {
		return err
	}
	rows := []row{{"Inshape, two threads", two}, {"Inshape, one thread", one}}
	cube, err := b.writeSTL("cube.stl", ball(1, 2))
	if err != nil {
		return err
	}
	for _, p := range []struct {
		who, program string
		args         []string
		together     bool // one process for all files, so that it starts once
	}{
		{"admesh", "admesh", nil, false},
		{"admesh --exact", "admesh", []string{"--exact"}, false},
		{"prusa-slicer --info", "prusa-slicer", []string{"--info"}, true},
	} {
		if !installed(p.program) {
			continue
		}
		var calls [][]string
		if p.together {
			calls = [][]string{append(append([]string{}, p.args...), files...)}
		} else {
			for _, path := range files {
				calls = append(calls, append(append([]string{}, p.args...), path))
			}
		}
		work, err := b.peer(ctx, p.program, calls...)
		if err != nil {
			return err
		}
		start, err := b.peer(ctx, p.program, append(append([]string{}, p.args...), cube))
		if err != nil {
			return err
		}
		n := len(calls)
		for range n {
			work = work.minus(start)
		}
		rows = append(rows, row{fmt.Sprintf("%s (without %d starts of %d ms)", p.who, n, start.wall.Milliseconds()), work})
	}
	table(facets, rows, "Inshape, two threads")
	return nil
}
