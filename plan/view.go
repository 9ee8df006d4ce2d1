package plan

import (
	"math/bits"
	"slices"
	"strings"
)

// view indexes the open nodes that meet one set of demands. Nodes are kept by how
// much they have free, so that those that just fit are found without looking at
// the others: once over all nodes, and once more for each attribute over whose
// values stamps are spread.
//
// The demands that stamps of a farm make are few; a farm keeps the views that
// were used last.
type view struct {
	demands demands
	where   string // the demands in words
	kinds   []int  // extras that the node must have
	used    uint64
	whole   layer
	layers  map[string]*layer // by attribute
}

// mostViews bounds the views of a farm: each costs a little with every change of
// a node.
const mostViews = 64

// mostValues is how many values an attribute may have to be worth a grid for each.
const mostValues = 256

// layer divides nodes among grids by the value of one attribute.
type layer struct {
	attribute string // empty: all in one grid
	spread    *spread
	slots     []slot  // by node
	values    []value // by name
}

// value is a value of a layer's attribute.
type value struct {
	name   string
	number int // see spread
	grid   *grid
}

// slot is where a node stands in a layer.
type slot struct {
	grid *grid // nil: nowhere
	cell uint16
	at   int32 // in the cell
}

// levels is how finely each of a grid's two axes is divided.
const levels = 64

// grid keeps nodes by what they have free along two axes: memory and CPU, or an
// extra and CPU for those that need the extra.
type grid struct {
	rows [levels]*[levels][]*place
	// Which cells are not empty: a bit per column of each row, and per row of each
	// column.
	inRow, inColumn [levels]uint64
}

// level is the position of an amount on an axis: four steps for each doubling,
// in units of 1<<shift. A node whose level is above that of a request has room
// for it, one below has not.
func level(n int64, shift uint) int {
	if n <= 0 {
		return 0
	}
	u := uint64(n) >> shift
	if u < 4 {
		return int(u)
	}
	e := bits.Len64(u) - 1
	return min(4*(e-1)+int(u>>(e-2))&3, levels-1)
}

const (
	shiftCPU    = 4  // 16 thousandths of a core
	shiftMemory = 26 // 64 MiB
	shiftExtra  = 5  // 32 thousandths of a unit
)

// view finds or makes the view of a request. Demands that nobody made for long
// give way.
func (f *Farm) view(d *demands, r *request) *view {
	f.key = d.appendKey(f.key[:0])
	for i := range r.extras {
		f.key = append(f.key, "\x00e"...)
		f.key = append(f.key, f.kinds[r.extras[i].kind]...)
	}
	f.clock++
	v := f.views[string(f.key)]
	if v == nil {
		if len(f.views) >= mostViews {
			oldest := ""
			for k, v := range f.views {
				if o := f.views[oldest]; o == nil || v.used < o.used {
					oldest = k
				}
			}
			delete(f.views, oldest)
		}
		v = &view{demands: *d, where: d.String(), layers: map[string]*layer{}}
		for i := range r.extras {
			v.kinds = append(v.kinds, r.extras[i].kind)
		}
		f.views[string(f.key)] = v
		for _, p := range f.nodes {
			if p != nil && p.open && v.wants(p) {
				v.put(p)
			}
		}
	}
	v.used = f.clock
	return v
}

// wants tells whether a node belongs here.
func (v *view) wants(p *place) bool {
	for _, k := range v.kinds {
		if k >= len(p.units) || len(p.units[k]) == 0 {
			return false
		}
	}
	return v.demands.metBy(p.node)
}

// layer is the one of an attribute; nil if that has too many values.
func (v *view) layer(f *Farm, attribute string) *layer {
	l := v.layers[attribute]
	if l == nil {
		l = &layer{attribute: attribute, spread: f.spread(attribute)}
		v.layers[attribute] = l
		for i, s := range v.whole.slots {
			if s.grid != nil && len(l.values) <= mostValues {
				l.put(f.nodes[i], s.cell)
			}
		}
	}
	if len(l.values) > mostValues {
		if l.slots != nil {
			l.slots = nil // not worth keeping up
			clear(l.values)
		}
		return nil
	}
	return l
}

func (v *view) put(p *place) {
	cell := v.cell(p)
	v.whole.put(p, cell)
	for _, l := range v.layers {
		if len(l.values) <= mostValues {
			l.put(p, cell)
		}
	}
}

