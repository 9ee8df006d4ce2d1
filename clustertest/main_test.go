package clustertest

import (
	"os"
	"sync"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if sharedNode != nil {
		sharedNode.destroy()
	}
	Clean()
	os.Exit(code)
}

var (
	sharedOnce sync.Once
	sharedNode *Node
)

// shared is one Bulkhead for all tests that harm nothing but their own stamps.
func shared(t *testing.T) *Node {
	t.Helper()
	sharedOnce.Do(func() {
		n := New(quietT{t})
		n.Up()
		sharedNode = n
	})
	if sharedNode == nil || sharedNode.cmd == nil {
		t.Fatal("the shared Bulkhead did not start")
	}
	n := *sharedNode
	n.T = t
	return &n
}

// quietT keeps the shared node alive beyond the test that asked for it first.
type quietT struct{ *testing.T }

func (quietT) Cleanup(func())                  {}
func (quietT) Failed() bool                    { return false }
func (quietT) Logf(format string, args ...any) {}
