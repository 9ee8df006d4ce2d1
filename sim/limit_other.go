//go:build !linux

package sim

import "bulkhead"

func enoughFiles(int) error {
	return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead cannot run a server").WithHint("servers run on Linux")
}

func enoughRoom(string, int64, string) error { return nil }
func processorOf(int) float64                { return 0 }
func memoryOf(int) int64                     { return 0 }
func load() string                           { return "" }
