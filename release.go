package bulkhead

import (
	"encoding/json"
	"time"
)

// Release is an immutable version of a product. Everything but Created and
// Warnings is covered by Digest, so equal content has an equal digest wherever it is made.
type Release struct {
	Product ProductName `json:"product"`
	Version string      `json:"version"`
	Digest  Digest      `json:"digest"`
	Created time.Time   `json:"created"`

	// Bundle addresses the project itself in the registry: a tar of the Compose
	// file (compose.yaml), what it includes, and every project file that
	// a service mounts, reads as environment, config or secret.
	Bundle     Digest `json:"bundle"`
	BundleSize int64  `json:"bundleSize"` // bytes

	// Images pins what each service runs, by service name.
	Images map[ServiceName]Image `json:"images"`

	Modules []Module `json:"modules,omitempty"`
	// Settings is the JSON Schema (2020-12) of what a stamp may set: an object
	// whose properties are the variables of the Compose file. A property with
	// "secret": true is sealed; one with "generate": N and no value gets N
	// random characters when a stamp is created.
	Settings json.RawMessage `json:"settings"`
	Routes   []RouteRule     `json:"routes,omitempty"`
	// Warnings name what the Compose file says and Bulkhead ignores.
	Warnings []string `json:"warnings,omitempty"`
}

// Image is a container image pinned by digest.
type Image struct {
	Reference string `json:"reference"` // as the Compose file has it: "redis:7"
	// Repository is the image's path in the built-in registry:
	// "docker.io/library/redis".
	Repository string `json:"repository"`
	Digest     Digest `json:"digest"` // of the manifest or index
	Size       int64  `json:"size"`   // bytes of the manifest, config and layers

	// What the image's own configuration says and a service may override; the
	// rest of it (command, environment, user, folder) is applied by the runtime.
	Health     *Health  `json:"health,omitempty"`
	StopSignal string   `json:"stopSignal,omitempty"`
	Volumes    []string `json:"volumes,omitempty"` // paths that it declares as volumes
	Ports      []int    `json:"ports,omitempty"`   // TCP ports that it declares
}

// Module is a part of a product that a customer may have or not: a Compose
// profile. Services without a profile belong to every stamp.
type Module struct {
	Name  ModuleName   `json:"name"`
	Title string       `json:"title,omitempty"`
	Needs []ModuleName `json:"needs,omitempty"` // chosen along with it
	// Services that run only with this module.
	Services []ServiceName `json:"services,omitempty"`
}

// RouteRule says which requests to a stamp's host reach which service.
type RouteRule struct {
	// Prefix is put before the stamp's host with a dot: "api" gives
	// api.acme.example.com. Empty is the stamp's own host.
	Prefix string `json:"prefix,omitempty"`
	// Path is a prefix of whole segments, beginning with "/": "/api" matches
	// /api and /api/x, not /apix. The longest match wins.
	Path    string      `json:"path"`
	Service ServiceName `json:"service"`
	Port    int         `json:"port"`
}
