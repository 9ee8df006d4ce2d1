package main

import (
	"context"
	"fmt"
	"math"

	"inshape/mesh"
)

// thickness measures walls and gaps: balls grown at every facet, of a solid ball
// that is finely tessellated (where all facets are as near to its middle) and of
// the real files. No peer that is packaged measures either.
func thickness(ctx context.Context, b *bench) error {
	m := ball(30, 142)
	fmt.Printf("One ball of %d facets, 60 mm thick:\n\n| what | wall s | processor s | million facets/s | largest error |\n|---|---|---|---|---|\n", len(m.Facets))
	for _, what := range []struct {
		name    string
		options mesh.WidthOptions
		want    float64
	}{
		{"thickness, unbounded", mesh.WidthOptions{}, 60},
		{"thickness up to 5 mm, thin below 1 mm", mesh.WidthOptions{Limit: 1, Reach: 5}, math.Inf(1)},
	} {
		worst := 0.0
		c, err := b.ours(ctx, 2, func() error {
			w, err := mesh.NewBVH(m).Thickness(ctx, what.options)
			if err != nil {
				return err
			}
			for _, got := range w.Facets {
				if got != what.want {
					worst = max(worst, math.Abs(got-what.want)/what.want)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Printf("| %s | %.3f | %.3f | %.2f | %.2g %% |\n", what.name, c.wall.Seconds(), c.cpu.Seconds(), float64(len(m.Facets))/1e6/c.wall.Seconds(), 100*worst)
	}
	real := b.solids()
	if len(real) == 0 {
		return nil
	}
	fmt.Printf("\n%d real solids, each with walls below 1 mm and gaps below 0.5 mm, up to 5 mm, and what is trapped behind 4 mm:\n\n| what | wall s, mean | wall s, longest | files with such places |\n|---|---|---|---|\n", len(real))
	for _, what := range []struct {
		name string
		do   func(m *mesh.Mesh) (places int, err error)
	}{
		{"thickness", func(m *mesh.Mesh) (int, error) {
			w, err := mesh.NewBVH(m).Thickness(ctx, mesh.WidthOptions{Limit: 1, Reach: 5})
			if err != nil {
				return 0, err
			}
			return w.Found, nil
		}},
		{"clearance", func(m *mesh.Mesh) (int, error) {
			w, err := mesh.NewBVH(m).Clearance(ctx, mesh.WidthOptions{Limit: 0.5, Reach: 5})
			if err != nil {
				return 0, err
			}
			return w.Found, nil
		}},
		{"trapped volumes", func(m *mesh.Mesh) (int, error) {
			r, err := mesh.TrappedVolumes(ctx, m, mesh.TrappedOptions{Opening: 4})
			if err != nil {
				return 0, err
			}
			return len(r.Pockets), nil
		}},
	} {
		sum, longest, with := 0.0, 0.0, 0
		for _, m := range real {
			places := 0
			c, err := once(ctx, func() (err error) {
				places, err = what.do(m)
				return err
			})
			if err != nil {
				return err
			}
			sum += c.wall.Seconds()
			longest = max(longest, c.wall.Seconds())
			if places > 0 {
				with++
			}
		}
		fmt.Printf("| %s | %.2f | %.2f | %d |\n", what.name, sum/float64(len(real)), longest, with)
	}
	fmt.Println()
	return nil
}

// solids are the files that are solids, or become solids by repair. Those below
// 2 mm were drawn in metres.
func (b *bench) solids() []*mesh.Mesh {
	var found []*mesh.Mesh
	for _, path := range b.files {
		model, err := read(path)
		if err != nil {
			continue // refused as a file: not this section's business
		}
		m := model.Mesh
		if m.Bounds().Size().Len() < 2 {
			m = m.Transformed(mesh.Scaling(1000))
		}
		if r := mesh.Repair(m, mesh.RepairOptions{}); r.Solid {
			found = append(found, r.Mesh)
		}
	}
	return found
}

// once measures what is done to many files one time each.
func once(ctx context.Context, do func() error) (cost, error) {
	single := &bench{rounds: 1}
	return single.ours(ctx, 2, do)
}
