package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bulkhead"
)

// running waits until acme runs in the generation.
func running(t *testing.T, s *server, generation int64) bulkhead.StampStatus {
	t.Helper()
	until(t, "acme runs", 5*time.Minute, func() bool {
		st := s.of("acme")
		return st.Generation == generation && st.Phase == bulkhead.PhaseRunning
	})
	return s.of("acme")
}

func TestAgentComesBackToTheServer(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		boot(t, m, s, dir)
		running(t, s, 1)
		s.leave(true)
		time.Sleep(time.Hour) // nothing happens that would have to be reported
		s.leave(false)
		until(t, "there is a session again", 20*time.Second, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return len(s.sessions) == 2
		})
	})
}

// TestAgentListsWhileItMakes: the list after a gap in the exit feed says nothing of
// tasks that were made after it was begun.
func TestAgentListsWhileItMakes(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		var lists atomic.Int32
		m.fault = func(call string, _ bulkhead.TaskID) error {
			if call == "list" {
				if lists.Add(1) == 2 { // the one that the feed's first, empty exit asks for
					time.AfterFunc(0, func() { s.order(assign(shop())) })
				}
			}
			return nil
		}
		slow := slowList{m}
		bootWith(t, m, s, dir, slow)
		running(t, s, 1)
		time.Sleep(time.Minute)
		if m.started != 2 {
			t.Errorf("%d starts of 2 tasks: %s", m.started, s.heard())
		}
	})
}

// slowList takes the list, and a while to hand it over.
type slowList struct{ *machine }

func (l slowList) List(ctx context.Context) ([]Observed, error) {
	list, err := l.machine.List(ctx)
	time.Sleep(time.Second)
	return list, err
}

// TestAgentKeepsLivesApart: a stamp of the same name is another stamp.
func TestAgentKeepsLivesApart(t *testing.T) {
	for name, orders := range map[string]func(*server, bulkhead.Stamp, bulkhead.Stamp){
		"told": func(s *server, _, next bulkhead.Stamp) { s.order(assign(next)) },
		"forgets": func(s *server, old, next bulkhead.Stamp) {
			r := ref(old)
			s.order(bulkhead.NodeOrder{Forget: &r})
			s.order(assign(next))
		},
		"deleting": func(s *server, old, next bulkhead.Stamp) {
			old.Desired, old.Purge, old.Generation = bulkhead.DesiredDeleted, true, 2
			s.order(assign(old))
			s.order(assign(next))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				m.slow = time.Second
				s.order(assign(shop()))
				boot(t, m, s, dir)
				old := running(t, s, 1)
				next := shop()
				next.UID = "u2"
				orders(s, shop(), next)
				until(t, "the next life runs", time.Minute, func() bool {
					st := s.of("acme")
					return st.UID == "u2" && st.Phase == bulkhead.PhaseRunning
				})
				st := s.of("acme")
				if len(st.Tasks) != 2 || st.Tasks[0].ID == old.Tasks[0].ID || st.Tasks[1].ID == old.Tasks[1].ID || len(m.containers) != 2 {
					t.Errorf("tasks %v after %v, containers %v", st.Tasks, old.Tasks, m.containers)
				}
				if st.Ready == nil || st.Ready.Equal(*old.Ready) {
					t.Errorf("ready at %v, as its predecessor", st.Ready)
				}
				if kept, asked := m.kept["u1"]; !asked || kept != (name != "deleting") {
					t.Errorf("data of the first life kept: %t, asked: %t", kept, asked)
				}
				if _, asked := m.kept["u2"]; asked {
					t.Error("data of the second life was touched")
				}
			})
		})
	}
}

func TestAgentForgetsWhatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		first := boot(t, m, s, dir)
		running(t, s, 1)
		first.kill()
		s.orders = []bulkhead.NodeOrder{{Synced: true}} // it went elsewhere meanwhile
		second := boot(t, m, s, dir)
		until(t, "it is gone", time.Minute, func() bool {
			containers, _ := m.left()
			return len(second.Stamps()) == 0 && containers == 0
		})
		if !m.kept["u1"] {
			t.Error("its data is not kept")
		}
	})
}

