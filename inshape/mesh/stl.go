package mesh

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync"
)

// STL as 3D Systems published it in 1989 (StereoLithography Interface
// Specification): binary is an 80-byte header, a uint32 count and 50 bytes a
// facet (normal, three points as float32, an attribute word), little-endian;
// ASCII is "solid … facet normal … vertex … endsolid". Stored normals are
// ignored: the order of the corners says the same.
const (
	stlHeader = 84
	stlFacet  = 50
)

func stlSizeFits(data []byte) bool {
	return len(data) >= stlHeader && uint64(len(data)) == stlHeader+stlFacet*uint64(binary.LittleEndian.Uint32(data[80:]))
}

// asciiSTL looks for a keyword beyond "solid", because binary headers often
// begin with that word too.
func asciiSTL(text []byte) bool {
	if len(text) < 5 || !bytes.EqualFold(text[:5], []byte("solid")) {
		return false
	}
	head := bytes.ToLower(text[:min(len(text), 2048)])
	if bytes.IndexByte(head, 0) >= 0 {
		return false
	}
	return bytes.Contains(head, []byte("facet")) || bytes.Contains(head, []byte("endsolid")) || len(text) < stlHeader
}

func parseSTL(data []byte) (*Model, error) {
	if stlSizeFits(data) {
		return parseBinarySTL(data, nil)
	}
	if text := bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), " \t\r\n"); asciiSTL(text) {
		return parseASCIISTL(text)
	}
	if len(data) < stlHeader {
		return nil, refuse(STL, Truncated, "", "%d bytes are fewer than a header; send the file again", len(data))
	}
	declared := int64(binary.LittleEndian.Uint32(data[80:]))
	body := int64(len(data) - stlHeader)
	whole, rest := body/stlFacet, body%stlFacet
	switch {
	case declared > whole && rest != 0:
		return nil, refuse(STL, Truncated, "", "%d facets are declared and the file ends inside facet %d; send it again", declared, whole+1)
	case declared == whole: // a few bytes behind the last facet are harmless
		return parseBinarySTL(data[:stlHeader+whole*stlFacet], []string{fmt.Sprintf("%d bytes behind the last facet were ignored", rest)})
	}
	return nil, refuse(STL, WrongCount, "", "%d facets are declared and %d are there; export the file again", declared, whole)
}

// parseBinarySTL welds while it reads: chunks side by side, then their
// vertices in order, so that the result does not depend on the number of CPUs.
func parseBinarySTL(data []byte, warnings []string) (*Model, error) {
	body := data[stlHeader:]
	n := len(body) / stlFacet
	if n > math.MaxInt32/3 {
		return nil, refuse(STL, TooLarge, "", "%d facets are more than a mesh holds", n)
	}
	facets := make([]Facet, n)
	workers := max(1, min(runtime.GOMAXPROCS(0), n/4096))
	tables := make([]*pointTable, workers)
	bad := make([]int, workers)
	parallel(workers, func(w int) {
		from, to := n*w/workers, n*(w+1)/workers
		expected := (to - from) / 2
		if w == 0 {
			expected = n / 2 // it takes the others' points at the end
		}
		tables[w] = newPointTable(expected)
		bad[w] = tables[w].read(body, facets, from, to)
	})
	for _, f := range bad {
		if f >= 0 {
			return nil, refuse(STL, NotFinite, fmt.Sprintf("facet %d", f+1), "a coordinate is NaN, infinite or beyond 1e9; repair the export")
		}
	}
	all := tables[0]
	for w := 1; w < workers; w++ {
		to := make([]int32, len(tables[w].points))
		for i, p := range tables[w].points {
			to[i] = all.index(p[0], p[1], p[2], all.hash(p[0], p[1], p[2]))
		}
		part := facets[n*w/workers : n*(w+1)/workers]
		for i, f := range part {
			part[i] = Facet{to[f[0]], to[f[1]], to[f[2]]}
		}
	}
	vertices := make([]Vec, len(all.points))
	for i, p := range all.points {
		vertices[i] = Vec{
			float64(math.Float32frombits(p[0])),
			float64(math.Float32frombits(p[1])),
			float64(math.Float32frombits(p[2])),
		}
	}
	return &Model{Format: STL, Mesh: &Mesh{vertices, facets}, Parts: []Part{{Facets: [2]int{0, n}}}, Warnings: warnings}, nil
}