func (v *view) drop(p *place) {
	v.whole.drop(p)
	for _, l := range v.layers {
		l.drop(p)
	}
}

// move puts a node into the cell where it belongs by now.
func (v *view) move(p *place) {
	if p.index >= len(v.whole.slots) || v.whole.slots[p.index].grid == nil {
		return
	}
	cell := v.cell(p)
	if v.whole.slots[p.index].cell == cell {
		return
	}
	v.whole.move(p, cell)
	for _, l := range v.layers {
		l.move(p, cell)
	}
}

// cell is where a node belongs in every grid of the view.
func (v *view) cell(p *place) uint16 {
	row := level(p.free[memory], shiftMemory)
	if len(v.kinds) > 0 {
		row = level(p.freeMilli(v.kinds[0]), shiftExtra)
	}
	return uint16(row*levels + level(p.free[cpu], shiftCPU))
}

// least are the lowest levels at which a node may have room for a request.
func (v *view) least(r *request) (row, column int) {
	row = level(r.amounts[memory], shiftMemory)
	if len(v.kinds) > 0 {
		row = level(r.extras[0].milli(), shiftExtra)
	}
	return row, level(r.amounts[cpu], shiftCPU)
}

// grid holds the nodes with a value, in order of which the values stand.
func (l *layer) grid(p *place) *grid {
	name := ""
	if l.attribute != "" {
		name = p.node.Attribute(l.attribute)
	}
	at, found := slices.BinarySearchFunc(l.values, name, func(v value, name string) int { return strings.Compare(v.name, name) })
	if !found {
		v := value{name: name, grid: &grid{}}
		if l.spread != nil {
			v.number = l.spread.number(name)
		}
		l.values = slices.Insert(l.values, at, v)
	}
	return l.values[at].grid
}

func (l *layer) put(p *place, cell uint16) {
	for len(l.slots) <= p.index {
		l.slots = append(l.slots, slot{})
	}
	l.slots[p.index] = l.grid(p).put(p, cell)
}

func (l *layer) drop(p *place) {
	if p.index < len(l.slots) && l.slots[p.index].grid != nil {
		l.take(l.slots[p.index])
		l.slots[p.index] = slot{}
	}
}

// move puts a node into another cell of its grid.
func (l *layer) move(p *place, cell uint16) {
	if p.index < len(l.slots) && l.slots[p.index].grid != nil {
		l.take(l.slots[p.index])
		l.slots[p.index] = l.slots[p.index].grid.put(p, cell)
	}
}

// put adds a node to a cell.
func (g *grid) put(p *place, cell uint16) slot {
	row, column := cell/levels, cell%levels
	if g.rows[row] == nil {
		g.rows[row] = &[levels][]*place{}
	}
	in := &g.rows[row][column]
	*in = append(*in, p)
	g.inRow[row] |= 1 << column
	g.inColumn[column] |= 1 << row
	return slot{g, cell, int32(len(*in) - 1)}
}

// take takes the node of a slot out of its grid.
func (l *layer) take(s slot) {
	row, column := s.cell/levels, s.cell%levels
	in := &s.grid.rows[row][column]
	last := len(*in) - 1
	if moved := (*in)[last]; int(s.at) != last {
		(*in)[s.at] = moved
		l.slots[moved.index].at = s.at
	}
	(*in)[last] = nil
	*in = (*in)[:last]
	if last == 0 {
		s.grid.inRow[row] &^= 1 << column
		s.grid.inColumn[column] &^= 1 << row
	}
}

// cells yields the cells at or above both levels that hold nodes, row by row or
// column by column, those of the fullest nodes first or those of the emptiest.
func (g *grid) cells(row, column int, byColumn, emptiest bool, yield func(nodes []*place) bool) {
	lines, outer, inner := &g.inRow, row, column
	if byColumn {
		lines, outer, inner = &g.inColumn, column, row
	}
	for i := outer; i < levels; i++ {
		line := i
		if emptiest {
			line = levels - 1 - (i - outer)
		}
		for mask := lines[line] >> inner << inner; mask != 0; {
			at := bits.TrailingZeros64(mask)
			if emptiest {
				at = levels - 1 - bits.LeadingZeros64(mask)
			}
			mask &^= 1 << at
			nodes := g.rows[line%levels]
			cell := at
			if byColumn {
				nodes, cell = g.rows[at], line
			}
			if !yield(nodes[cell]) {
				return
			}
		}
	}
}
