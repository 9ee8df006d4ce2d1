package daemon

import (
	"bulkhead"
	"bulkhead/plan"

	"github.com/prometheus/client_golang/prometheus"
)

// stampMetrics counts what the agent of this node runs, when it is asked.
type stampMetrics struct {
	stamps func() []plan.Local
	build  prometheus.Metric
}

var (
	stampsDesc   = prometheus.NewDesc("bulkhead_stamps", "Stamps on this node by phase.", []string{"phase"}, nil)
	tasksDesc    = prometheus.NewDesc("bulkhead_tasks", "Tasks on this node by state.", []string{"state"}, nil)
	restartsDesc = prometheus.NewDesc("bulkhead_stamp_restarts", "Tasks that a stamp's present slots have lost to crashes and probes.", []string{"stamp"}, nil)
	buildDesc    = prometheus.NewDesc("bulkhead_build_info", "1, with the version of Bulkhead.", []string{"version"}, nil)
)

func newStampMetrics(version string, stamps func() []plan.Local) *stampMetrics {
	return &stampMetrics{stamps, prometheus.MustNewConstMetric(buildDesc, prometheus.GaugeValue, 1, version)}
}

// Describe implements prometheus.Collector.
func (m *stampMetrics) Describe(c chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, c) }

// Collect implements prometheus.Collector.
func (m *stampMetrics) Collect(c chan<- prometheus.Metric) {
	phases := map[bulkhead.Phase]int{bulkhead.PhaseRunning: 0, bulkhead.PhaseDegraded: 0, bulkhead.PhaseFailed: 0}
	states := map[bulkhead.TaskState]int{bulkhead.TaskRunning: 0}
	for _, l := range m.stamps() {
		phases[l.Phase]++
		restarts := 0
		for _, t := range l.Tasks {
			states[t.State]++
			if !t.State.Ended() {
				restarts += t.Restarts
			}
		}
		c <- prometheus.MustNewConstMetric(restartsDesc, prometheus.GaugeValue, float64(restarts), string(l.Stamp.Name))
	}
	for phase, n := range phases {
		c <- prometheus.MustNewConstMetric(stampsDesc, prometheus.GaugeValue, float64(n), string(phase))
	}
	for state, n := range states {
		c <- prometheus.MustNewConstMetric(tasksDesc, prometheus.GaugeValue, float64(n), state.String())
	}
	c <- m.build
}