func TestAgentDoesNotForgetEverything(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		for _, name := range []bulkhead.StampName{"acme", "globex", "initech"} {
			stamp := shop()
			stamp.Name, stamp.UID = name, string(name)
			s.order(assign(stamp))
		}
		first := boot(t, m, s, dir)
		until(t, "all run", time.Minute, func() bool {
			return s.of("initech").Phase == bulkhead.PhaseRunning && s.of("acme").Phase == bulkhead.PhaseRunning
		})
		first.kill()
		s.orders = []bulkhead.NodeOrder{{Synced: true}} // servers that have lost their state
		second := boot(t, m, s, dir)
		time.Sleep(time.Hour)
		if n := len(second.Stamps()); n != 3 {
			t.Errorf("%d stamps are left", n)
		}
	})
}

// TestAgentForgetsWithOthers: servers that know that one of two stamps is elsewhere have
// not lost their memory, so the one that they do not know at all is ended, too.
func TestAgentForgetsWithOthers(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		elsewhere := shop()
		elsewhere.Name, elsewhere.UID = "globex", "globex"
		s.order(assign(shop()))
		s.order(assign(elsewhere))
		first := boot(t, m, s, dir)
		until(t, "both run", time.Minute, func() bool {
			return s.of("acme").Phase == bulkhead.PhaseRunning && s.of("globex").Phase == bulkhead.PhaseRunning
		})
		first.kill()
		gone := ref(elsewhere)
		s.orders = []bulkhead.NodeOrder{{Forget: &gone}, {Synced: true}}
		second := boot(t, m, s, dir)
		until(t, "nothing is left", time.Minute, func() bool { return len(second.Stamps()) == 0 })
	})
}

// called is the shop under another name.
func called(name bulkhead.StampName) bulkhead.Stamp {
	s := shop()
	s.Name, s.UID = name, string(name)
	return s
}

func purge(s bulkhead.Stamp) bulkhead.NodeOrder {
	r := ref(s)
	r.Epoch++ // another node had it
	return bulkhead.NodeOrder{Purge: &r}
}

// TestAgentPurgesWhatWasElsewhere: a node that was away while most of its stamps were
// purged ends them, and destroys their data, when it is told so; what it is not told of
// it keeps, if that is most of the rest.
func TestAgentPurgesWhatWasElsewhere(t *testing.T) {
	for name, c := range map[string]struct {
		told []bulkhead.NodeOrder
		left []bulkhead.StampName
	}{
		"one is still its own":     {[]bulkhead.NodeOrder{assign(called("hooli"))}, []bulkhead.StampName{"hooli"}},
		"it knows no other":        {nil, nil},
		"servers that lost others": {[]bulkhead.NodeOrder{assign(called("hooli"))}, []bulkhead.StampName{"hooli", "pied", "piper", "umbrella"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				all := []bulkhead.StampName{"acme", "globex", "initech", "hooli"}
				if len(c.left) > 1 {
					all = append(all, c.left[1:]...)
				}
				for _, name := range all {
					s.order(assign(called(name)))
				}
				first := boot(t, m, s, dir)
				until(t, "all run", time.Minute, func() bool {
					return !slices.ContainsFunc(all, func(name bulkhead.StampName) bool { return s.of(name).Phase != bulkhead.PhaseRunning })
				})
				first.kill()
				s.orders = append([]bulkhead.NodeOrder{purge(called("acme")), purge(called("globex")), purge(called("initech"))}, c.told...)
				s.orders = append(s.orders, bulkhead.NodeOrder{Synced: true})
				second := boot(t, m, s, dir)
				until(t, "three are purged", time.Minute, func() bool { return len(s.buried()) == 3 })
				time.Sleep(time.Hour)
				var left []bulkhead.StampName
				for _, l := range second.Stamps() {
					left = append(left, l.Stamp.Name)
				}
				if containers, _ := m.left(); !slices.Equal(left, c.left) || containers != 2*len(c.left) {
					t.Errorf("%v are left, with %d tasks, want %v", left, containers, c.left)
				}
				if got := s.buried(); !slices.Equal(got, []string{"acme", "globex", "initech"}) {
					t.Errorf("reported: %v", got)
				}
				for _, name := range all {
					kept, deleted := m.kept[string(name)]
					switch wasPurged := slices.Contains(s.buried(), string(name)); {
					case wasPurged && (kept || !deleted):
						t.Errorf("the data of %s is not destroyed", name)
					case !wasPurged && deleted && !kept:
						t.Errorf("the data of %s is destroyed", name)
					}
				}
			})
		})
	}
}

