package mesh

import (
	"context"
	"math/rand/v2"
)

// Scorer rates directions exactly, one by one.
func Scorer(m *Mesh, w OrientWeights) func(up Vec) float64 {
	o := newOrienter(m, w)
	return func(up Vec) float64 { return o.stand(rated{up: up}).Score }
}

// NoiseNet is the surface net of chance: of a void in which each of n³ nodes is
// with the given chance, made well-composed or left as it is.
func NoiseNet(ctx context.Context, r *rand.Rand, n int, chance float64, compose bool) (*Mesh, error) {
	h := hollower{tree: NewBVH(&Mesh{}), grid: lattice{pitch: 1, n: [3]int{n + 2, n + 2, n + 2}}}
	h.void = make([]bool, h.grid.nodes())
	h.value = make([]float32, h.grid.nodes())
	for i := range h.grid.n[0] {
		for j := range h.grid.n[1] {
			for k := range h.grid.n[2] {
				at := h.grid.index(i, j, k)
				h.value[at] = -r.Float32() - 0.01
				if min(i, j, k) > 0 && max(i, j, k) <= n && r.Float64() < chance {
					h.void[at], h.value[at] = true, r.Float32()+0.01
				}
			}
		}
	}
	offset := h.corners()
	if compose {
		h.compose(offset)
	}
	m, _, err := h.surface(ctx, offset)
	return m, err
}
