package mesh

// Scorer rates directions exactly, one by one.
func Scorer(m *Mesh, w OrientWeights) func(up Vec) float64 {
	o := newOrienter(m, w)
	return func(up Vec) float64 { return o.stand(rated{up: up}).Score }
}
