package mesh

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
)

// OrientWeights say what a build direction costs. Every term is relative to
// the part, so that weights mean the same for small and large ones.
type OrientWeights struct {
	Limit     float64 // radians from the vertical from which on a facet overhangs
	Overhang  float64 // × overhanging area / area
	Support   float64 // × volume of columns from overhangs to the plate / area^1.5
	Height    float64 // × height / √area
	Footprint float64 // × area of the box on the plate / area
	Flat      float64 // × area within 5° of the layers, the bottom apart / area
	Bottom    float64 // × 0.02/(0.02 + b), b the area on the plate / area: from 1 without to 0 with much
}

// WeightsFDM are for melted filament: little support, a sure stand, then height.
func WeightsFDM() OrientWeights {
	return OrientWeights{Limit: math.Pi / 4, Overhang: 3, Support: 6, Height: 0.2, Bottom: 0.5}
}

// WeightsResin are for vat photopolymerisation: little support, small and few
// flat cross-sections to peel off, then height.
func WeightsResin() OrientWeights {
	return OrientWeights{Limit: math.Pi / 4, Overhang: 2, Support: 4, Height: 0.3, Footprint: 0.3, Flat: 0.7}
}

// WeightsPowder are for polymer powder, which supports by itself: build height,
// which is machine time, and large flat areas along the layers, which warp.
func WeightsPowder() OrientWeights {
	return OrientWeights{Limit: math.Pi / 4, Height: 1, Flat: 0.8, Footprint: 0.1}
}

// WeightsMetal are for metal powder: supports carry heat and are cut off by hand.
func WeightsMetal() OrientWeights {
	return OrientWeights{Limit: math.Pi / 4, Overhang: 4, Support: 8, Height: 0.4, Flat: 0.4, Bottom: 0.3}
}

// Orientation is a build direction and what it costs.
type Orientation struct {
	Up        Vec       // unit, in the mesh's coordinates: what points away from the plate
	Transform Transform // stands the part on z = 0, its box along x and y as small as can be and centred on z
	Score     float64   // the weighted sum; lower is better
	Height    float64   // mm
	Footprint float64   // mm², of the box on the plate
	Bottom    float64   // mm² on the plate
	Overhang  float64   // mm² that overhang
	Support   float64   // mm³ of columns from overhangs to the plate: an upper bound of SupportVolume
	Flat      float64   // mm² along the layers
}

// The terms' limits.
const (
	flatDegrees = 5
	layer       = 0.1 // mm: what is as near to the plate is on it
)

// Orient gives the best directions to build a part in, at most count of them and
// the best first, at least 10° apart.
//
// Candidates are: down the normals that carry most area; down the largest faces
// of the convex hull of the vertices that lie furthest in 200 directions; 100
// directions all around; the axes. The best three are then bettered in steps from
// 16° to 1°. The criteria are those of Schranz (Tweaker: auto rotation module
// for FDM 3D printing, Salzburg Research, 2016): overhang, bottom, and further
// ones here, in a weighted sum. O(n) for each of about 220 candidates, on all
// CPUs. The error is the context's; for a mesh without area there is no
// orientation.
func Orient(ctx context.Context, m *Mesh, w OrientWeights, count int) ([]Orientation, error) {
	o := newOrienter(m, w)
	if o.area == 0 || count <= 0 {
		return nil, nil
	}
	found, err := o.score(ctx, o.candidates())
	for round := 0; err == nil && round < 5; round++ {
		angle := math.Pi / 180 * math.Ldexp(16, -round)
		var near []Vec
		for _, best := range distinct(found, 3) {
			u, v := across(best.up)
			for k := range 6 {
				s, c := math.Sincos(2 * math.Pi * float64(k) / 6)
				near = append(near, best.up.Add(u.Mul(c*math.Tan(angle))).Add(v.Mul(s*math.Tan(angle))).Unit())
			}
		}
		var more []rated
		more, err = o.score(ctx, near)
		found = append(found, more...)
	}
	if err != nil {
		return nil, fmt.Errorf("orient: %w", err)
	}
	var best []Orientation
	for _, r := range distinct(found, count) {
		best = append(best, o.stand(r))
	}
	slices.SortStableFunc(best, func(a, b Orientation) int { return cmp.Compare(a.Score, b.Score) })
	return best, nil
}

// rated is a direction with its score.
type rated struct {
	up    Vec
	score float64
}

// distinct are the best of found, at least 10° from each other.
func distinct(found []rated, count int) []rated {
	slices.SortFunc(found, func(a, b rated) int {
		return cmp.Or(cmp.Compare(a.score, b.score), slices.Compare(b.up[:], a.up[:]))
	})
	near := math.Cos(10 * math.Pi / 180)
	var best []rated
	for _, r := range found {
		if len(best) == count {
			break
		}
		if !slices.ContainsFunc(best, func(b rated) bool { return b.up.Dot(r.up) > near }) {
			best = append(best, r)
		}
	}
	return best
}

