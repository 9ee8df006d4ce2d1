package printability

import (
	"cmp"
	"math"
	"slices"

	"inshape/mesh"
)

// CurveStep is the distance of the points of Thickness.Curve, mm.
const CurveStep = 0.05

// The curve goes up to 10 mm, which no minimum wall is above. Places are kept for
// 64 regions of a part.
const (
	curvePoints = 200
	cells       = 8 // regions along the longest side of a part
	maxRegions  = 64
)

// Thickness sums up the thickness of a part's walls.
type Thickness struct {
	Places []Place   `json:"places"` // the thinnest spot of each region, the thinnest first; Value is mm
	Curve  []float64 `json:"curve"`  // percent of the surface that is thinner than (i+1) · CurveStep
}

// NewThickness sums up the thickness of each facet of m, mm (+Inf: nothing
// opposite), as mesh.BVH.Thickness gives it. A spot is the thinnest 1 mm² of a
// region, or a thousandth of a small part: slivers along edges, which are thin by
// nature and of no area, make none. O(n log n).
func NewThickness(m *mesh.Mesh, thickness []float64) *Thickness {
	t := &Thickness{Curve: make([]float64, curvePoints)}
	box := m.Bounds()
	size := box.Size()
	cell := max(size[0], size[1], size[2]) / cells

	type facet struct {
		Place
		area float64
	}
	regions := map[[3]int][]facet{}
	var whole float64
	for f, d := range thickness {
		a, b, c := m.Corners(f)
		area := b.Sub(a).Cross(c.Sub(a)).Len() / 2
		whole += area
		if math.IsInf(d, 1) || math.IsNaN(d) || area == 0 {
			continue
		}
		if i := int(d / CurveStep); i < curvePoints {
			t.Curve[i] += area
		}
		at := a.Add(b).Add(c).Mul(1. / 3)
		var key [3]int
		for k := range key {
			key[k] = int((at[k] - box.Min[k]) / cell)
		}
		regions[key] = append(regions[key], facet{Place{At: at, Facet: int32(f), Value: d}, area})
	}
	if whole == 0 {
		return t
	}
	var sum float64
	for i, area := range t.Curve {
		sum += area
		t.Curve[i] = min(100*sum/whole, 100)
	}
	spot := min(1, whole/1000)
	for _, facets := range regions {
		slices.SortFunc(facets, func(p, q facet) int { return thinner(p.Place, q.Place) })
		var area float64
		for _, f := range facets {
			if area += f.area; area >= spot {
				t.Places = append(t.Places, f.Place)
				break
			}
		}
	}
	slices.SortFunc(t.Places, thinner)
	t.Places = t.Places[:min(len(t.Places), maxRegions)]
	return t
}

func thinner(p, q Place) int {
	return cmp.Or(cmp.Compare(p.Value, q.Value), cmp.Compare(p.Facet, q.Facet))
}

// Below is the percentage of the surface where the part is thinner than limit mm.
func (t *Thickness) Below(limit float64) float64 {
	x := limit / CurveStep
	i := int(x) // whole steps
	at := func(i int) float64 {
		if i <= 0 || len(t.Curve) == 0 {
			return 0
		}
		return t.Curve[min(i, len(t.Curve))-1]
	}
	return at(i) + (x-float64(i))*(at(i+1)-at(i))
}
