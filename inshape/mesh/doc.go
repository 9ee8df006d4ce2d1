// Package mesh is Inshape's geometry kernel: it reads triangle meshes, welds
// them, says whether they bound a solid, measures, and repairs them. It uses
// the standard library alone, holds no state and starts nothing that outlives
// a call.
//
// Lengths are millimetres, areas mm², volumes mm³, angles radians, everywhere:
// [Parse] converts what a file holds. Facets are counter-clockwise seen from
// outside, so a solid's volume is positive.
//
// Start with [Read] (or [Parse]), then [Analyse] for topology, [Measure] for
// volume and area, [Repair] to mend, [Union] to join what overlaps. For
// printing there are [BVH.Thickness] and [BVH.Clearance], [TrappedVolumes],
// [Hollow], [Orient] and [Mesh.SupportVolume]. Wrong input is an [*Error],
// whose [Code] says which of the known faults it is. Memory is bounded by the
// bytes that arrived, never by a number that a file declares.
//
// In the complexities below n is the number of facets.
package mesh