type orienter struct {
	m       *Mesh
	weights OrientWeights
	facets  []orientFacet
	area    float64
	corners []Vec // vertices that lie furthest in some direction
}

// orientFacet is what of a facet the score needs.
type orientFacet struct {
	normal Vec // unit
	middle Vec
	area   float64
}

func newOrienter(m *Mesh, w OrientWeights) *orienter {
	o := &orienter{m: m, weights: w, facets: make([]orientFacet, 0, len(m.Facets))}
	for f := range m.Facets {
		a, b, c := m.Corners(f)
		n := b.Sub(a).Cross(c.Sub(a))
		if l := n.Len(); l > 0 {
			o.facets = append(o.facets, orientFacet{n.Mul(1 / l), a.Add(b).Add(c).Mul(1. / 3), l / 2})
			o.area += l / 2
		}
	}
	o.corners = furthest(m.Vertices, directions(200))
	return o
}

// directions are spread evenly over the sphere, on a spiral with the golden angle.
func directions(n int) []Vec {
	d := make([]Vec, n)
	for i := range d {
		z := 1 - (2*float64(i)+1)/float64(n)
		r := math.Sqrt(1 - z*z)
		s, c := math.Sincos(float64(i) * math.Pi * (3 - math.Sqrt(5)))
		d[i] = Vec{r * c, r * s, z}
	}
	return d
}

// furthest are the vertices that lie furthest in some direction, each once, and
// those that do along the axes.
func furthest(vertices []Vec, ways []Vec) []Vec {
	ways = append(ways, Vec{1, 0, 0}, Vec{-1, 0, 0}, Vec{0, 1, 0}, Vec{0, -1, 0}, Vec{0, 0, 1}, Vec{0, 0, -1})
	if len(vertices) <= len(ways) {
		return vertices
	}
	found := make([]Vec, len(ways))
	workers := min(runtime.GOMAXPROCS(0), 1+len(vertices)/1024)
	parallel(workers, func(worker int) {
		for way := worker; way < len(ways); way += workers {
			best, at := math.Inf(-1), 0
			for i, v := range vertices {
				if h := v.Dot(ways[way]); h > best {
					best, at = h, i
				}
			}
			found[way] = vertices[at]
		}
	})
	slices.SortFunc(found, func(a, b Vec) int { return slices.Compare(a[:], b[:]) })
	return slices.Compact(found)
}

// candidates are directions worth a look.
func (o *orienter) candidates() []Vec {
	const each = 24
	ups := largest(o.facets, each)
	ups = append(ups, largest(hullFaces(o.corners), each)...)
	ups = append(ups, directions(100)...)
	return append(ups, Vec{0, 0, 1}, Vec{0, 0, -1}, Vec{0, 1, 0}, Vec{0, -1, 0}, Vec{1, 0, 0}, Vec{-1, 0, 0})
}

// largest are the directions against the normals that carry the most area.
func largest(facets []orientFacet, count int) []Vec {
	type cell [3]int8
	sum := map[cell]Vec{}
	for _, f := range facets {
		n := f.normal
		key := cell{int8(math.Round(n[0] * 40)), int8(math.Round(n[1] * 40)), int8(math.Round(n[2] * 40))}
		sum[key] = sum[key].Add(n.Mul(f.area))
	}
	all := make([]Vec, 0, len(sum))
	for _, n := range sum {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Vec) int {
		return cmp.Or(cmp.Compare(b.Dot(b), a.Dot(a)), slices.Compare(a[:], b[:]))
	})
	all = all[:min(len(all), count)]
	for i, n := range all {
		all[i] = n.Unit().Mul(-1)
	}
	return all
}

// score rates directions.
func (o *orienter) score(ctx context.Context, ups []Vec) ([]rated, error) {
	found := make([]rated, len(ups))
	err := inBlocks(ctx, len(ups), 1, func(i, _ int) {
		low, high := math.Inf(1), math.Inf(-1)
		for _, v := range o.corners {
			h := v.Dot(ups[i])
			low, high = min(low, h), max(high, h)
		}
		x := o.terms(ups[i], low)
		x.Height = high - low
		if o.weights.Footprint != 0 {
			box := boxAlong(slices.Clone(o.corners), ups[i])
			x.Footprint = box.Size[0] * box.Size[1]
		}
		found[i] = rated{ups[i], o.sum(&x)}
	})
	return found, err
}