// TestAgentPurgesOnlyThat: an order to purge is of one life of a stamp, and under an epoch.
func TestAgentPurgesOnlyThat(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		old, gone := shop(), shop()
		old.UID, gone.Name, gone.UID = "u0", "globex", "globex"
		s.order(assign(shop()))
		a := boot(t, m, s, dir)
		was := running(t, s, 1)

		s.order(purge(old)) // another life of the name
		s.order(purge(gone))
		until(t, "both are reported", time.Minute, func() bool { return len(s.buried()) == 2 })
		if kept, deleted := m.kept["u0"]; kept || !deleted {
			t.Error("the data of the former life is not destroyed")
		}
		if kept, deleted := m.kept["globex"]; kept || !deleted {
			t.Error("data that was set aside is not destroyed")
		}

		earlier := ref(shop())
		earlier.Epoch = 0
		s.order(bulkhead.NodeOrder{Purge: &earlier})
		time.Sleep(time.Hour)
		if now := s.of("acme"); len(a.Stamps()) != 1 || now.Phase != bulkhead.PhaseRunning || now.Tasks[0].ID != was.Tasks[0].ID {
			t.Errorf("%d stamps; acme is %s, its tasks %v, were %v", len(a.Stamps()), now.Phase, now.Tasks, was.Tasks)
		}
		if _, deleted := m.kept["u1"]; deleted || len(s.buried()) != 2 {
			t.Errorf("an older epoch is obeyed: %v", s.buried())
		}
	})
}

// TestAgentPurgesWhatItSetAside: the data of a stamp that went elsewhere is destroyed, also
// when the order comes while it is being set aside, and when another life begins there.
func TestAgentPurgesWhatItSetAside(t *testing.T) {
	for _, next := range []bool{false, true} {
		t.Run(fmt.Sprintf("next=%t", next), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				m.slow = time.Second
				s.order(assign(shop()))
				boot(t, m, s, dir)
				running(t, s, 1)
				elsewhere := ref(shop())
				elsewhere.Epoch++
				s.order(bulkhead.NodeOrder{Forget: &elsewhere})
				time.Sleep(time.Second / 2)
				if next {
					again := shop()
					again.UID = "u2"
					s.order(assign(again))
				}
				s.order(purge(shop()))
				until(t, "it is purged", time.Minute, func() bool { return slices.Equal(s.buried(), []string{"u1"}) })
				if kept, deleted := m.kept["u1"]; kept || !deleted {
					t.Error("its data is not destroyed")
				}
				if next {
					until(t, "the next life runs", time.Minute, func() bool { return s.of("acme").UID == "u2" && s.of("acme").Phase == bulkhead.PhaseRunning })
				}
				if _, deleted := m.kept["u2"]; deleted {
					t.Error("the data of the next life was touched")
				}
			})
		})
	}
}

// TestAgentEndsWhatWasPurged: of stamps that it was ordered to purge, and of whose end it
// did not hear, an agent makes no servers that have lost their memory.
func TestAgentEndsWhatWasPurged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		for _, name := range []bulkhead.StampName{"acme", "globex"} {
			gone := called(name)
			gone.Desired, gone.Purge = bulkhead.DesiredDeleted, true
			s.order(assign(gone))
		}
		s.order(assign(called("hooli")))
		first := boot(t, m, s, dir)
		until(t, "two are gone", time.Minute, func() bool {
			return s.of("acme").Phase == bulkhead.PhaseDeleted && s.of("globex").Phase == bulkhead.PhaseDeleted && s.of("hooli").Phase == bulkhead.PhaseRunning
		})
		first.kill()
		s.orders = []bulkhead.NodeOrder{assign(called("hooli")), {Synced: true}}
		second := boot(t, m, s, dir)
		until(t, "they are forgotten", time.Minute, func() bool { return len(second.Stamps()) == 1 })
	})
}

