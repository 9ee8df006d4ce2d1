package analysis

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"inshape/mesh"
)

// A revision's mesh is kept in a file of its own format, exact and quick to read:
//
//	magic     8 bytes  "inshmsh1"
//	vertices  uint32
//	facets    uint32
//	then x, y, z of each vertex as float64, mm, and three uint32 indices of each facet
//
// All numbers are little-endian.
const geometryMagic = "inshmsh1"

var errGeometry = errors.New("this is no mesh of ours, or it is cut")

func writeGeometry(w io.Writer, m *mesh.Mesh) error {
	b := bufio.NewWriterSize(w, 1<<16)
	b.WriteString(geometryMagic)
	var word [24]byte
	binary.LittleEndian.PutUint32(word[:], uint32(len(m.Vertices)))
	binary.LittleEndian.PutUint32(word[4:], uint32(len(m.Facets)))
	b.Write(word[:8])
	for _, v := range m.Vertices {
		for k, x := range v {
			binary.LittleEndian.PutUint64(word[8*k:], math.Float64bits(x))
		}
		b.Write(word[:24])
	}
	for _, f := range m.Facets {
		for k, v := range f {
			binary.LittleEndian.PutUint32(word[4*k:], uint32(v))
		}
		b.Write(word[:12])
	}
	return b.Flush() // a bufio.Writer keeps its first error
}

func readGeometry(data []byte) (*mesh.Mesh, error) {
	const header = len(geometryMagic) + 8
	if len(data) < header || string(data[:len(geometryMagic)]) != geometryMagic {
		return nil, fmt.Errorf("read mesh: %w", errGeometry)
	}
	vertices := int(binary.LittleEndian.Uint32(data[8:]))
	facets := int(binary.LittleEndian.Uint32(data[12:]))
	if data = data[header:]; len(data) != 24*vertices+12*facets {
		return nil, fmt.Errorf("read mesh: %w", errGeometry)
	}
	m := &mesh.Mesh{Vertices: make([]mesh.Vec, vertices), Facets: make([]mesh.Facet, facets)}
	for i := range m.Vertices {
		for k := range 3 {
			m.Vertices[i][k] = math.Float64frombits(binary.LittleEndian.Uint64(data[24*i+8*k:]))
		}
	}
	data = data[24*vertices:]
	for i := range m.Facets {
		for k := range 3 {
			v := binary.LittleEndian.Uint32(data[12*i+4*k:])
			if int(v) >= vertices {
				return nil, fmt.Errorf("read mesh: %w", errGeometry)
			}
			m.Facets[i][k] = int32(v)
		}
	}
	return m, nil
}
