// Package material is what a shop prints in: the materials with their limits,
// finishes and prices, as data. It reads them from a YAML document, refuses one
// that is wrong with file, line and what to do, and prices an order with them.
// It judges no part: that is package printability.
//
// Start with Default or Parse, then Set.Find and Set.Quote. docs/materials.md
// describes the document. Lengths are millimetres, volumes mm³ (prices are per
// cm³ and cm²), angles degrees.
package material