func TestAgentInsists(t *testing.T) {
	for _, call := range []string{"stop", "stopped", "remove", "started"} {
		t.Run(call, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				var failures atomic.Int32
				m.fault = func(c string, id bulkhead.TaskID) error {
					if c == call && strings.Contains(string(id), ".db.") && failures.Add(1) <= 5 {
						return bulkhead.Errorf(bulkhead.ErrUnavailable, "the engine is away")
					}
					return nil
				}
				stamp := shop()
				s.order(assign(stamp))
				boot(t, m, s, dir)
				running(t, s, 1)
				stamp.Generation, stamp.Services[1].Image.Digest = 2, "db2"
				s.order(assign(stamp))
				running(t, s, 2)
				until(t, "nothing else is left", time.Minute, func() bool {
					containers, endpoints := m.left()
					return containers == 2 && endpoints == 2
				})
				if len(m.wrong) > 0 {
					t.Error(m.wrong)
				}
				if n := failures.Load(); n < 5 {
					t.Errorf("%d failures", n)
				}
			})
		})
	}
}

// TestAgentGivesUpWhatHangs: a download that never ends keeps neither its own stamp
// from being deleted nor others from running.
func TestAgentGivesUpWhatHangs(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		stuck := shop()
		stuck.Name, stuck.UID = "stuck", "u9"
		for i := range stuck.Services {
			stuck.Services[i].Image.Reference, stuck.Services[i].Replicas = "hangs", 8
		}
		s.order(assign(stuck))
		boot(t, m, s, dir)
		time.Sleep(time.Second)
		s.order(assign(shop()))
		running(t, s, 1)
		stuck.Desired, stuck.Generation = bulkhead.DesiredDeleted, 2
		s.order(assign(stuck))
		until(t, "it is deleted", time.Minute, func() bool { return s.of("stuck").Phase == bulkhead.PhaseDeleted })
	})
}

// TestAgentRestoresWhileItDeletes: a stamp that is taken back while it is being torn
// down is not built on what is about to go.
func TestAgentRestoresWhileItDeletes(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		stamp := shop()
		s.order(assign(stamp))
		var razing atomic.Bool
		boot(t, m, s, dir)
		running(t, s, 1)
		m.breakBy(func(call string, _ bulkhead.TaskID) error {
			switch call {
			case "raze":
				razing.Store(true)
				time.Sleep(time.Minute)
				razing.Store(false)
			case "prepare":
				if razing.Load() {
					t.Error("prepared while the stamp is torn down")
				}
			}
			return nil
		})
		stamp.Desired, stamp.Generation = bulkhead.DesiredDeleted, 2
		s.order(assign(stamp))
		until(t, "it is torn down", time.Minute, razing.Load)
		stamp.Desired, stamp.Generation = bulkhead.DesiredRunning, 3
		s.order(assign(stamp))
		running(t, s, 3)
	})
}

// TestAgentDiesWhileItStops: what ended because it was told to is started again, however
// often agents die before nothing is left of it.
func TestAgentDiesWhileItStops(t *testing.T) {
	for _, moments := range [][]string{{"stopped"}, {"remove"}, {"stopped", "remove"}, {"remove", "remove"}} {
		t.Run(strings.Join(moments, ","), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				m, s := newMachine(), newServer()
				stamp := shop()
				s.order(assign(stamp))
				agent := boot(t, m, s, dir)
				running(t, s, 1)
				stamp.Desired, stamp.Generation = bulkhead.DesiredStopped, 2
				for i, moment := range moments {
					m.breakBy(func(call string, _ bulkhead.TaskID) error {
						if call != moment {
							return nil
						}
						time.Sleep(time.Minute)
						return errors.New("nobody hears this")
					})
					if i == 0 {
						s.order(assign(stamp))
					} else {
						agent = boot(t, m, s, dir)
					}
					time.Sleep(time.Second)
					synctest.Wait()
					agent.kill()
				}
				m.breakBy(nil)
				boot(t, m, s, dir)
				until(t, "acme is stopped", time.Minute, func() bool { return s.of("acme").Phase == bulkhead.PhaseStopped })
				stamp.Desired, stamp.Generation = bulkhead.DesiredRunning, 3
				s.order(assign(stamp))
				for _, task := range running(t, s, 3).Tasks {
					if task.State != bulkhead.TaskRunning {
						t.Errorf("%s is %s", task.ID, task.State)
					}
				}
			})
		})
	}
}

