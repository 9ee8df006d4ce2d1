// Package price makes quotes: what pieces of a part cost in a material, with a
// line for everything that is asked for, so that a customer can check the sum
// with a pocket calculator. It is arithmetic alone: it knows no materials, no
// files and no clock.
//
// Start with Calculate. Rules are a material's prices; package material reads
// them from the shop's file and calls Calculate with them.
//
// All amounts are exact decimals (govalues/decimal: a value of 16 bytes that
// keeps its scale, so 3.50 stays 3.50, and whose Exact operations refuse rather
// than lose a digit). An amount is rounded once, where its line is made: half up
// to the minor unit of the currency (ISO 4217). Lines therefore add up exactly.
// Tax is not included, and the quote says so.
package price
