// Package frame is what every module of Inshape starts from: a process with a
// store of its own, an HTTP API with its OpenAPI document, pages, health,
// metrics, logs, and the habits that modules share. Errors are RFC 9457
// problems, POST takes an Idempotency-Key, resources carry ETags, lists have
// pages, changes are audited, and events leave through an outbox that a crash
// cannot empty.
//
// It knows nothing of any module, and draws nothing of its own beyond the frame
// around a page. Who somebody is, it is told by the front in a signed
// [Identity]; it keeps no users and no sessions.
//
// A module is a [Module] value and a main of one line: see cmd/analysis. Start
// with [Main], [Server] and [Store].
package frame