func TestAgentShowsNoSecrets(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		const value = "hunter2hunter2"
		stamp := shop()
		m.sick["db"] = "cannot log in with " + value
		m.fault = func(call string, id bulkhead.TaskID) error {
			if call == "prepare" && strings.Contains(string(id), ".web.") {
				return bulkhead.Errorf(bulkhead.ErrInvalid, "command %q is not in the image", value)
			}
			return nil
		}
		s.order(bulkhead.NodeOrder{Assign: &bulkhead.Assignment{Stamp: stamp, Secrets: map[string]string{"PASSWORD": value}}})
		boot(t, m, s, dir)
		until(t, "the probe's failure is shown", 5*time.Minute, func() bool {
			return strings.Contains(s.heard(), "cannot log in")
		})
		st := s.of("acme")
		told := s.heard() + st.Message
		for _, task := range st.Tasks {
			told += task.Message
		}
		b, err := os.ReadFile(filepath.Join(dir, "stamps", "acme", "tasks.json"))
		if err != nil || strings.Contains(told, value) || bytes.Contains(b, []byte(value)) {
			t.Errorf("%v: shown: %s; saved: %s", err, told, b)
		}
	})
}

func TestAgentSweepsFilesOfDeadTasks(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		life := boot(t, m, s, dir)
		running(t, s, 1)
		life.kill()
		stale := life.taskDir("acme.web.1-dead")
		if err := os.MkdirAll(stale, 0o700); err != nil {
			t.Fatal(err)
		}
		next := New(life.c)
		observed, err := next.observe(t.Context())
		if err != nil || len(observed["acme"]) != 2 {
			t.Fatal(observed, err)
		}
		if err := next.sweep(map[bulkhead.TaskID]bool{observed["acme"][0].ID: true, observed["acme"][1].ID: true}); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(filepath.Dir(stale))
		if err != nil || len(entries) != 2 {
			t.Errorf("left: %v %v", entries, err)
		}
		info, err := os.Stat(filepath.Dir(stale))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v %v", info.Mode(), err)
		}
	})
}

func TestAgentTellsNothingTwice(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		m, s := newMachine(), newServer()
		s.order(assign(shop()))
		first := boot(t, m, s, dir)
		ready := running(t, s, 1).Ready
		first.kill()
		events := s.heard()
		time.Sleep(time.Minute)
		boot(t, m, s, dir)
		time.Sleep(time.Minute)
		if st := s.of("acme"); st.Ready == nil || !st.Ready.Equal(*ready) {
			t.Errorf("ready at %v, was %v", st.Ready, ready)
		}
		if now := s.heard(); now != events {
			t.Errorf("told again: %s", now)
		}
	})
}

func TestProberCountsAsComposeDoes(t *testing.T) {
	start := time.Unix(0, 0)
	for name, c := range map[string]struct {
		h    bulkhead.Health
		most time.Duration // until it is unhealthy
	}{
		"no start period":    {bulkhead.Health{Interval: 30 * time.Second, Retries: 3}, 90 * time.Second},
		"short start period": {bulkhead.Health{Interval: 30 * time.Second, Retries: 3, StartPeriod: time.Second}, 90 * time.Second},
		"long start period":  {bulkhead.Health{Interval: 10 * time.Second, Retries: 2, StartPeriod: time.Minute}, 70 * time.Second},
		"start interval":     {bulkhead.Health{Interval: 10 * time.Second, Retries: 2, StartPeriod: time.Minute, StartInterval: time.Second}, 70 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			p := prober{h: c.h, started: start, health: bulkhead.HealthStarting}
			var at time.Duration
			for ; p.health == bulkhead.HealthStarting; at += time.Second {
				p.result(false, "no", start.Add(at))
			}
			if at -= time.Second; at != c.most {
				t.Errorf("unhealthy after %s, want %s", at, c.most)
			}
		})
	}
}