// terms sums over the facets for a part whose lowest point is at low along up.
func (o *orienter) terms(up Vec, low float64) (x Orientation) {
	sine, flat := math.Sin(o.weights.Limit), math.Cos(flatDegrees*math.Pi/180)
	for i := range o.facets {
		f := &o.facets[i]
		rise := f.normal.Dot(up)
		level := rise > flat || rise < -flat
		if !level && !overhangs(rise, 1, sine) {
			continue
		}
		height := f.middle.Dot(up) - low
		if height <= layer && rise < 0 {
			if level {
				x.Bottom += f.area
			}
			continue
		}
		if level {
			x.Flat += f.area
		}
		if overhangs(rise, 1, sine) {
			x.Overhang += f.area
			x.Support += f.area * -rise * height
		}
	}
	return x
}

func (o *orienter) sum(x *Orientation) float64 {
	w, s := &o.weights, math.Sqrt(o.area)
	return w.Overhang*x.Overhang/o.area + w.Support*x.Support/(o.area*s) + w.Height*x.Height/s +
		w.Footprint*x.Footprint/o.area + w.Flat*x.Flat/o.area + w.Bottom*0.02/(0.02+x.Bottom/o.area)
}

// stand works a direction out exactly.
func (o *orienter) stand(r rated) Orientation {
	box := boxAlong(o.m.Vertices, r.up)
	low := box.Centre.Dot(r.up) - box.Size[2]/2
	x := o.terms(r.up, low)
	x.Up, x.Height, x.Footprint = r.up, box.Size[2], box.Size[0]*box.Size[1]
	x.Score = o.sum(&x)
	x.Transform = Transform{Linear: box.Axes}
	x.Transform.Shift = x.Transform.Apply(box.Centre).Mul(-1)
	x.Transform.Shift[2] += box.Size[2] / 2
	return x
}

// hullFaces are the faces of the convex hull, found point by point: those that
// see the new point go, and their outline is joined to it (Clarkson and Shor,
// 1989, without the conflict lists). Points within a millionth of the extent of a
// face do not count. O(points · faces).
func hullFaces(points []Vec) []orientFacet {
	type face struct {
		corner [3]int
		normal Vec
		offset float64
	}
	box := emptyBox()
	for _, p := range points {
		box.add(p)
	}
	eps := 1e-6 * box.Size().Len()
	first := simplex(points, eps)
	if first == nil {
		return nil
	}
	var faces []face
	middle := points[first[0]].Add(points[first[1]]).Add(points[first[2]]).Add(points[first[3]]).Mul(0.25)
	add := func(a, b, c int) {
		n := points[b].Sub(points[a]).Cross(points[c].Sub(points[a])).Unit()
		f := face{[3]int{a, b, c}, n, n.Dot(points[a])}
		if n.Dot(middle) > f.offset {
			f = face{[3]int{a, c, b}, n.Mul(-1), -f.offset}
		}
		faces = append(faces, f)
	}
	for k := range 4 {
		add(first[(k+1)%4], first[(k+2)%4], first[(k+3)%4])
	}
	for i, p := range points {
		outline := map[[2]int]bool{}
		kept := faces[:0:0]
		for _, f := range faces {
			if f.normal.Dot(p) <= f.offset+eps {
				kept = append(kept, f)
				continue
			}
			for k := range 3 {
				a, b := f.corner[k], f.corner[(k+1)%3]
				if outline[[2]int{b, a}] {
					delete(outline, [2]int{b, a})
				} else {
					outline[[2]int{a, b}] = true
				}
			}
		}
		if len(outline) == 0 {
			continue
		}
		faces = kept
		edges := make([][2]int, 0, len(outline))
		for e := range outline {
			edges = append(edges, e)
		}
		slices.SortFunc(edges, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
		for _, e := range edges {
			add(e[0], e[1], i)
		}
	}
	found := make([]orientFacet, 0, len(faces))
	for _, f := range faces {
		a, b, c := points[f.corner[0]], points[f.corner[1]], points[f.corner[2]]
		found = append(found, orientFacet{f.normal, a, b.Sub(a).Cross(c.Sub(a)).Len() / 2})
	}
	return found
}

// simplex gives four points that span space, nil if there are none.
func simplex(points []Vec, eps float64) []int {
	if len(points) < 4 {
		return nil
	}
	furthest := func(distance func(p Vec) float64) int {
		best := 0
		for i, p := range points {
			if distance(p) > distance(points[best]) {
				best = i
			}
		}
		return best
	}
	a := 0
	b := furthest(func(p Vec) float64 { return p.Sub(points[a]).Len() })
	along := points[b].Sub(points[a]).Unit()
	c := furthest(func(p Vec) float64 { return p.Sub(points[a]).Cross(along).Len() })
	normal := points[b].Sub(points[a]).Cross(points[c].Sub(points[a])).Unit()
	d := furthest(func(p Vec) float64 { return math.Abs(p.Sub(points[a]).Dot(normal)) })
	if math.Abs(points[d].Sub(points[a]).Dot(normal)) <= eps {
		return nil
	}
	return []int{a, b, c, d}
}
