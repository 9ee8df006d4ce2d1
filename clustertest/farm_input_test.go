package clustertest

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// wrongFarmInput: one line each, and nothing is changed by it.
func wrongFarmInput(t *testing.T, f *trio) {
	s1 := f.servers[0]
	stranger := f.Machine("x1", "agent", "--containerd", "private")
	before := s1.Run("node", "list", "-o", "json") + s1.Run("server", "list", "-o", "json")
	used := s1.Token("node")
	revoked, server := s1.Token("node"), s1.Token("server")
	s1.Run("token", "revoke", revoked.ID)
	short := s1.Token("node", "--valid", "1s")
	time.Sleep(1100 * time.Millisecond) // that long it is valid
	good := s1.Token("node")

	lines := func(what, want string, args ...string) {
		t.Helper()
		out, code := stranger.Try(append(slices.Clone(stranger.args), args...)...)
		out = strings.TrimSpace(out)
		first, rest, _ := strings.Cut(out[strings.Index(out+"\nbulkhead: ", "bulkhead: "):], "\n")
		if code == 0 || !strings.Contains(first, want) || rest != "" && !strings.HasPrefix(rest, "hint: ") {
			t.Errorf("%s: exit code %d, %q is not in\n%s", what, code, want, out)
		}
	}
	join := []string{"--join", good.Join}
	with := func(token string, more ...string) []string {
		return append(append(slices.Clone(join), "--token", token), more...)
	}
	lines("no token", "joining needs a token", join...)
	lines("no farm", "an agent needs a farm to join")
	lines("an operator's token", "operator's token", with("bh_x")...)
	lines("half a token", "no token for joining", with(good.Token[:40])...)
	lines("a revoked token", "not known here", with(revoked.Token)...)
	lines("a token that ran out", "ran out", with(short.Token)...)
	lines("a server's token", "is for a server", with(server.Token)...)
	lines("a name that is taken", "a node n1 is in the farm already", with(good.Token, "--node", "n1")...)
	lines("a label that is none", "is not NAME=VALUE", with(good.Token, "--label", "ssd")...)
	lines("a region that is none", "region", with(good.Token, "--region", "eu west")...)
	bound := s1.Token("node", "--region", "eu", "--label", "disk=ssd")
	lines("another region and label than the token's", "the token says region eu, label disk=ssd, and x1 says region us, label disk=hdd", with(bound.Token, "--region", "us", "--label", "disk=hdd")...)
	lines("no server there", "no server answers", "--join", f.net+".99:7071", "--token", good.Token)
	lines("the wrong port", "no server answers", "--join", s1.IP+":7079", "--token", good.Token)

	other := New(t) // another farm
	other.Up("--advertise", f.net+".254", "--node-api", f.net+".254:7171", "--peer", f.net+".254:7172", "--hop", f.net+".254:7173")
	lines("a server of another farm", "of another farm than the token", "--join", f.net+".254:7171", "--token", good.Token)

	// A token works once: the second machine is refused.
	second := f.Machine("x2", "agent", "--containerd", "private")
	second.Start("--join", used.Join, "--token", used.Token)
	f.ready("x2")
	lines("a used token", "was used already, by x2", with(used.Token)...)
	second.Stop()
	s1.Run("node", "remove", "x2")
	if after := s1.Run("node", "list", "-o", "json") + s1.Run("server", "list", "-o", "json"); after != before {
		t.Errorf("wrong input changed something:\n%s\nwas\n%s", after, before)
	}
	if out, code := s1.Try("token", "revoke", "nothere"); code != 3 {
		t.Errorf("revoking nothing: exit code %d, %s", code, out)
	}
}
