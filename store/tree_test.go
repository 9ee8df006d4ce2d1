package store

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A tree does what a sorted map does, and none of its earlier versions changes.
func TestTree_IsAnImmutableSortedMap(t *testing.T) {
	type version struct {
		tree  tree[int]
		model map[string]int
	}
	rapid.Check(t, func(t *rapid.T) {
		versions := []version{{model: map[string]int{}}}
		keys := rapid.StringMatching(`[ab/]{0,4}`)
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			from := rapid.SampledFrom(versions).Draw(t, "from")
			next := version{model: maps.Clone(from.model)}
			key := keys.Draw(t, "key")
			if rapid.Bool().Draw(t, "put") {
				next.tree, next.model[key] = from.tree.put(key, i), i
			} else {
				next.tree = from.tree.drop(key)
				delete(next.model, key)
			}
			versions = append(versions, next)
		}
		from, end := keys.Draw(t, "from"), keys.Draw(t, "end")
		for _, v := range versions {
			var want, got, rank []string
			for _, key := range slices.Sorted(maps.Keys(v.model)) {
				if key >= from && (end == "" || key < end) {
					want = append(want, key)
				}
				if key < from {
					rank = append(rank, key)
				}
			}
			for key, value := range v.tree.all(from, end) {
				got = append(got, key)
				if found, ok := v.tree.get(key); !ok || found != value || value != v.model[key] {
					t.Fatalf("key %q: all has %d, get %d, %v, model %d", key, value, found, ok, v.model[key])
				}
			}
			if !slices.Equal(got, want) || v.tree.len() != len(v.model) || v.tree.rank(from) != len(rank) {
				t.Fatalf("[%q, %q) of %v: got %v; len %d; rank %d", from, end, v.model, got, v.tree.len(), v.tree.rank(from))
			}
		}
	})
}

func TestTree_StaysBalanced(t *testing.T) {
	var tr tree[int]
	for i := range 10_000 {
		tr = tr.put(idKey(int64(i)), i) // ascending: the worst case of a plain tree
	}
	var depth func(n *node[int]) int
	depth = func(n *node[int]) int {
		if n == nil {
			return 0
		}
		return 1 + max(depth(n.left), depth(n.right))
	}
	if d := depth(tr.root); d > 60 { // about 33 expected
		t.Errorf("10,000 ascending keys make a tree of depth %d", d)
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{"": "", "a": "b", "a/": "a0", "a\xff": "b", "\xff\xff": ""} {
		if got := prefixEnd(prefix); got != want {
			t.Errorf("prefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}
