package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"inshape/analysis"
	"inshape/material"
	"inshape/mesh"
)

// analysed is what the analysis of one file took, with all revisions that are
// made of it by themselves.
type analysed struct {
	name      string
	facets    int
	revisions int
	took      time.Duration
	refused   string
}

// analyse runs the pipeline of the module Analysis over each file once, from the
// bytes on.
func analyse(ctx context.Context, b *bench) error {
	materials := material.Default()
	steps := map[analysis.StepName]time.Duration{}
	var all []analysed
	for _, path := range b.files {
		one, err := analyseFile(ctx, path, materials, steps)
		if err != nil {
			return fmt.Errorf("analyse %s: %w", path, err)
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b analysed) int { return cmp.Compare(b.took, a.took) })
	var sum time.Duration
	refused := 0
	for _, a := range all {
		sum += a.took
		if a.refused != "" {
			refused++
		}
	}
	if len(all) == 0 {
		return errors.New("there are no models in the folders")
	}
	seconds := func(d time.Duration) float64 { return d.Seconds() }
	fmt.Printf("| models | refused | mean s | median s | 95th percentile s | slowest s |\n|---|---|---|---|---|---|\n| %d | %d | %.2f | %.2f | %.2f | %.2f |\n\n",
		len(all), refused, seconds(sum)/float64(len(all)), seconds(all[len(all)/2].took), seconds(all[len(all)/20].took), seconds(all[0].took))
	fmt.Printf("| step | mean s |\n|---|---|\n")
	for _, name := range []analysis.StepName{
		analysis.Read, analysis.Make, analysis.Topology, analysis.Thickness, analysis.Cavities, analysis.Orientation, analysis.Pictures, analysis.Printability,
	} {
		fmt.Printf("| %s | %.3f |\n", name, seconds(steps[name])/float64(len(all)))
	}
	fmt.Printf("\n| slowest | facets | revisions | s |\n|---|---|---|---|\n")
	for _, a := range all[:min(len(all), 5)] {
		fmt.Printf("| %s | %d | %d | %.2f |\n", a.name, a.facets, a.revisions, seconds(a.took))
	}
	return nil
}

func analyseFile(ctx context.Context, path string, materials *material.Set, steps map[analysis.StepName]time.Duration) (analysed, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return analysed{}, err
	}
	one := analysed{name: filepath.Base(path)}
	in := analysis.Input{Name: one.name, Data: data, Materials: materials, Mark: "Inshape"}
	kind, begun := analysis.Original, time.Now()
	for {
		var at time.Time
		result, err := analysis.Analyse(ctx, in, func(analysis.StepName) { at = time.Now() },
			func(s analysis.Step) { steps[s.Name] += time.Since(at) })
		var fault *mesh.Error
		var refusal *analysis.Refusal
		if errors.As(err, &fault) && fault.Guess != "" { // as somebody would answer who is asked
			in.Unit = fault.Guess
			continue
		}
		one.took = time.Since(begun)
		one.revisions++
		switch {
		case fault != nil, errors.As(err, &refusal):
			if one.revisions == 1 {
				one.refused = err.Error()
			}
			return one, nil
		case err != nil:
			return one, err
		}
		one.facets = max(one.facets, len(result.Mesh.Facets))
		next, ok := analysis.Next(kind, &result.Report)
		if !ok {
			return one, nil
		}
		kind = next
		in = analysis.Input{Name: one.name, Mesh: result.Mesh, Unit: result.Report.Unit, Operation: analysis.Operation{Kind: next}, Materials: materials, Mark: "Inshape"}
	}
}
