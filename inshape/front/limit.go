package front

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"inshape/frame"
)

// limit counts attempts by who makes them, in windows of time.
type limit struct {
	most   int
	window time.Duration

	mu     sync.Mutex
	counts map[string]*count // guarded by mu
}

type count struct {
	began time.Time
	n     int
}

// maxCounts bounds what a limit remembers. Whoever makes it forget spends far
// more than it saves them.
const maxCounts = 100_000

// take counts an attempt. If there were too many already it tells how long to wait.
func (l *limit) take(who string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.counts[who]
	if c == nil || now.Sub(c.began) >= l.window {
		if len(l.counts) >= maxCounts {
			for key, old := range l.counts {
				if now.Sub(old.began) >= l.window {
					delete(l.counts, key)
				}
			}
			if len(l.counts) >= maxCounts {
				clear(l.counts)
			}
		}
		c = &count{began: now}
		l.counts[who] = c
	}
	if c.n >= l.most {
		return c.began.Add(l.window).Sub(now)
	}
	c.n++
	return 0
}

// forgive takes back what take counted.
func (l *limit) forgive(who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.counts[who]; c != nil && c.n > 0 {
		c.n--
	}
}

// limits are how often what may be tried that gives something away.
type limits struct {
	guess   *limit // an account's password, from one address
	account *limit // an account's password, from anywhere
	address *limit // any password, from one address
	signUp  *limit // new accounts, from one address
}

func newLimits() limits {
	of := func(most int, window time.Duration) *limit {
		return &limit{most: most, window: window, counts: map[string]*count{}}
	}
	return limits{
		guess: of(8, 15*time.Minute), account: of(100, 15*time.Minute),
		address: of(60, 15*time.Minute), signUp: of(10, time.Hour),
	}
}

// password counts an attempt at the password of an account. right takes it back.
func (l limits) password(r *http.Request, email string) (right func(), err error) {
	now, from := time.Now(), clientAddress(r)
	wait := max(l.address.take(from, now), l.account.take(email, now), l.guess.take(from+" "+email, now))
	if wait > 0 {
		return nil, tooOften(wait)
	}
	return func() {
		l.address.forgive(from)
		l.account.forgive(email)
		l.guess.forgive(from + " " + email)
	}, nil
}

func tooOften(wait time.Duration) error {
	return frame.NewProblem(http.StatusTooManyRequests, "too-many-attempts", "too many attempts").
		Advise("Try again in %d minutes.", int(wait/time.Minute)+1)
}

// clientAddress is where a request comes from: what the gateway before us noted
// last, if there is one on a private network, else who is connected. Of IPv6 it
// is the network, which one customer has as a whole.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if address.Unmap().IsPrivate() || address.Unmap().IsLoopback() {
		noted := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		if last, err := netip.ParseAddr(strings.TrimSpace(noted[len(noted)-1])); err == nil {
			address = last
		}
	}
	if address = address.Unmap(); address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return network.String()
		}
	}
	return address.String()
}
