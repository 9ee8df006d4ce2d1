# Bulkhead. `make` lists what there is.

BIN      := bin/bulkhead
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PACKAGES := ./...

# One way of compiling for programs, images and tests: what one has built, the
# next finds in Go's cache.
export CGO_ENABLED ?= 0
export GOFLAGS ?= -trimpath

.DEFAULT_GOAL := help
.PHONY: help up shop down build test check race simulation golden fuzz guest bench bench-gateway bench-placement bench-sim deps deps-test clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: deps build ## start Bulkhead, publish Inshape, stamp two customers
	@scripts/up

shop: build ## publish the small example product, examples/shop, to the Bulkhead that runs
	@scripts/shop

down: ## stop Bulkhead and all stamps
	@test ! -x $(BIN) || if $(BIN) status >/dev/null 2>&1; then $(BIN) down --stamps; else $(BIN) down; fi

build: ## build bin/bulkhead
	go build -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN) ./cmd/bulkhead

test: deps-test ## the whole test suite: real containerd, etcd, kernel; needs root
	go test -timeout 20m -p 2 $(PACKAGES)
	go test ./inshape/...

race: export CGO_ENABLED = 1
race: deps-test ## the tests of everything concurrent under the race detector
	go test -race -timeout 20m -p 1 . ./agent ./api ./auth ./controller ./gateway ./keys ./logs ./plan ./store ./volume

check: ## what a reviewer runs: format, vet, staticcheck, tidy, generated files
	@scripts/check

simulation: ## 1,000 hours of a farm under faults, in pretended time
	go test ./simulation -run 'TestSimulation$$' -seeds 810 -ordered -timeout 60m -v

golden: ## rewrite the golden files; read the difference
	go test ./compose ./cli -update

FUZZTIME ?= 10s
fuzz: ## each fuzz target for FUZZTIME (10s)
	@scripts/fuzz $(FUZZTIME)

bench: build ## the figures of docs/performance.md
	@scripts/bench

guest: ## the whole-system tests in a virtual machine with cgroup v2 (minutes)
	@scripts/guest

bench-gateway: ## the gateway beside a bare reverse proxy, nginx, HAProxy and Traefik
	go run ./bench/gateway

NODES ?= 5000
STAMPS ?= 20000
bench-sim: build ## a server with NODES (5000) simulated nodes and STAMPS (20000) stamps, killed and started again
	$(BIN) sim --nodes $(NODES) --stamps $(STAMPS) --outage 15s

TRACE ?=
bench-placement: ## decisions and placements a second; TRACE=FOLDER plays a trace, too
	go run ./bench/placement -trace "$(TRACE)"

deps: ## install what a Debian-like machine lacks
	@scripts/deps

deps-test: ## deps, and what the tests need
	@scripts/deps test

clean: ## remove what was built
	rm -rf bin
