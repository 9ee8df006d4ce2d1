package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// Purge removes everything of the instance from containerd: containers with
// their processes, images, the namespace; and ends a private containerd. The
// folders stay.
func (e *Engine) Purge(ctx context.Context) error {
	r := &Runtime{log: e.log, client: e.client, namespace: e.namespace(), snapshotter: e.snapshotter, run: e.config.RunFolder}
	tasks, err := r.List(ctx)
	if err != nil {
		return err
	}
	for _, t := range tasks { // all, whatever becomes of one
		err = errors.Join(err, r.Remove(ctx, t.ID))
	}
	if err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, e.namespace())
	list, err := e.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, i := range list {
		if err := e.client.ImageService().Delete(ctx, i.Name, images.SynchronousDelete()); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete image: %w", err)
		}
	}
	leases, err := e.client.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range leases {
		if err := e.client.LeasesService().Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete lease: %w", err)
		}
	}
	// A namespace that still holds what nothing refers to goes when containerd
	// has collected that; a private one goes with its folder.
	if err := e.client.NamespaceService().Delete(ctx, e.namespace()); err != nil && !errdefs.IsNotFound(err) {
		e.log.Debug("delete namespace", "error", err)
	}
	return errors.Join(r.Forget(ctx, ""), e.Terminate(ctx))
}
