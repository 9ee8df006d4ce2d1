package auth

import (
	"math"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	mostFailures = 20              // in a row that get an answer of their own
	failurePause = 3 * time.Second // then one each
	mostTracked  = 4096            // addresses
	forgetAfter  = mostFailures * failurePause
)

// attempts counts failures by address. It protects the log and the processor; a
// token of 256 bits can not be guessed anyway. The zero value is ready.
type attempts struct {
	mu sync.Mutex // guards what follows
	by map[netip.Prefix]*failures
}

// failures is a bucket that fills by one each failure and leaks by one each
// failurePause.
type failures struct {
	level float64
	since time.Time // when level was right
	over  bool      // the last one was too many
}

// failed counts a failure. A wait of zero means that it may be answered; else
// it is how long to, and first tells that it is the first one too many.
func (a *attempts) failed(address string, now time.Time) (wait time.Duration, first bool) {
	network := networkOf(address)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[netip.Prefix]*failures{}
	}
	f := a.by[network]
	if f == nil {
		a.makeRoomLocked(now)
		f = &failures{since: now}
		a.by[network] = f
	}
	f.level = max(0, f.level-float64(now.Sub(f.since))/float64(failurePause))
	f.since = now
	if f.level+1 > mostFailures {
		first, f.over = !f.over, true
		return time.Duration((f.level + 1 - mostFailures) * float64(failurePause)), first
	}
	f.level++
	f.over = false
	return 0, false
}

func (a *attempts) makeRoomLocked(now time.Time) {
	if len(a.by) < mostTracked {
		return
	}
	for network, f := range a.by {
		if now.Sub(f.since) >= forgetAfter {
			delete(a.by, network)
		}
	}
	for network := range a.by { // still full: forget anybody, some at once
		if len(a.by) <= mostTracked/8*7 {
			return
		}
		delete(a.by, network)
	}
}

// networkOf is the address, or the /64 of an IPv6 address: who has one of those
// has all.
func networkOf(address string) netip.Prefix {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	network, _ := ip.Prefix(bits) // bits are right
	return network
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))) }