// pointTable is the welder of float32 points, as their bits: an open-addressing
// hash table that holds the points themselves, so that a look-up is one access to
// memory.
type pointTable struct {
	points [][3]uint32 // in order of appearance
	slots  []pointSlot
	shift  uint
	factor uint64 // secret, so that nobody can prepare points that collide

	touched int32 // means nothing
}

type pointSlot struct {
	x, y, z uint32
	number  int32 // index+1; 0: free
}

func newPointTable(expected int) *pointTable {
	log := uint(bits.Len(uint(max(64, expected+expected/3))))
	return &pointTable{points: make([][3]uint32, 0, expected+16), slots: make([]pointSlot, 1<<log), shift: 64 - log, factor: rand.Uint64() | 1}
}

func (t *pointTable) hash(x, y, z uint32) uint64 {
	h := (uint64(x)<<32 | uint64(y)) * t.factor
	h = (h ^ h>>32 ^ uint64(z)) * t.factor
	return (h ^ h>>29) * t.factor
}

// index is the number of a point with this hash; a new point gets the next one.
func (t *pointTable) index(x, y, z uint32, hash uint64) int32 {
	mask := uint64(len(t.slots) - 1)
	i := hash >> t.shift
	for {
		s := &t.slots[i&mask]
		if s.number == 0 {
			break
		}
		if s.x == x && s.y == y && s.z == z {
			return s.number - 1
		}
		i++
	}
	t.points = append(t.points, [3]uint32{x, y, z})
	t.slots[i&mask] = pointSlot{x, y, z, int32(len(t.points))}
	if 4*len(t.points) > 3*len(t.slots) {
		t.grow()
	}
	return int32(len(t.points) - 1)
}

func (t *pointTable) grow() {
	t.slots = make([]pointSlot, 2*len(t.slots))
	t.shift--
	mask := uint64(len(t.slots) - 1)
	for n, p := range t.points {
		i := t.hash(p[0], p[1], p[2]) >> t.shift
		for t.slots[i&mask].number != 0 {
			i++
		}
		t.slots[i&mask] = pointSlot{p[0], p[1], p[2], int32(n + 1)}
	}
}

// read takes facets [from, to) of the body in, and gives the first one with a
// number that is not finite, or -1. It touches the slots of a few dozen facets
// before it needs them, so that the processor fetches them from memory side by
// side: waiting for one after the other is most of what welding costs.
func (t *pointTable) read(body []byte, facets []Facet, from, to int) int {
	far := math.Float32bits(1e9) // as bits, without the sign, larger numbers, infinity and NaN are greater
	const batch = 32
	var points [3 * batch][3]uint32
	var hashes [3 * batch]uint64
	touched := int32(0)
	for ; from < to; from += batch {
		n := 3 * min(batch, to-from)
		for c := range n {
			at := (from+c/3)*stlFacet + 12 + 12*(c%3)
			record := body[at : at+12]
			x := binary.LittleEndian.Uint32(record)
			y := binary.LittleEndian.Uint32(record[4:])
			z := binary.LittleEndian.Uint32(record[8:])
			if x<<1 > far<<1 || y<<1 > far<<1 || z<<1 > far<<1 {
				return from + c/3
			}
			if x<<1 == 0 { // -0 is 0
				x = 0
			}
			if y<<1 == 0 {
				y = 0
			}
			if z<<1 == 0 {
				z = 0
			}
			points[c] = [3]uint32{x, y, z}
			hashes[c] = t.hash(x, y, z)
			touched |= t.slots[hashes[c]>>t.shift].number
		}
		for c := range n {
			p := &points[c]
			facets[from+c/3][c%3] = t.index(p[0], p[1], p[2], hashes[c])
		}
	}
	t.touched = touched // or the compiler would leave the touching out
	return -1
}

func parallel(workers int, do func(worker int)) {
	if workers == 1 {
		do(0)
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { do(w) })
	}
	wg.Wait()
}

