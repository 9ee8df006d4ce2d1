package gateway

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bulkhead"
)

// metrics are the gateway's collectors. What is counted per stamp is resolved
// at its first request, so that the others cost an atomic addition or two. The
// latency histogram has no label: with one per stamp, ten thousand stamps would
// be a hundred thousand series; the sum of seconds per stamp gives their means.
type metrics struct {
	requests *prometheus.CounterVec // by stamp and class of status
	seconds  *prometheus.CounterVec // by stamp
	unrouted *prometheus.CounterVec // by class of status
	latency  prometheus.Histogram
	inFlight prometheus.Gauge
	refused  *prometheus.CounterVec // connections, by reason
	redials  prometheus.Counter
}

// classes are the values of the label code, at the status divided by 100.
var classes = [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}

// class is the place of a status in classes.
func class(status int) int {
	if c := status / 100; c > 0 && c < len(classes) {
		return c
	}
	return 0
}

// counter is a series that exists once something was counted.
type counter struct {
	atomic.Pointer[prometheus.Counter]
}

// stamp is what the gateway keeps of a stamp from one table to the next.
type stamp struct {
	name     bulkhead.StampName
	uid      string // of the life that epoch is of; guarded by Gateway.mu
	epoch    int64  // newest that was seen of it; guarded by Gateway.mu
	requests [len(classes)]counter
	seconds  counter
	held     atomic.Int64 // requests waiting for it
	gone     atomic.Bool  // no longer in the table: count no more
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_gateway_requests_total", Help: "Requests answered, by stamp and class of status.",
		}, []string{"stamp", "code"}),
		seconds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_gateway_request_seconds_total", Help: "Seconds spent on requests, by stamp. Upgraded connections do not count.",
		}, []string{"stamp"}),
		unrouted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_gateway_unrouted_requests_total", Help: "Requests that no stamp answers to, by class of status.",
		}, []string{"code"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "bulkhead_gateway_request_duration_seconds", Help: "Time from a request's headers to the end of its answer, held time included. Upgraded connections do not count.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "bulkhead_gateway_requests_in_flight", Help: "Requests and upgraded connections being served.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bulkhead_gateway_refused_connections_total", Help: "Client connections closed at once, by the limit they met.",
		}, []string{"reason"}),
		redials: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bulkhead_gateway_refused_backends_total", Help: "Connections that a backend refused; the request went on to another.",
		}),
	}
}

// register makes all collectors known to r.
func (m *metrics) register(r prometheus.Registerer, h *hold, l *limit) error {
	gauge := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.seconds, m.unrouted, m.latency, m.inFlight, m.refused, m.redials,
		gauge("bulkhead_gateway_requests_held", "Requests waiting for a stamp to start or move.", h.held.Load),
		gauge("bulkhead_gateway_connections", "Client connections open, QUIC included.", l.open),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// of resolves the counter of labels once.
func (c *counter) of(v *prometheus.CounterVec, labels ...string) prometheus.Counter {
	if known := c.Load(); known != nil {
		return *known
	}
	fresh := v.WithLabelValues(labels...)
	c.Store(&fresh)
	return fresh
}

// forget drops the series of a stamp that has left the table.
func (m *metrics) forget(s *stamp) {
	s.gone.Store(true)
	labels := prometheus.Labels{"stamp": string(s.name)}
	m.requests.DeletePartialMatch(labels)
	m.seconds.DeletePartialMatch(labels)
}

// observe counts a request that s (nil: no stamp) has answered.
func (m *metrics) observe(s *stamp, status int, took time.Duration) {
	c := class(status)
	if s == nil {
		m.unrouted.WithLabelValues(classes[c]).Inc()
		return
	}
	upgraded := status == http.StatusSwitchingProtocols
	if !upgraded {
		m.latency.Observe(took.Seconds())
	}
	if s.gone.Load() {
		return
	}
	s.requests[c].of(m.requests, string(s.name), classes[c]).Inc()
	if !upgraded {
		s.seconds.of(m.seconds, string(s.name)).Add(took.Seconds())
	}
}
