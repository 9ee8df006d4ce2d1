// Package compose turns a vendor's Compose project into a release and, for one
// stamp of that release, into frozen services.
//
// A project passes three gates. Its YAML files are read as trees that keep
// their line numbers, bounded, and every attribute is looked up in the table of
// attributes.go: allowed, ignored with a warning, or refused. Then compose-go
// merges, interpolates and types them. Last, only what Bulkhead honours is
// copied into bulkhead.Service values, so that nothing else can have an effect.
//
// The package reads the project's folder and nothing else: no network, no
// environment of the machine, no file outside the folder.
//
// Start at Load, then Project.Freeze.
package compose