func parseASCIISTL(text []byte) (*Model, error) {
	weld := newWelder(len(text) / 600)
	model := &Model{Format: STL}
	var facets []Facet
	var corner Facet
	corners, begun, open := 0, 0, false
	line := 0
	at := func() string { return fmt.Sprintf("line %d", line) }
	fault := func(row []byte, format string, args ...any) error {
		if row[len(row)-1] != '\n' {
			return refuse(STL, Truncated, at(), "the file ends inside a line; send it again")
		}
		return refuse(STL, Malformed, at(), format, args...)
	}
	for row := range bytes.Lines(text) {
		line++
		word, rest := nextField(row)
		switch keyword(word) {
		case "":
		case "solid":
			if open {
				return nil, refuse(STL, Malformed, at(), "a solid begins inside a solid")
			}
			open, begun = true, len(facets)
			model.Parts = append(model.Parts, Part{Name: string(bytes.TrimSpace(rest)), Facets: [2]int{len(facets), len(facets)}})
		case "vertex":
			if corners == 3 {
				return nil, refuse(STL, Malformed, at(), "a facet has more than three corners")
			}
			var p Vec
			var err error
			if p, _, err = point(rest); err != nil {
				return nil, fault(row, "vertex needs three numbers: %v", err)
			}
			if !p.finite() {
				return nil, refuse(STL, NotFinite, at(), "a coordinate is NaN, infinite or beyond 1e9; repair the export")
			}
			corner[corners] = weld.add(p)
			corners++
		case "endfacet":
			if corners != 3 {
				return nil, refuse(STL, Malformed, at(), "a facet has %d corners", corners)
			}
			facets = append(facets, corner)
			corners = 0
		case "endsolid":
			if !open {
				return nil, refuse(STL, Malformed, at(), "a solid ends that has not begun")
			}
			open = false
			model.Parts[len(model.Parts)-1].Facets = [2]int{begun, len(facets)}
		case "facet", "outer", "endloop":
		default:
			return nil, fault(row, "%.20q is not a word of ASCII STL", word)
		}
	}
	if open || corners != 0 {
		return nil, refuse(STL, Truncated, at(), "the file ends before endsolid; send it again")
	}
	model.Mesh = &Mesh{weld.vertices, facets}
	return model, nil
}

// keyword folds the case of the few words that there are without allocating.
func keyword(word []byte) string {
	for _, k := range []string{"vertex", "facet", "outer", "endloop", "endfacet", "solid", "endsolid"} {
		if len(word) == len(k) && bytes.EqualFold(word, []byte(k)) {
			return k
		}
	}
	return string(word)
}

// WriteSTL writes binary STL, in millimetres: coordinates lose what float32
// cannot hold, and facets that lose a corner by that are left out.
func WriteSTL(w io.Writer, m *Mesh) error {
	if int64(len(m.Facets)) > math.MaxUint32 {
		return refuse(STL, TooLarge, "", "%d facets are more than the format holds", len(m.Facets))
	}
	single := func(v Vec) [3]float32 { return [3]float32{float32(v[0]), float32(v[1]), float32(v[2])} }
	lost := func(p, q, r [3]float32) bool { return p == q || q == r || r == p }
	n := uint32(0)
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		if !lost(single(p), single(q), single(r)) {
			n++
		}
	}
	b := bufio.NewWriterSize(w, 1<<16)
	var rec [stlHeader]byte
	copy(rec[:], "Inshape binary STL, millimetres")
	binary.LittleEndian.PutUint32(rec[80:], n)
	b.Write(rec[:])
	rec[48], rec[49] = 0, 0
	for f := range m.Facets {
		p, q, r := m.Corners(f)
		corners := [4][3]float32{single(m.Normal(f)), single(p), single(q), single(r)}
		if lost(corners[1], corners[2], corners[3]) {
			continue
		}
		for i, v := range corners {
			for k, x := range v {
				binary.LittleEndian.PutUint32(rec[12*i+4*k:], math.Float32bits(x))
			}
		}
		b.Write(rec[:stlFacet])
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write STL: %w", err)
	}
	return nil
}
