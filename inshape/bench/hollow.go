package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"inshape/mesh"
)

// hollow measures hollowing: a ball of 80,000 facets, and the real files.
func hollow(ctx context.Context, b *bench) error {
	m := ball(30, 142)
	var h *mesh.Hollowed
	c, err := b.ours(ctx, 2, func() (err error) {
		h, err = mesh.Hollow(ctx, m, mesh.HollowOptions{Wall: 3, HoleDiameter: 4})
		return err
	})
	if err != nil {
		return err
	}
	right := 1 - math.Pow(27./30, 3)
	fmt.Printf("A ball of %d facets, radius 30 mm, with a wall of 3 mm and two holes of 4 mm: %.2f s, %.2f s of processor time; "+
		"%.4f of the volume stays (%.4f without holes), the least wall is %.3f mm.\n\n",
		len(m.Facets), c.wall.Seconds(), c.cpu.Seconds(), 1-h.Saved/mesh.Measure(m).Volume, right, wall(m, h))
	real := b.solids()
	if len(real) == 0 {
		return nil
	}
	var sum, longest, least float64 = 0, 0, math.Inf(1)
	hollowed, unsound, holes := 0, 0, 0
	refused := map[mesh.Code]int{}
	for _, m := range real {
		var h *mesh.Hollowed
		c, err := once(ctx, func() (err error) {
			h, err = mesh.Hollow(ctx, m, mesh.HollowOptions{Wall: 1.5, HoleDiameter: 3})
			return err
		})
		var why *mesh.Error
		if errors.As(err, &why) {
			refused[why.Code]++
			continue
		}
		if err != nil {
			return err
		}
		hollowed++
		holes += len(h.Holes)
		sum += c.wall.Seconds()
		longest = max(longest, c.wall.Seconds())
		least = min(least, wall(m, h))
		if t := mesh.Analyse(h.Mesh); !t.Solid() || !t.Manifold() {
			unsound++
		}
	}
	fmt.Printf("%d real solids with a wall of 1.5 mm and holes of 3 mm: %d hollowed with %d holes, %d of them not sound, "+
		"%.2f s on average, %.2f s at most, the least wall %.3f mm; refused: %v.\n\n",
		len(real), hollowed, holes, unsound, sum/max(1, float64(hollowed)), longest, least, refused)
	return nil
}

// wall is the least distance from the outside to points of h that are no part of
// it nor of a hole, two for each facet.
func wall(outside *mesh.Mesh, h *mesh.Hollowed) float64 {
	tree := mesh.NewBVH(outside)
	r := rand.New(rand.NewPCG(1, 2))
	least := math.Inf(1)
	for f := range h.Mesh.Facets {
		a, b, c := h.Mesh.Corners(f)
		for range 2 {
			u, v := r.Float64(), r.Float64()
			if u+v > 1 {
				u, v = 1-u, 1-v
			}
			p := a.Add(b.Sub(a).Mul(u)).Add(c.Sub(a).Mul(v))
			drilled := false
			for _, o := range h.Holes {
				d := p.Sub(o.At)
				drilled = drilled || d.Sub(o.Axis.Mul(d.Dot(o.Axis))).Len() < 0.53*o.Diameter
			}
			if drilled {
				continue
			}
			if _, facet, d := tree.Nearest(p, 4, nil); facet >= 0 && d > 1e-6 {
				least = min(least, d)
			}
		}
	}
	return least
}
