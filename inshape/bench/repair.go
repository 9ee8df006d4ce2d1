package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"inshape/mesh"
)

// repair counts what becomes of the files as they are and of broken copies, whose
// right volume is known. What counts as mended is a solid in memory, behind binary
// STL, and for admesh, if that is installed.
func repair(ctx context.Context, b *bench) error {
	fmt.Print("| what | meshes | sound | mended | refused | mended, but not behind STL | mended, but not for admesh | sound ones changed | largest change of a mended volume | seconds | million facets/s |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	checker := installed("admesh")
	kinds := []struct {
		name   string
		damage func(m *mesh.Mesh, r *rand.Rand)
	}{
		{"as they are", nil},
		{"1 % of the facets gone", func(m *mesh.Mesh, r *rand.Rand) {
			m.Facets = slices.DeleteFunc(m.Facets, func(mesh.Facet) bool { return r.IntN(100) == 0 })
		}},
		{"1 % turned", func(m *mesh.Mesh, r *rand.Rand) {
			for i := range m.Facets {
				if r.IntN(100) == 0 {
					slices.Reverse(m.Facets[i][:])
				}
			}
		}},
		{"1 % twice, half of them turned", func(m *mesh.Mesh, r *rand.Rand) {
			for _, f := range slices.Clone(m.Facets) {
				if r.IntN(100) == 0 {
					if r.IntN(2) == 0 {
						slices.Reverse(f[:])
					}
					m.Facets = append(m.Facets, f)
				}
			}
		}},
		{"every facet torn off by up to 1/1000 of its shortest side", func(m *mesh.Mesh, r *rand.Rand) {
			torn := &mesh.Mesh{}
			for i := range m.Facets {
				p, q, s := m.Corners(i)
				tear := 1e-3 * min(p.Sub(q).Len(), q.Sub(s).Len(), s.Sub(p).Len())
				n := int32(len(torn.Vertices))
				for _, v := range []mesh.Vec{p, q, s} {
					torn.Vertices = append(torn.Vertices, v.Add(mesh.Vec{r.Float64(), r.Float64(), r.Float64()}.Mul(tear)))
				}
				torn.Facets = append(torn.Facets, mesh.Facet{n, n + 1, n + 2})
			}
			*m = *torn
		}},
		{"a point in 1 % of the edges, on one side only", func(m *mesh.Mesh, r *rand.Rand) {
			for i := range len(m.Facets) {
				if r.IntN(100) != 0 {
					continue
				}
				f := m.Facets[i]
				v := int32(len(m.Vertices))
				m.Vertices = append(m.Vertices, m.Vertices[f[0]].Add(m.Vertices[f[1]]).Mul(0.5))
				m.Facets[i] = mesh.Facet{f[0], v, f[2]}
				m.Facets = append(m.Facets, mesh.Facet{v, f[1], f[2]})
			}
		}},
	}
	for _, kind := range kinds {
		var meshes, sound, mended, refused, notSTL, notAdmesh, changed, facets int
		var took time.Duration
		worst := 0.0
		for i, path := range b.files {
			if err := ctx.Err(); err != nil {
				return err
			}
			model, err := read(path)
			if err != nil {
				continue // refused as a file: not this section's business
			}
			m := model.Mesh
			right := mesh.Measure(m).Volume
			if kind.damage != nil {
				whole := mesh.Repair(m, mesh.RepairOptions{})
				if !whole.Solid {
					continue
				}
				m, right = whole.Mesh, mesh.Measure(whole.Mesh).Volume
				kind.damage(m, rand.New(rand.NewPCG(uint64(i), 1)))
			}
			meshes++
			facets += len(m.Facets)
			begun := time.Now()
			r := mesh.Repair(m, mesh.RepairOptions{})
			took += time.Since(begun)
			off := math.Abs(mesh.Measure(r.Mesh).Volume/right - 1)
			switch {
			case len(r.Actions) == 0 && r.Solid:
				sound++
				if !slices.Equal(r.Mesh.Facets, m.Facets) || !slices.Equal(r.Mesh.Vertices, m.Vertices) {
					changed++
				}
				continue
			case !r.Solid:
				refused++
				if kind.damage == nil {
					fmt.Printf("%s: %s\n", filepath.Base(path), r.Reason)
				}
				continue
			}
			mended++
			worst = max(worst, off)
			var file bytes.Buffer
			if err := mesh.WriteSTL(&file, r.Mesh); err != nil {
				return err
			}
			back, err := mesh.Parse(file.Bytes(), mesh.Options{Unit: mesh.Millimetre})
			if err != nil || !mesh.Analyse(back.Mesh).Solid() {
				notSTL++
			}
			if checker {
				ok, err := b.admeshAccepts(ctx, r.Mesh)
				if err != nil {
					return err
				}
				if !ok {
					notAdmesh++
				}
			}
		}
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d | %d | %.2g %% | %.2f | %.2f |\n", kind.name, meshes, sound, mended, refused, notSTL, notAdmesh, changed, 100*worst,
			took.Seconds(), float64(facets)/1e6/took.Seconds())
	}
	fmt.Println()
	return nil
}

// admeshAccepts tells whether admesh would change nothing.
func (b *bench) admeshAccepts(ctx context.Context, m *mesh.Mesh) (bool, error) {
	path, err := b.writeSTL("mended.stl", m)
	if err != nil {
		return false, err
	}
	out, err := exec.CommandContext(ctx, "admesh", path).Output()
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(out)) {
		for _, what := range []string{"Total disconnected facets", "Edges fixed", "Facets removed", "Facets added", "Facets reversed", "Backwards edges"} {
			if rest, ok := strings.CutPrefix(line, what); ok {
				if n := strings.Fields(strings.TrimLeft(rest, " :")); len(n) == 0 || n[0] != "0" {
					return false, nil
				}
			}
		}
	}
	return true, nil
}
