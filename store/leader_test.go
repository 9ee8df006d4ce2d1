package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// candidate leads until told to stop, and hands out its Leader.
func candidate(t *testing.T, ctx context.Context, s *Store) (<-chan *Leader, <-chan error, <-chan error) {
	leaders, causes, done := make(chan *Leader, 9), make(chan error, 9), make(chan error, 1)
	go func() {
		done <- s.Lead(ctx, func(ctx context.Context, l *Leader) error {
			leaders <- l
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		})
	}()
	return leaders, causes, done
}

func TestLead_OneAtATime(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		ctx1, stop1 := context.WithCancel(t.Context())
		leaders1, _, done1 := candidate(t, ctx1, s)
		first := <-leaders1
		ctx2, stop2 := context.WithCancel(t.Context())
		leaders2, _, done2 := candidate(t, ctx2, s)
		put := func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return nil }
		if err := first.Update(t.Context(), put); err != nil {
			t.Error(err)
		}
		select {
		case <-leaders2:
			t.Fatal("two leaders")
		default:
		}
		stop1()
		<-done1
		second := <-leaders2
		if err := first.Update(t.Context(), put); !errors.Is(err, ErrDeposed) {
			t.Errorf("a former leader wrote: %v", err)
		}
		if err := second.Update(t.Context(), put); err != nil {
			t.Error(err)
		}
		stop2()
		<-done2
		if err := second.Update(t.Context(), put); !errors.Is(err, ErrDeposed) {
			t.Errorf("a former leader wrote while nobody leads: %v", err)
		}
	})
}

// A leader whose lease ends without its knowing can not write any more, its
// context ends with ErrDeposed, and it campaigns again.
func TestLead_FencesTheDeposed(t *testing.T) {
	s := open(t, Config{Lease: 3 * time.Second})
	ctx, stop := context.WithCancel(t.Context())
	leaders, causes, done := candidate(t, ctx, s)
	first := <-leaders
	other, _, otherDone := candidate(t, ctx, s)

	client := s.engine.(*etcd).client
	r, err := client.Get(ctx, first.office.key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("find the leader's key: %v, %v", r, err)
	}
	if _, err := client.Revoke(ctx, clientv3.LeaseID(r.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	second := <-other
	err = first.Update(ctx, func(tx *Tx) error { tx.Stamps.Put(stamp("stale")); return nil })
	if !errors.Is(err, ErrDeposed) || s.View().Stamps.Len() != 0 {
		t.Errorf("the deposed leader's Update: %v", err)
	}
	if cause := <-causes; !errors.Is(cause, ErrDeposed) {
		t.Errorf("the deposed leader's context ended with %v", cause)
	}
	if err := second.Update(ctx, func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return nil }); err != nil {
		t.Error(err)
	}
	stop()
	<-done
	<-otherDone
}

// Without a write, too, a leader learns that it is one no longer.
func TestLead_EndsWithTheLease(t *testing.T) {
	s := open(t, Config{Lease: 3 * time.Second})
	ctx, stop := context.WithCancel(t.Context())
	leaders, causes, done := candidate(t, ctx, s)
	first := <-leaders
	client := s.engine.(*etcd).client
	r, err := client.Get(ctx, first.office.key)
	if err != nil || len(r.Kvs) != 1 {
		t.Fatalf("find the leader's key: %v, %v", r, err)
	}
	if _, err := client.Revoke(ctx, clientv3.LeaseID(r.Kvs[0].Lease)); err != nil {
		t.Fatal(err)
	}
	if cause := <-causes; !errors.Is(cause, ErrDeposed) {
		t.Errorf("the context ended with %v", cause)
	}
	<-leaders // again
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Lead returned %v", err)
	}
}

func TestLead_ReturnsWhatItsFunctionReturns(t *testing.T) {
	onBoth(t, Config{}, func(t *testing.T, s *Store) {
		mine := errors.New("mine")
		for _, want := range []error{mine, nil} {
			if err := s.Lead(t.Context(), func(context.Context, *Leader) error { return want }); !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
		}
	})
}

// behind is the way of a server to the state, of which it hears a second late.
type behind struct{}

// mirrors marks the context of what follows the state.
type mirrors struct{}

func (behind) Ask(context.Context) error { return nil }

func (behind) Answer(ctx context.Context) error {
	if ctx.Value(mirrors{}) != nil {
		time.Sleep(time.Second)
	}
	return nil
}

// A leader that was behind when it was elected knows what was written before.
func TestLead_KnowsWhatWasWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := NewShared(nil)
		other, late := shared.Open(Config{}, nil), shared.Open(Config{}, behind{})
		ctx, cancel := context.WithCancel(t.Context())
		following := make(chan error, 1)
		go func() { following <- late.Run(context.WithValue(ctx, mirrors{}, true)) }()
		if err := other.Update(ctx, func(tx *Tx) error { tx.Stamps.Put(stamp("acme")); return nil }); err != nil {
			t.Fatal(err)
		}
		if late.View().Stamps.Len() != 0 {
			t.Fatal("it is not behind")
		}
		err := late.Lead(ctx, func(_ context.Context, l *Leader) error {
			if l.View().Stamps.Len() != 1 {
				t.Error("the leader does not know of acme")
			}
			return nil
		})
		cancel()
		if err := errors.Join(err, <-following, late.Close(), other.Close()); err != nil {
			t.Error(err)
		}
	})
}
