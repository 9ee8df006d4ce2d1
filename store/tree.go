package store

import (
	"iter"
	"math/rand/v2"
)

// tree is a sorted map that never changes: put and drop return another one that
// shares all but the path to what differs. So a snapshot costs nothing, can be
// read without a lock, and a transaction works on its own copy at once. It is
// a treap (Seidel and Aragon, 1996): sorted by key, and a heap by random weight,
// which keeps it balanced whatever the keys are. The zero value is empty.
type tree[V any] struct{ root *node[V] }

type node[V any] struct {
	key         string
	value       V
	weight      uint64
	size        int // keys in this subtree
	left, right *node[V]
}

func (t tree[V]) len() int { return t.root.len() }

func (t tree[V]) get(key string) (value V, ok bool) {
	n := t.root
	for n != nil {
		switch {
		case key < n.key:
			n = n.left
		case key > n.key:
			n = n.right
		default:
			return n.value, true
		}
	}
	return value, false
}

func (t tree[V]) put(key string, value V) tree[V] {
	if _, ok := t.get(key); ok {
		return tree[V]{t.root.replace(key, value)}
	}
	return tree[V]{t.root.insert(key, value, rand.Uint64())}
}

func (t tree[V]) drop(key string) tree[V] {
	less, more := t.root.split(key)
	return tree[V]{less.join(more)}
}

// rank is how many keys are less than key.
func (t tree[V]) rank(key string) int {
	r := 0
	for n := t.root; n != nil; {
		if key <= n.key {
			n = n.left
			continue
		}
		r += n.left.len() + 1
		n = n.right
	}
	return r
}

// all yields from <= key < end in order; end "" is no end.
func (t tree[V]) all(from, end string) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) { t.root.walk(from, end, yield) }
}

func newNode[V any](key string, value V, weight uint64, left, right *node[V]) *node[V] {
	return &node[V]{key, value, weight, left.len() + 1 + right.len(), left, right}
}

func (n *node[V]) with(left, right *node[V]) *node[V] {
	return newNode(n.key, n.value, n.weight, left, right)
}

// replace expects key to be there.
func (n *node[V]) replace(key string, value V) *node[V] {
	switch {
	case key < n.key:
		return n.with(n.left.replace(key, value), n.right)
	case key > n.key:
		return n.with(n.left, n.right.replace(key, value))
	default:
		return newNode(key, value, n.weight, n.left, n.right)
	}
}

// insert expects key not to be there.
func (n *node[V]) insert(key string, value V, weight uint64) *node[V] {
	switch {
	case n == nil || weight > n.weight:
		less, more := n.split(key)
		return newNode(key, value, weight, less, more)
	case key < n.key:
		return n.with(n.left.insert(key, value, weight), n.right)
	default:
		return n.with(n.left, n.right.insert(key, value, weight))
	}
}

func (n *node[V]) len() int {
	if n == nil {
		return 0
	}
	return n.size
}

// split leaves key itself out.
func (n *node[V]) split(key string) (less, more *node[V]) {
	switch {
	case n == nil:
		return nil, nil
	case key < n.key:
		less, more = n.left.split(key)
		return less, n.with(more, n.right)
	case key > n.key:
		less, more = n.right.split(key)
		return n.with(n.left, less), more
	default:
		return n.left, n.right
	}
}

// join expects every key of n to be less than every key of o.
func (n *node[V]) join(o *node[V]) *node[V] {
	switch {
	case n == nil:
		return o
	case o == nil:
		return n
	case n.weight > o.weight:
		return n.with(n.left, n.right.join(o))
	default:
		return o.with(n.join(o.left), o.right)
	}
}

func (n *node[V]) walk(from, end string, yield func(string, V) bool) bool {
	if n == nil {
		return true
	}
	if from < n.key && !n.left.walk(from, end, yield) {
		return false
	}
	if end != "" && n.key >= end {
		return true
	}
	if n.key >= from && !yield(n.key, n.value) {
		return false
	}
	return n.right.walk(from, end, yield)
}

// prefixEnd is the least key after all that begin with prefix; "" if none is.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}
