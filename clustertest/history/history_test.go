package history

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// step is an operation in short: from call to end, in any unit of time.
type step struct {
	call, end int64
	in        operation
	out       answer
}

func get(call, end int64, value string) step {
	return step{call, end, operation{key: "k", kind: read}, answer{value: value}}
}

func set(call, end int64, from, to string, err error) step {
	return step{call, end, operation{key: "k", kind: swap, from: from, to: to}, answer{err: err}}
}

func put(call, end int64, to string, err error) step {
	return step{call, end, operation{key: "k", kind: write, to: to}, answer{err: err}}
}

// TestCheck: what one copy could have answered passes, and nothing else.
func TestCheck(t *testing.T) {
	for what, c := range map[string]struct {
		history []step
		fine    bool
	}{
		"one after the other":                    {[]step{set(1, 2, "", "a", nil), get(3, 4, "a"), set(5, 6, "a", "", nil), get(7, 8, "")}, true},
		"side by side, either order":             {[]step{set(1, 5, "", "a", nil), get(2, 3, ""), get(2, 4, "a")}, true},
		"a read of what is over":                 {[]step{set(1, 2, "", "a", nil), set(3, 4, "a", "b", nil), get(5, 6, "a")}, false},
		"a read that goes back":                  {[]step{set(1, 9, "", "a", nil), get(2, 3, "a"), get(4, 5, "")}, false},
		"an acknowledged change that is lost":    {[]step{set(1, 2, "", "a", nil), get(3, 4, "")}, false},
		"two that took the same value":           {[]step{set(1, 2, "", "a", nil), set(3, 9, "a", "b", nil), set(3, 9, "a", "c", nil)}, false},
		"a refusal with a reason":                {[]step{set(1, 2, "", "a", nil), set(3, 4, "", "b", ErrRefused), get(5, 6, "a")}, true},
		"a refusal without one":                  {[]step{set(1, 2, "", "a", nil), set(3, 4, "a", "b", ErrRefused)}, false},
		"unknown, made":                          {[]step{set(1, 2, "", "a", ErrUnknown), get(3, 4, "a")}, true},
		"unknown, not made":                      {[]step{set(1, 2, "", "a", ErrUnknown), get(3, 4, "")}, true},
		"unknown, made late":                     {[]step{set(1, 2, "", "a", ErrUnknown), get(3, 4, ""), get(5, 6, "a")}, true},
		"unknown, made and then not":             {[]step{set(1, 2, "", "a", ErrUnknown), get(3, 4, "a"), get(5, 6, "")}, false},
		"unknown, seen before it was asked for":  {[]step{get(1, 2, "a"), set(3, 4, "", "a", ErrUnknown)}, false},
		"refused, and made all the same":         {[]step{set(1, 2, "", "a", ErrRefused)}, false},
		"a value that nobody wrote":              {[]step{set(1, 2, "", "a", nil), get(3, 4, "z")}, false},
		"written over":                           {[]step{put(1, 2, "a", nil), put(3, 4, "b", nil), get(5, 6, "b")}, true},
		"written once, seen twice":               {[]step{put(1, 9, "a", nil), get(2, 3, "a"), put(4, 5, "b", nil), get(6, 6, "b"), get(7, 8, "a")}, false},
		"unknown twice, the second one was made": {[]step{set(1, 2, "", "a", ErrUnknown), set(3, 4, "", "b", ErrUnknown), get(5, 6, "b")}, true},
	} {
		r := NewRecorder()
		for i, s := range c.history {
			r.operations = append(r.operations, porcupine.Operation{ClientId: i, Input: s.in, Output: s.out, Call: s.call, Return: s.end})
		}
		err := r.Check()
		if (err == nil) != c.fine {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && !strings.Contains(err.Error(), "register k") {
			t.Errorf("%s: it does not say where: %v", what, err)
		}
	}
}

// TestRecorder: what fails in reading is left out, what fails in changing is unknown.
func TestRecorder(t *testing.T) {
	r := NewRecorder()
	away := errors.New("away")
	if _, err := r.Read(0, "k", func() (string, error) { return "", away }); !errors.Is(err, away) {
		t.Errorf("the reading: %v", err)
	}
	if err := r.Swap(0, "k", "", "a", func() error { time.Sleep(time.Millisecond); return away }); !errors.Is(err, ErrUnknown) || !errors.Is(err, away) {
		t.Errorf("the change: %v", err)
	}
	if err := r.Swap(0, "k", "", "b", func() error { return nil }); err != nil {
		t.Errorf("the second change: %v", err)
	}
	if all, unknown := r.Count(); all != 2 || unknown != 1 {
		t.Errorf("%d operations, %d unknown", all, unknown)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}
