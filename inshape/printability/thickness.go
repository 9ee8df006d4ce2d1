package printability

import (
	"cmp"
	"math"
	"slices"

	"inshape/mesh"
)

// The curve of a Thickness has a point for every 0.05 mm up to 10 mm, which no
// minimum wall is above. Places are kept for 64 regions of a part.
const (
	curveStep   = 0.05
	curvePoints = 200
	cells       = 8 // regions along the longest side of a part
	maxRegions  = 64
)

// Thickness sums up the thickness of a part's walls.
type Thickness struct {
	Places []Place   `json:"places"` // the thinnest one of each region, the thinnest first; Value is mm
	Curve  []float64 `json:"curve"`  // percent of the surface that is thinner than (i+1) · 0.05 mm
}

// NewThickness sums up the thickness of each facet of m, mm (+Inf: nothing
// opposite), as mesh.BVH.Thickness gives it. O(n log n).
func NewThickness(m *mesh.Mesh, thickness []float64) *Thickness {
	t := &Thickness{Curve: make([]float64, curvePoints)}
	box := m.Bounds()
	size := box.Size()
	cell := max(size[0], size[1], size[2]) / cells
	thinnest := map[[3]int]Place{}
	var whole float64
	for f, d := range thickness {
		a, b, c := m.Corners(f)
		area := b.Sub(a).Cross(c.Sub(a)).Len() / 2
		whole += area
		if math.IsInf(d, 1) || math.IsNaN(d) || area == 0 {
			continue
		}
		if i := int(d / curveStep); i < curvePoints {
			t.Curve[i] += area
		}
		at := a.Add(b).Add(c).Mul(1. / 3)
		var key [3]int
		for k := range key {
			key[k] = int((at[k] - box.Min[k]) / cell)
		}
		if p, ok := thinnest[key]; !ok || d < p.Value {
			thinnest[key] = Place{At: at, Facet: int32(f), Value: d}
		}
	}
	if whole == 0 {
		return t
	}
	var sum float64
	for i, area := range t.Curve {
		sum += area
		t.Curve[i] = min(100*sum/whole, 100)
	}
	for _, p := range thinnest {
		t.Places = append(t.Places, p)
	}
	slices.SortFunc(t.Places, func(p, q Place) int {
		return cmp.Or(cmp.Compare(p.Value, q.Value), cmp.Compare(p.Facet, q.Facet))
	})
	t.Places = t.Places[:min(len(t.Places), maxRegions)]
	return t
}

// Below is the percentage of the surface where the part is thinner than limit mm.
func (t *Thickness) Below(limit float64) float64 {
	x := limit / curveStep
	i := int(x) // whole steps
	at := func(i int) float64 {
		if i <= 0 || len(t.Curve) == 0 {
			return 0
		}
		return t.Curve[min(i, len(t.Curve))-1]
	}
	return at(i) + (x-float64(i))*(at(i+1)-at(i))
}
