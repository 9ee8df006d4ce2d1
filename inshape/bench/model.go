package main

import (
	"math"
	"os"
	"path/filepath"

	"inshape/mesh"
)

// ball is a sphere of 4·n² facets around the origin, as two triangles for each
// cell of a grid of longitudes and latitudes.
func ball(radius float64, n int) *mesh.Mesh {
	m := &mesh.Mesh{Vertices: []mesh.Vec{{0, 0, -radius}, {0, 0, radius}}}
	around := 2 * n
	for i := 1; i < n; i++ {
		sinP, cosP := math.Sincos(math.Pi * float64(i) / float64(n))
		for j := range around {
			sinL, cosL := math.Sincos(2 * math.Pi * float64(j) / float64(around))
			m.Vertices = append(m.Vertices, mesh.Vec{radius * sinP * cosL, radius * sinP * sinL, -radius * cosP})
		}
	}
	at := func(i, j int) int32 {
		switch i {
		case 0:
			return 0
		case n:
			return 1
		}
		return int32(2 + (i-1)*around + j%around)
	}
	for i := range n {
		for j := range around {
			a, b, c, d := at(i, j), at(i, j+1), at(i+1, j+1), at(i+1, j)
			if i > 0 {
				m.Facets = append(m.Facets, mesh.Facet{a, b, c})
			}
			if i < n-1 {
				m.Facets = append(m.Facets, mesh.Facet{a, c, d})
			}
		}
	}
	return m
}

// writeSTL puts m into the run's folder.
func (b *bench) writeSTL(name string, m *mesh.Mesh) (string, error) {
	path := filepath.Join(b.tmp, name)
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := mesh.WriteSTL(f, m); err != nil {
		return "", err
	}
	return path, f.Close()
}

func read(path string) (*mesh.Model, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return mesh.Parse(data, mesh.Options{Format: mesh.FormatOf(path), Unit: mesh.Millimetre})
}

// measure is the whole of what the kernel is measured by.
func measure(path string) error {
	model, err := read(path)
	if err != nil {
		return err
	}
	mesh.Analyse(model.Mesh)
	mesh.Measure(model.Mesh)
	return nil
}
