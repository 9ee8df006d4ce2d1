package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"bulkhead"

	"github.com/spf13/cobra"
)

func (c *command) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "snapshot", Short: "Backup of the state: save, restore"}
	cmd.AddCommand(c.snapshotSave(), c.snapshotRestore())
	return family(cmd)
}

func (c *command) snapshotSave() *cobra.Command {
	return &cobra.Command{
		Use: "save FILE", Short: "Save the state of the farm to a file",
		Long: `Save the state of the farm to a file: releases, stamps, nodes, operators, events. The
data of stamps and the images of releases are not in it. Secrets of stamps are, sealed
under the key in DATA/keys of any server: keep a copy of that folder, elsewhere.`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			path := args[0]
			if _, err := os.Stat(path); err == nil {
				return bulkhead.Errorf(bulkhead.ErrConflict, "file %s exists already", path).WithHint("name another one")
			}
			f, err := os.CreateTemp(filepath.Dir(path), ".snapshot-*") // 0600
			if err != nil {
				if e, ok := errors.AsType[*os.PathError](err); ok { // the file's own name tells nothing
					err = e.Err
				}
				return bulkhead.Errorf(bulkhead.ErrInvalid, "make a file in %s: %w", filepath.Dir(path), err).WithHint("name a file in a folder that exists and can be written to")
			}
			defer os.Remove(f.Name())
			err = c.client().SaveState(cmd.Context(), f)
			if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			if err := os.Rename(f.Name(), path); err != nil {
				return fmt.Errorf("write backup: %w", err)
			}
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return c.print(map[string]any{"file": path, "bytes": info.Size()}, func() {
				c.say("the state is saved in %s, %s", path, size(info.Size()))
				c.next("keep it with a copy of DATA/keys of a server, which opens its secrets")
			})
		},
	}
}

func (c *command) snapshotRestore() *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make the state in a file that of a server that does not run",
		Long: `Make the state in a file that of the first server of a farm, in a data folder whose
keys are those of the farm and that holds no state: after the loss of a majority of the
servers, or all. Start it with bulkhead up or bulkhead server; nodes find it by its
address, and other servers join it anew.`,
		Args: exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.env.Restore == nil {
				return bulkhead.Errorf(bulkhead.ErrUnavailable, "this build of bulkhead runs no server").WithHint("servers run on Linux")
			}
			abs, err := filepath.Abs(data)
			if err != nil {
				return err
			}
			made, rows, err := c.env.Restore(cmd.Context(), abs, args[0])
			if err != nil {
				return err
			}
			return c.print(map[string]any{"data": abs, "made": made, "objects": rows}, func() {
				c.say("the state of %s is restored in %s: %s", made.UTC().Format("2006-01-02 15:04:05Z"), abs, count(rows, "object"))
				c.next("bulkhead up, or bulkhead server, with the flags that it had")
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "/var/lib/bulkhead", "the data folder of the server")
	return cmd
}
