package daemon

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"bulkhead"
	"bulkhead/store"
)

// Restore makes the state in a backup that of the server on a data folder, which
// does not run. The folder must have the keys of the farm: without them the nodes
// would not know the server, and nobody could open what is sealed.
func Restore(ctx context.Context, data, file string) (made time.Time, objects int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return made, 0, bulkhead.Errorf(bulkhead.ErrNotFound, "read backup: %w", err)
	}
	defer f.Close()
	for _, name := range []string{"ca.pem", "seal.key"} {
		if _, err := os.Stat(filepath.Join(data, "keys", name)); err != nil {
			return made, 0, bulkhead.Errorf(bulkhead.ErrInvalid, "%s is missing: the state is of no use without the farm's keys", filepath.Join(data, "keys", name)).
				WithHint("copy the folder keys of any server, or of a backup, there first")
		}
	}
	folder, err := store.Lock(data)
	if err != nil {
		return made, 0, err
	}
	defer folder.Close()
	m, err := openMembership(data)
	if err != nil {
		return made, 0, err
	}
	made, objects, err = store.Restore(ctx, store.Config{Folder: folder, Name: "restored"}, f)
	if err != nil {
		return made, objects, err
	}
	// It is the first of its farm now, whatever it was before.
	return made, objects, m.change(func(s *savedMembership) { s.ServerUID, s.Members = "", nil })
}
