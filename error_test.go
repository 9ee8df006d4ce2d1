package bulkhead

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestParseStampName(t *testing.T) {
	for in, want := range map[string]string{
		"acme": "acme", " Acme ": "acme", "a": "a", "a-1": "a-1", strings.Repeat("a", 40): strings.Repeat("a", 40),
		"": "", "-a": "", "a-": "", "a.b": "", "a_b": "", "ä": "", "../x": "", "localhost": "",
		// Look-alikes: one and the same, or no name.
		"ACME": "acme", "acme\n": "acme", "\u00a0acme": "acme", "\u212aiosk": "kiosk", // the Kelvin sign
		"\u0430cme": "", "acm\u0435": "", "\uff41cme": "", "ac\u200bme": "", "acme\u0301": "", "acme.": "", "xn--cme-7cd": "", "a--b": "a--b", "ac--me": "", strings.Repeat("a", 41): "",
	} {
		got, err := ParseStampName(in)
		if want == "" {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("ParseStampName(%q) = %q, %v", in, got, err)
			}
		} else if err != nil || string(got) != want {
			t.Errorf("ParseStampName(%q) = %q, %v", in, got, err)
		}
	}
}

func TestErrorKeepsKindAndCause(t *testing.T) {
	err := error(Errorf(ErrConflict, "stamp %s exists: %w", "acme", io.EOF).WithHint("choose another name"))
	if !errors.Is(err, ErrConflict) || !errors.Is(err, io.EOF) || KindOf(err) != ErrConflict {
		t.Errorf("%v lost its kind or cause", err)
	}
	if err.Error() != "stamp acme exists: EOF" {
		t.Errorf("message %q", err)
	}
	if KindOf(io.EOF) != nil {
		t.Error("an internal error has a kind")
	}
}

func TestTaskStatesRoundTrip(t *testing.T) {
	for s := TaskPending; s <= TaskRejected; s++ {
		b, _ := s.MarshalText()
		var back TaskState
		if err := back.UnmarshalText(b); err != nil || back != s {
			t.Errorf("%s came back as %s, %v", s, back, err)
		}
	}
	if NewTaskID("acme", "my-web", 2, "abc").Name() != "acme.my-web.2" {
		t.Error(NewTaskID("acme", "my-web", 2, "abc").Name())
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	if err := WriteFrame(&b, FrameStdout, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	kind, payload, err := ReadFrame(&b)
	if err != nil || kind != FrameStdout || string(payload) != "hello" {
		t.Errorf("%d %q %v", kind, payload, err)
	}
	if _, _, err := ReadFrame(strings.NewReader("\x02\xff\xff\xff\xff")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}
