package main

import (
	"context"
	"fmt"
	"math"

	"inshape/mesh"
)

// orient measures the choice of a build direction, and what it saves in support
// beside the direction that the file has.
func orient(ctx context.Context, b *bench) error {
	m := ball(30, 142)
	c, err := b.ours(ctx, 2, func() error {
		_, err := mesh.Orient(ctx, m, mesh.WeightsFDM(), 3)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("A ball of %d facets: %.3f s, %.3f s of processor time.\n\n", len(m.Facets), c.wall.Seconds(), c.cpu.Seconds())
	real := b.solids()
	if len(real) == 0 {
		return nil
	}
	var sum, before, after float64
	worse := 0
	for _, m := range real {
		var found []mesh.Orientation
		c, err := once(ctx, func() (err error) {
			found, err = mesh.Orient(ctx, m, mesh.WeightsFDM(), 1)
			return err
		})
		if err != nil {
			return err
		}
		sum += c.wall.Seconds()
		was := m.SupportVolume(mesh.Vec{0, 0, 1}, math.Pi/4, 0).Volume
		is := m.SupportVolume(found[0].Up, math.Pi/4, 0).Volume
		before, after = before+was, after+is
		if is > 1.02*was+1 {
			worse++
		}
	}
	fmt.Printf("%d real solids, %.3f s on average: columns of support as the files lie %.0f cm³, as chosen for filament %.0f cm³; more than before in %d files, "+
		"where other criteria weigh more.\n\n", len(real), sum/float64(len(real)), before/1000, after/1000, worse)
	return nil
}
