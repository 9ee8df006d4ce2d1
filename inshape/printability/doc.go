// Package printability judges whether a part can be made in a material. It
// measures nothing and mends nothing: it holds facts, which the analysis of a
// part fills once, against the limits of each material, and says what is wrong,
// where, by how much and what to do.
//
// Start with Facts, then Check for one material or Matrix for all of a shop's.
// Facts keep no mesh and are small, so that a stored analysis can be judged again
// when the materials change. Lengths are millimetres, areas mm², volumes mm³.
package printability
