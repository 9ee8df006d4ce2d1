package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"time"
)

// chain is the project that Bulkhead and Compose start: web waits for api, api
// for db.
const chain = `services:
  web:
    image: ` + image + `
    ports: ["18080:8080"]
    depends_on: [api]
  api:
    image: ` + image + `
    depends_on: [db]
  db:
    image: ` + image + `
`

// measureChain is the median time from the start of `bulkhead stamp create` to
// the first 200 through the gateway.
func (b *bench) measureChain(ctx context.Context) (median time.Duration, err error) {
	n, err := b.node("chain")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.destroy(ctx)) }()
	if err := n.up(ctx); err != nil {
		return 0, err
	}
	if err := n.publish(ctx, "chain", chain); err != nil {
		return 0, err
	}
	b.title("A stamp of three services chained by depends_on, images present")
	var first, command []time.Duration
	for i := range b.rounds + 1 {
		name := fmt.Sprintf("s%d", i)
		answered, ended, err := n.create(ctx, name)
		if err != nil {
			return 0, err
		}
		if i > 0 { // the first one unpacks the image
			first, command = append(first, answered), append(command, ended)
		}
		if _, err := n.run(ctx, "stamp", "delete", name, "--purge", "--yes"); err != nil {
			return 0, err
		}
	}
	b.times("bulkhead stamp create to first 200", first, "bar: 400 ms at the median")
	b.times("until the command has ended, too", command, "")
	return percentile(first, 50), nil
}

// create creates a stamp by command line, and tells when its page answered first
// and when the command ended.
func (n *node) create(ctx context.Context, name string) (answered, ended time.Duration, err error) {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	began := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := n.run(ctx, "stamp", "create", name, "--product", "chain")
		ended = time.Since(began)
		done <- err
	}()
	err = until(ctx, 30*time.Second, name+" answers", func() error { return n.get(client, name) })
	answered = time.Since(began)
	return answered, ended, errors.Join(err, <-done)
}

func (b *bench) times(what string, times []time.Duration, bar string) {
	if bar != "" {
		bar = "  (" + bar + ")"
	}
	b.say("  %-44s median %4d ms   p10 %4d   p90 %4d   of %d%s", what, percentile(times, 50).Milliseconds(),
		percentile(times, 10).Milliseconds(), percentile(times, 90).Milliseconds(), len(times), bar)
}

// measureCompose is the median time from the start of `docker compose up` to the
// first 200 of the same project and image.
func (b *bench) measureCompose(ctx context.Context) (median time.Duration, err error) {
	d, err := b.startDocker(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	file, err := b.write("compose/compose.yaml", chain)
	if err != nil {
		return 0, err
	}
	if _, err := d.run(ctx, "docker", "load", "--input", b.archive); err != nil {
		return 0, err
	}
	var first []time.Duration
	for i := range b.composeRounds + 1 {
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := d.run(ctx, d.compose[0], append(d.compose[1:], "-f", file, "up", "-d")...)
			done <- err
		}()
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: d.dial, DisableKeepAlives: true}}
		err := until(ctx, time.Minute, "the project answers", func() error { return get(client, "http://127.0.0.1:18080/", "localhost") })
		answered := time.Since(began)
		if err := errors.Join(err, <-done); err != nil {
			return 0, err
		}
		if i > 0 {
			first = append(first, answered)
		}
		if _, err := d.run(ctx, d.compose[0], append(d.compose[1:], "-f", file, "down", "--timeout", "0")...); err != nil {
			return 0, err
		}
	}
	b.times(d.name+" up -d to first 200", first, "")
	b.say("  (%s)", d.version)
	return percentile(first, 50), nil
}

var errNoCompose = fmt.Errorf("docker compose or docker-compose: %w", exec.ErrNotFound)
