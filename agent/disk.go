package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"bulkhead"
)

// savedStamp is what the disk holds of a stamp.
type savedStamp struct {
	assignment bulkhead.Assignment
	savedTasks
}

// savedTasks is the file form of what the runtime's labels cannot tell.
type savedTasks struct {
	Phase bulkhead.Phase `json:"phase"`           // last told
	Ready *time.Time     `json:"ready,omitempty"` // when ReadyOf was first up
	// ReadyOf is the latest generation that was up.
	ReadyOf int64       `json:"readyOf,omitempty"`
	Tasks   []savedTask `json:"tasks"`
}

// savedTask is a task and how to look after it.
type savedTask struct {
	bulkhead.Task
	Care care `json:"care"`
}

// savedAssignment is the file form of an assignment: its secrets are sealed.
type savedAssignment struct {
	Stamp  bulkhead.Stamp `json:"stamp"`
	Sealed []byte         `json:"sealed,omitempty"`
}

func (a *Agent) stampDir(name bulkhead.StampName) string {
	return filepath.Join(a.c.Dir, "stamps", string(name))
}

// saveAssignment makes an assignment durable before anything is done for it.
func (a *Agent) saveAssignment(as bulkhead.Assignment) error {
	saved := savedAssignment{Stamp: as.Stamp}
	if len(as.Secrets) > 0 {
		var err error
		if saved.Sealed, err = a.c.Seal(as.Stamp.UID, as.Secrets); err != nil {
			return fmt.Errorf("seal secrets: %w", err)
		}
	}
	return writeJSON(filepath.Join(a.stampDir(as.Stamp.Name), "assignment.json"), saved, true)
}

// saveTasks keeps what the runtime's labels cannot tell: health, and tasks that
// have ended. Losing the last write of it in a power cut costs a probe or a run
// of a one-off service, so it is not waited for.
func (a *Agent) saveTasks(name bulkhead.StampName, tasks savedTasks) error {
	return writeJSON(filepath.Join(a.stampDir(name), "tasks.json"), tasks, false)
}

func (a *Agent) deleteSaved(name bulkhead.StampName) error { return os.RemoveAll(a.stampDir(name)) }

// load reads every saved stamp.
func (a *Agent) load() ([]savedStamp, error) {
	entries, err := os.ReadDir(filepath.Join(a.c.Dir, "stamps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read assignments: %w", err)
	}
	var out []savedStamp
	for _, e := range entries {
		dir := filepath.Join(a.c.Dir, "stamps", e.Name())
		var saved savedAssignment
		err := readJSON(filepath.Join(dir, "assignment.json"), &saved)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was done for it yet; the servers will say it again
		}
		if err != nil {
			return nil, err
		}
		s := savedStamp{assignment: bulkhead.Assignment{Stamp: saved.Stamp}}
		if len(saved.Sealed) > 0 {
			if s.assignment.Secrets, err = a.c.Open(saved.Stamp.UID, saved.Sealed); err != nil {
				return nil, fmt.Errorf("open secrets of %s: %w", saved.Stamp.Name, err)
			}
		}
		if err := readJSON(filepath.Join(dir, "tasks.json"), &s.savedTasks); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Warn("tasks file is unreadable; the runtime is asked instead", "stamp", saved.Stamp.Name, "err", err)
		}
		out = append(out, s)
	}
	return out, nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one step; durable waits for the disk.
func writeJSON(path string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil || !durable {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
