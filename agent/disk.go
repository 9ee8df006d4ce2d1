package agent

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"bulkhead"
)

// savedStamp is what the disk holds of a stamp.
type savedStamp struct {
	assignment bulkhead.Assignment
	blind      bool // nothing but the name: what was saved is not what the agent wrote
	left       bool
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
	Left   bool           `json:"left,omitempty"` // the stamp went to another node
}

// disk keeps the agent's files in a folder. Every file ends with a line that proves
// that this node wrote it, under this name, and that nothing of it has changed since:
// a disk that forgets, and a file that was put in the place of another, are found out.
type disk struct {
	dir  string
	keys Keys
}

// errDamaged is for a file that is not as it was written.
var errDamaged = errors.New("it is damaged, or was not written by this node")

// read reads what write wrote.
func (d disk) read(name string, v any) error {
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if err != nil {
		return err
	}
	content, proof, _ := bytes.Cut(b, []byte{'\n'})
	if subtle.ConstantTimeCompare(proof, d.proof(name, content)) != 1 {
		return fmt.Errorf("read %s: %w", name, errDamaged)
	}
	if err := json.Unmarshal(content, v); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// proof is a file's second line.
func (d disk) proof(name string, content []byte) []byte {
	return append(hex.AppendEncode(nil, d.keys.Sign(name, content)), '\n')
}

// write replaces a file in one step; durable waits for the disk.
func (d disk) write(name string, v any, durable bool) error {
	content, err := json.Marshal(v) // one line
	if err != nil {
		return err
	}
	path := filepath.Join(d.dir, name)
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // 0600
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err = os.CreateTemp(filepath.Dir(path), ".new-*")
	}
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if !renamed {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(slices.Concat(content, []byte{'\n'}, d.proof(name, content))); err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	if renamed = true; !durable {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

const stampsFolder = "stamps"

func assignmentFile(name bulkhead.StampName) string {
	return filepath.Join(stampsFolder, string(name), "assignment.json")
}

func tasksFile(name bulkhead.StampName) string {
	return filepath.Join(stampsFolder, string(name), "tasks.json")
}

// saveAssignment makes an assignment durable before anything is done for it.
func (a *Agent) saveAssignment(as bulkhead.Assignment, left bool) error {
	saved := savedAssignment{Stamp: as.Stamp, Left: left}
	if len(as.Secrets) > 0 {
		var err error
		if saved.Sealed, err = a.c.Keys.Seal(as.Stamp.UID, as.Secrets); err != nil {
			return fmt.Errorf("seal secrets: %w", err)
		}
	}
	return a.disk.write(assignmentFile(as.Stamp.Name), saved, true)
}

// saveTasks keeps what the runtime's labels cannot tell: health, and tasks that
// have ended. Losing the last write of it in a power cut costs a probe or a run
// of a one-off service, so it is not waited for.
func (a *Agent) saveTasks(name bulkhead.StampName, tasks savedTasks) error {
	return a.disk.write(tasksFile(name), tasks, false)
}

func (a *Agent) deleteSaved(name bulkhead.StampName) error {
	return os.RemoveAll(filepath.Join(a.disk.dir, stampsFolder, string(name)))
}

// load reads every saved stamp. One whose assignment cannot be believed is blind; the
// others do not suffer from it.
func (a *Agent) load() ([]savedStamp, error) {
	entries, err := os.ReadDir(filepath.Join(a.disk.dir, stampsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read assignments: %w", err)
	}
	var out []savedStamp
	for _, e := range entries {
		name, err := bulkhead.ParseStampName(e.Name())
		if err != nil {
			a.log.Error("what is no stamp's folder is left alone", "folder", e.Name())
			continue
		}
		assignment, left, err := a.loadAssignment(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // nothing was done for it yet; the servers will say it again
		}
		s := savedStamp{assignment: assignment, left: left}
		if err != nil {
			a.log.Error("assignment is refused: what runs of the stamp goes on, the servers are asked what it should be", "stamp", name, "err", err)
			s.blind, s.assignment = true, bulkhead.Assignment{Stamp: bulkhead.Stamp{Name: name}}
		}
		if err := a.disk.read(tasksFile(name), &s.savedTasks); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.log.Error("tasks file is refused; the runtime is asked instead", "stamp", name, "err", err)
			s.savedTasks = savedTasks{}
		}
		out = append(out, s)
	}
	return out, nil
}

func (a *Agent) loadAssignment(name bulkhead.StampName) (as bulkhead.Assignment, left bool, err error) {
	var saved savedAssignment
	if err := a.disk.read(assignmentFile(name), &saved); err != nil {
		return as, false, err
	}
	as.Stamp = saved.Stamp
	if len(saved.Sealed) > 0 {
		if as.Secrets, err = a.c.Keys.Open(as.Stamp.UID, saved.Sealed); err != nil {
			return as, false, fmt.Errorf("open secrets: %w", err)
		}
	}
	return as, saved.Left, nil
}
