package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"bulkhead"
	"bulkhead/containerd"
	"bulkhead/network"
	"bulkhead/store"
)

// Down ends the Bulkhead that runs on a data folder and returns when it is gone;
// ran is false when none did. Tasks go on running.
func Down(ctx context.Context, data string) (ran bool, err error) {
	data, err = filepath.Abs(data)
	if err != nil {
		return false, err
	}
	pid := pidOf(data)
	if pid == 0 {
		return false, readable(data)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return true, bulkhead.Errorf(bulkhead.ErrDenied, "end process %d: %w", pid, err).WithHint("run as the user who started it")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for pidOf(data) == pid {
		select {
		case <-ctx.Done():
			return true, bulkhead.Errorf(bulkhead.ErrUnavailable, "process %d has not ended yet", pid)
		case <-tick.C:
		}
	}
	return true, nil
}

// readable is an error if the user may not look into a data folder, which would
// pass for one of nobody's.
func readable(data string) error {
	f, err := os.Open(filepath.Join(data, "lock"))
	if errors.Is(err, fs.ErrPermission) {
		return bulkhead.Errorf(bulkhead.ErrDenied, "look into data folder: %w", err).WithHint("run it with sudo")
	}
	if err == nil {
		return f.Close()
	}
	return nil
}

// Destroy removes everything of the Bulkhead that was on a data folder: tasks,
// networks, firewall rules, control groups, its private containerd, and all
// data. Nothing brings it back. It refuses while that Bulkhead runs.
func Destroy(ctx context.Context, c Config) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	if err := readable(c.Data); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Data, "instance")); err != nil {
		return bulkhead.Errorf(bulkhead.ErrNotFound, "%s is not the data folder of a Bulkhead", c.Data).WithHint("name it with --data")
	}
	folder, err := store.Lock(c.Data)
	if err != nil {
		return err
	}
	defer folder.Close()
	id, err := instance(c.Data)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(c.Data, "containerd")); errors.Is(err, fs.ErrNotExist) { // it was a server alone
		return errors.Join(os.RemoveAll(runFolder(id)), removeData(c.Data))
	}
	engine, err := containerd.Open(ctx, containerd.EngineConfig{
		Instance: id, Folder: filepath.Join(c.Data, "containerd"), Socket: c.Containerd, Private: c.Containerd == "private",
	}, c.Log)
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := engine.Purge(ctx); err != nil {
		return fmt.Errorf("remove containers: %w", err)
	}
	networks, err := network.New(network.Config{Instance: id, Dir: filepath.Join(runFolder(id), "net"), Pool: c.Subnet, Log: c.Log})
	if err != nil {
		return err
	}
	if err := networks.Purge(ctx); err != nil {
		return fmt.Errorf("remove networks: %w", err)
	}
	return errors.Join(os.RemoveAll(runFolder(id)), removeData(c.Data))
}

// removeData removes a data folder. What is left of one that is a disk of its own is the
// place where it is mounted.
func removeData(folder string) error {
	err := os.RemoveAll(folder)
	if errors.Is(err, syscall.EBUSY) {
		if left, _ := os.ReadDir(folder); len(left) == 0 {
			return nil
		}
	}
	return err
}
